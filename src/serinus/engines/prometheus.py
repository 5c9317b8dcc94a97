"""Prometheus' HTTP API: values at a moment, raw samples, and how far counters grew, whatever was restarted.

Its own `increase` extrapolates to the ends of its window, so that windows side by side do not add up to the whole. Here
increments of raw samples are added: any way of cutting time into windows gives the same total, and no total falls.
"""

from __future__ import annotations

import json
import math
import ssl
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from serinus.core.errors import EngineError, InvalidInput

if TYPE_CHECKING:
    import httpx

# A window so long that a scrape was missed in it, but not the one before it.
_LOOKBACK = timedelta(minutes=5)
# How long a series may have had no sample and still go on, not begin anew.
_MEMORY = timedelta(days=1)
_LONGEST_WINDOW = timedelta(minutes=15)


Key = tuple[tuple[str, str], ...]
"""A series' labels in order."""


class Value(NamedTuple):
    """A series' labels, its name among them as `__name__`, and a value."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Growth:
    """How far series grew. `unfounded`: none of them was known before, as when the server has lost its data."""

    values: tuple[Value, ...]
    unfounded: bool


@dataclass(frozen=True)
class Connection:
    """How Prometheus is reached.

    Attributes:
        url: such as `https://prometheus.example:9090`.
        token_file: holds a bearer token; read again for each question, as tokens are replaced.
        ca_file: of the authority that signed its certificate, where the system does not know it.
        seconds: how long an answer may take.
    """

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None
    seconds: float = 20.0


def growth(base: float | None, samples: Iterable[float]) -> float:
    """How far a counter grew over its samples in order. One that fell has begun anew, from nought.

    Args:
        base: its last value before them; None when it had none, and began within them.
        samples: its values.
    """
    total, last = 0.0, base or 0.0
    for value in samples:
        total += value - last if value >= last else value
        last = value
    return total


class Prometheus:
    """A server that answers to Prometheus' API."""

    def __init__(self, connection: Connection) -> None:
        """
        Raises:
            InvalidInput: its address is none.
        """
        import httpx

        try:
            url = httpx.URL(connection.url)
        except httpx.InvalidURL as error:
            raise InvalidInput("the address of Prometheus cannot be read", hint="such as http://host:9090") from error
        self._connection = connection
        # What may be shown of it.
        self._where = f"Prometheus at {url.copy_with(username=None, password=None, query=None)}"
        self._lock = threading.Lock()
        self._client: tuple[ssl.SSLContext, httpx.Client] | None = None

    def instant(self, query: str, at: datetime) -> list[Value]:
        """What an expression is at a moment: one value a series, or one without labels.

        Raises:
            EngineError: it cannot be had.
        """
        data = self._ask(query, at)
        if data["resultType"] == "scalar":
            return [Value({}, float(data["result"][1]))]
        if data["resultType"] != "vector":
            raise EngineError(f"the expression {query} is a {data['resultType']}, not one value a series")
        return [Value(each["metric"], float(each["value"][1])) for each in data["result"] if "value" in each]

    def growth(self, selector: str, since: datetime, until: datetime, lookback: timedelta = _LOOKBACK) -> Growth:
        """How far the counters that a selector names grew between two moments, the first one excluded.

        A series that has vanished grew as far as its last sample; one that appeared began at nought.

        Args:
            selector: of the series.
            since: the first moment.
            until: the second one.
            lookback: how far back the last sample before the first moment usually is. Where one is older, that costs
                another question.

        Raises:
            EngineError: it cannot be had.
        """
        total: dict[Key, Value] = {}
        unfounded = False
        for start, end in _windows(since, until):
            found = self._growth(selector, start, end, lookback)
            unfounded |= found.unfounded
            for labels, value in found.values:
                key = _key(labels)
                total[key] = Value(labels, value + (total[key].value if key in total else 0.0))
        return Growth(tuple(total.values()), unfounded)

    def _growth(self, selector: str, since: datetime, until: datetime, lookback: timedelta) -> Growth:
        seconds = math.ceil((until - since + lookback).total_seconds())
        data = self._ask(f"{selector}[{seconds}s]", until)
        border = since.timestamp()
        bases: dict[Key, float] = {}
        series: list[tuple[Mapping[str, str], list[float]]] = []
        for each in data["result"]:
            samples = [(float(time), float(value)) for time, value in each.get("values", ())]
            before = [value for time, value in samples if time <= border]
            if before:
                bases[_key(each["metric"])] = before[-1]
            series.append((each["metric"], [value for time, value in samples if time > border]))
        if any(values and _key(labels) not in bases for labels, values in series):
            bases = self._last(selector, since) | bases
        values = tuple(Value(labels, growth(bases.get(_key(labels)), samples)) for labels, samples in series)
        return Growth(values, not bases and any(samples for _, samples in series))

    def _last(self, selector: str, at: datetime) -> dict[Key, float]:
        found = self.instant(f"last_over_time({selector}[{math.ceil(_MEMORY.total_seconds())}s])", at)
        return {_key(each.labels): each.value for each in found}

    def _ask(self, query: str, at: datetime) -> dict[str, Any]:
        import httpx

        try:
            form = {"query": query, "time": f"{at.timestamp():.3f}", "timeout": f"{self._connection.seconds:g}s"}
            answer = self._connected().post("/api/v1/query", data=form, headers=self._headers())
            if answer.status_code in (401, 403):
                raise EngineError(f"{self._where} refuses with {answer.status_code}", hint="is the token right?")
            content = answer.json()
            if content["status"] != "success":
                raise EngineError(f"{self._where} refused {query}: {content.get('error')}")
            if content.get("warnings"):
                raise EngineError(f"{self._where} has only a part of {query}: {content['warnings'][0]}")
            data: dict[str, Any] = content["data"]
            return data
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise EngineError(f"{self._where} does not answer: {reason}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{self._where} gave no answer of its API: status {answer.status_code}") from error
        except OSError as error:
            raise EngineError(f"cannot read the token or the authority for {self._where}: {error}") from error

    def _headers(self) -> dict[str, str]:
        token = self._connection.token_file
        return {} if token is None else {"authorization": f"Bearer {token.read_text(encoding='utf-8').strip()}"}

    def _connected(self) -> httpx.Client:
        """A client that keeps its connections, as long as the same authority is to be trusted."""
        import httpx

        connection, authority = self._connection, self._connection.ca_file
        trust = _trust(authority, authority.stat().st_mtime_ns if authority is not None else 0)
        with self._lock:
            if self._client is None or self._client[0] is not trust:
                client = httpx.Client(base_url=connection.url, verify=trust, timeout=connection.seconds)
                weakref.finalize(self, client.close)
                self._client = (trust, client)
            return self._client[1]


@lru_cache(maxsize=4)
def _trust(authority: Path | None, changed: int) -> ssl.SSLContext:
    """Whom to trust: reading the system's authorities takes longer than a question. A file is read again once it has
    `changed`."""
    import httpx

    return httpx.create_ssl_context() if authority is None else ssl.create_default_context(cafile=authority)


def quoted(text: str) -> str:
    """A string in PromQL."""
    return json.dumps(text, ensure_ascii=False)


def _key(labels: Mapping[str, str]) -> Key:
    return tuple(sorted(labels.items()))


def _windows(since: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    while since < until:
        end = min(until, since + _LONGEST_WINDOW)
        yield since, end
        since = end
