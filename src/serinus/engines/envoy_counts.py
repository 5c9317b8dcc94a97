"""What Envoy counts for a rollout: what became of each attempt at a version, and which version a request was meant for.

Envoy's own statistics tell results by share (the version that was meant): a retry hides the version that failed. Its
statistics logger counts attempts and requests by tags of ours. It does not see copies; these have a cluster of their
own, whose statistics are exact, as a copy is tried once. No tag holds anything that a client can choose.
"""

from __future__ import annotations

import http.client
import re
from collections import Counter
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from serinus.core.errors import EngineError
from serinus.core.prediction import LIVE, SHADOW, Traffic
from serinus.engines.envoy_door import COPIES, NAMED, SPLIT, TYPE
from serinus.engines.sockets import ask

Result = Literal["ok", "error", "none", "unavailable"]
"""`ok`: an answer below 500. `error`: one of 500 or more. `none`: no answer: no connection, a connection that broke, or
time that was up. `unavailable`: the version was known to be dead, or full, and what was meant for it went elsewhere or
was refused."""
RESULTS: tuple[Result, ...] = ("ok", "error", "none", "unavailable")
_PREFIX = "serinus"
_ATTEMPTS, _REQUESTS = "attempts", "requests"
_SERVER_ERROR = 500
_NO_ANSWER = 0


class Attempts(NamedTuple):
    """What an attempt was, and what became of it."""

    version: int
    traffic: Traffic
    result: Result


class DoorTotals(NamedTuple):
    """Since Envoy's start: attempts, and requests that the split gave to each version."""

    attempts: Counter[Attempts]
    routed: Counter[int]


def attempt_log() -> dict[str, Any]:
    """For Envoy's router, which logs each attempt as it ends."""
    return _log(_ATTEMPTS, {"route": "%ROUTE_NAME%", "version": "%UPSTREAM_HOST_NAME%", "code": "%RESPONSE_CODE%"})


def request_log() -> dict[str, Any]:
    """For Envoy's connection manager, which logs each request as it ends."""
    tags = {
        "route": "%ROUTE_NAME%",
        "share": "%UPSTREAM_CLUSTER%",
        "version": "%UPSTREAM_HOST_NAME%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    }
    return _log(_REQUESTS, tags)


def _log(name: str, tags: dict[str, str]) -> dict[str, Any]:
    stat = {"name": name, "tags": [{"name": tag, "value_format": value} for tag, value in tags.items()]}
    config = {
        "@type": TYPE + "extensions.access_loggers.stats.v3.Config",
        "stat_prefix": _PREFIX,
        "counters": [{"stat": stat, "value_fixed": 1}],
    }
    return {"name": "envoy.access_loggers.stats", "typed_config": config}


def read_totals(admin: Path, model: str) -> DoorTotals:
    """What Envoy has counted.

    Args:
        admin: the path of its admin socket.
        model: whose versions it is the door of.

    Raises:
        EngineError: it does not answer.
    """
    pattern = rf"^{_PREFIX}\.({_ATTEMPTS}|{_REQUESTS})\.|^cluster\.{re.escape(model)}-\d+{COPIES}\.upstream_rq_[1-5]xx$"
    try:
        text = ask(admin, "GET", f"/stats/prometheus?usedonly&filter={quote(pattern)}").decode()
    except (OSError, http.client.HTTPException) as error:
        raise EngineError(f"Envoy's admin API at {admin} does not answer: {error}") from error
    return parse_totals(text, model)


def parse_totals(text: str, model: str) -> DoorTotals:
    """The totals in a page of Envoy's statistics, in Prometheus' text format, whose parser adds `_total` to names."""
    from prometheus_client.parser import text_string_to_metric_families

    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    attempts: Counter[Attempts] = Counter()
    routed: Counter[int] = Counter()
    for name, labels, value in ((sample.name, sample.labels, int(sample.value)) for sample in samples):
        if name == f"envoy_{_PREFIX}_{_ATTEMPTS}_total":
            attempts += _attempts(labels, model, value)
        elif name == f"envoy_{_PREFIX}_{_REQUESTS}_total" and labels["route"] in (SPLIT, NAMED):
            share = _version(labels["share"], model)
            if share is None:
                continue  # it was refused before it came to any version
            if labels["route"] == SPLIT:
                routed[share] += value
            if not _tried(share, labels, model):
                attempts[Attempts(share, LIVE, "unavailable")] += value
        elif name == "envoy_cluster_upstream_rq_xx_total":
            attempts += _copies(labels, model, value)
    return DoorTotals(attempts, routed)


def _attempts(labels: dict[str, str], model: str, value: int) -> Counter[Attempts]:
    version = _version(labels["version"], model)
    if version is None or labels["route"] not in (SPLIT, NAMED):
        return Counter()
    code = int(labels["code"])
    result: Result = "none" if code == _NO_ANSWER else "error" if code >= _SERVER_ERROR else "ok"
    return Counter({Attempts(version, LIVE, result): value})


def _copies(labels: dict[str, str], model: str, value: int) -> Counter[Attempts]:
    version = _version(labels["envoy_cluster_name"], model)
    if version is None:
        return Counter()
    result: Result = "error" if labels["envoy_response_code_class"] == "5" else "ok"
    return Counter({Attempts(version, SHADOW, result): value})


def _tried(share: int, labels: dict[str, str], model: str) -> bool:
    """Whether a version was asked for what was its share; where there was a second attempt, the first was its own."""
    return _version(labels["version"], model) == share or labels["attempts"] not in ("0", "1")


def _version(name: str, model: str) -> int | None:
    """The version in the name of a cluster or a share."""
    found = re.fullmatch(rf"{re.escape(model)}-(\d+)(-.*)?", name)
    return int(found[1]) if found else None
