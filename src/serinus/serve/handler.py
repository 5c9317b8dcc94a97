"""The whole way of a batch of requests: read, check, look up, predict, count, answer. Knows nothing of TorchServe.

Requests that arrive together share one lookup and one forward pass and nothing else: what a row gets does not depend on
its neighbours. Should something fail that nobody foresaw, each request is tried again alone, so that one poisonous
request does not take the others' answers with it.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from serinus.core.dataset import EVENT_TIMESTAMP
from serinus.core.errors import IntegrityError, InvalidInput, NotFound
from serinus.core.inference import model_metadata
from serinus.core.prediction import RANDOM_BYTES, prediction_ids
from serinus.core.profile import Profile
from serinus.core.serving import ServingConfig
from serinus.core.signature import Signature
from serinus.serve import codec, rpc, telemetry
from serinus.serve.answers import TOO_LATE, Answer, Results, Writer
from serinus.serve.arrival import Raw, arrivals, copies_of
from serinus.serve.codec import Request
from serinus.serve.fields import Checked, RowError, Schema
from serinus.serve.freshness import State
from serinus.serve.lookup import LookedUp, Lookup
from serinus.serve.reader import OnlineSource
from serinus.serve.served import Origins, Tried, plain_rows

if TYPE_CHECKING:
    from serinus.serve.log import LogWriter

log = logging.getLogger(__name__)

MODEL = "model.pt2"
SIGNATURE = "signature.json"
PROFILE = "profile.json"
_WARM_UP_ROUNDS = 5
REQUEST_ID_HEADER = "x-request-id"
_MISSING_STATES = (State.ABSENT, State.EARLY, State.UNAVAILABLE)


Part = TypeVar("Part", bound=BaseModel)


class Model(Protocol):
    """What `engines.exported.load_exported` gives."""

    def probabilities(self, numbers: NDArray[np.float32], categories: NDArray[np.int64]) -> NDArray[np.float64]:
        """Probabilities of encoded rows; one row's does not depend on the others."""
        ...


@dataclass(slots=True)
class _Batch:
    """Rows of all requests, one after another. `starts` has each request's first row, and the end.

    `copies` tells which rows are copies for a shadow, None if none is. `tried` and `served` are there once a row has
    reached the model; they are counted and logged when all answers are written, as a batch that fails is tried again.
    `until` is when the last of its clients stops waiting.
    """

    requests: list[Request]
    starts: list[int]
    columns: Mapping[str, list[Any]]
    errors: dict[int, RowError] = field(default_factory=dict)
    stale: dict[int, list[str]] = field(default_factory=dict)
    copies: NDArray[np.bool_] | None = None
    tried: Tried | None = None
    served: telemetry.Rows | None = None
    until: float = math.inf

    @property
    def rows(self) -> int:
        return self.starts[-1]

    def place(self, row: int, name: str) -> str:
        at = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.requests[at].place(row - self.starts[at], name)


class Predictor:
    """One loaded model version."""

    def __init__(
        self,
        config: ServingConfig,
        signature: Signature,
        model: Model,
        lookup: Lookup,
        counts: telemetry.Telemetry | None,
    ) -> None:
        self.config = config
        self.signature = signature
        self.telemetry = counts
        self.log: LogWriter | None = None
        self._model = model
        self._lookup = lookup
        self._schema = Schema.of(signature, config.clock)
        self._writer = Writer(config.deployment.model.name, config.version)
        self._description = rpc.Description(self._writer.model, self._writer.version, model_metadata(signature))
        self._numbers = [column.name for column in signature.request_columns if column.kind == "number"]
        self._categories = [column.name for column in signature.request_columns if column.kind == "category"]

    @classmethod
    def load(cls, config: ServingConfig, model_dir: Path) -> Predictor:
        """Load an unpacked model archive, warm up, and begin to count.

        Raises:
            NotFound: a file of the archive, or something in the feature store, does not exist.
            IntegrityError: a file of the archive is damaged.
            InvalidInput: the feature store does not have what the model takes.
        """
        telemetry.configure(config.metrics_dir)  # before Feast brings in prometheus_client
        import torch
        from prometheus_client import CollectorRegistry

        from serinus.engines.exported import load_exported

        torch.set_num_threads(1)  # workers share the cores; more threads for so small a model only get in the way
        signature = _read(model_dir / SIGNATURE, Signature)
        profile = _read(model_dir / PROFILE, Profile)
        model = load_exported(model_dir / MODEL)
        predictor = cls(config, signature, model, Lookup(signature, config, online_source(config, signature)), None)
        predictor.warm_up()
        predictor.telemetry = telemetry.Telemetry(config, signature, profile, CollectorRegistry())
        if config.logged and config.spool_dir is not None:
            from serinus.serve.log import LogWriter

            predictor.log = LogWriter(config, signature, config.spool_dir, predictor.telemetry)
        series = telemetry.series(profile, len(signature.views))
        log.info("model %s version %d is ready; at most %d series", signature.model, config.version, series)
        return predictor

    def handle(self, raws: Sequence[Raw]) -> list[Answer]:
        """One answer for each request, in order; raises nothing."""
        arrived, start = time.time(), time.perf_counter()
        came = arrivals(raws)
        until = came.until
        late = {at for at, deadline in enumerate(until) if deadline <= arrived}
        if late:
            timely = [at for at in range(len(raws)) if at not in late]
            given = dict(zip(timely, self._try([raws[at] for at in timely], [until[at] for at in timely]), strict=True))
            answers = [given[at] if at in given else self._too_late(raw) for at, raw in enumerate(raws)]
        else:
            answers = self._try(raws, until)
        counted = [at for at, answer in enumerate(answers) if not answer.probe]
        if self.telemetry is not None and counted:
            copies = copies_of([raws[at] for at in counted])
            self.telemetry.answered([answers[at].status for at in counted], time.perf_counter() - start, copies)
            waited = came.waits(arrived)
            if waited:
                self.telemetry.waited(waited)
        return answers

    def warm_up(self) -> None:
        """Answer made-up rows, uncounted, so that the first real request is as fast as the hundredth."""
        kinds = {name: 0 if dtype.lower().startswith("int") else "" for name, dtype in self.signature.join_keys.items()}
        row = kinds | {EVENT_TIMESTAMP: "2000-01-01T00:00:00Z"}
        body = {
            "inputs": [
                {
                    "name": name,
                    "shape": [1],
                    "datatype": "BYTES" if isinstance(value, str) else "INT64",
                    "data": [value],
                }
                for name, value in row.items()
            ]
        }
        for _ in range(_WARM_UP_ROUNDS):
            self._answer([Raw({codec.PROTOCOL_HEADER: "v2"}, body)])

    def close(self) -> None:
        """Stop threads and write what is pending."""
        self._lookup.close()
        if self.log is not None:
            self.log.close()
        if self.telemetry is not None:
            self.telemetry.close()

    def _try(self, raws: Sequence[Raw], until: Sequence[float]) -> list[Answer]:
        if not raws:
            return []
        try:
            return self._answer(raws, max(until))
        except Exception:  # the edge of the process: see the module's docstring
            log.exception("a batch of %d requests failed; trying each alone", len(raws))
            return [self._alone(raw, deadline) for raw, deadline in zip(raws, until, strict=True)]

    def _too_late(self, raw: Raw) -> Answer:
        """For a request that nobody waits for any more: the front door has answered it already."""
        probe = rpc.method_of(raw.headers) not in (None, rpc.INFER)
        text = "the request's deadline passed while it waited for its turn"
        return replace(self._writer.failure(codec.protocol_of(raw.headers), TOO_LATE, text), probe=probe)

    def _alone(self, raw: Raw, until: float) -> Answer:
        try:
            return self._answer([raw], until)[0]
        except Exception:
            log.exception("a request failed on its own")
            protocol = codec.protocol_of(raw.headers)
            return self._writer.failure(protocol, 500, "internal error; the predictor's log has it")

    def _answer(self, raws: Sequence[Raw], until: float = math.inf) -> list[Answer]:
        """Answers to requests of which some client waits for `until`."""
        parsed = [self._parse(raw) for raw in raws]
        whole = [(raw, request) for raw, request in zip(raws, parsed, strict=True) if isinstance(request, Request)]
        requests = [request for _, request in whole]
        batch = _join(requests, self._schema)
        batch.until = until
        copies = copies_of([raw for raw, _ in whole])
        if copies is not None:
            batch.copies = np.repeat(np.array(copies), [request.rows for request in requests])
        results = iter(self._predict(batch) if requests else [])
        answers = [
            self._writer.write(request, next(results)) if isinstance(request, Request) else request
            for request in parsed
        ]
        self._count(batch)
        if self.log is not None and batch.tried is not None:
            names = [codec.lowered(raw.headers).get(REQUEST_ID_HEADER) for raw, _ in whole]
            origins = Origins(names, copies or [False] * len(whole))
            self.log.add(batch.tried.served(origins, batch.starts, batch.errors))
        return answers

    def _parse(self, raw: Raw) -> Request | Answer:
        try:
            method = rpc.method_of(raw.headers)
            if method is not None and method != rpc.INFER:
                return Answer(200, rpc.HEADERS, self._description.answer(method, raw.body), probe=True)
            request = codec.parse(raw.headers, raw.body, self._schema, self.config.maximum_rows)
            if request.target is not None:
                self._description.require(*request.target)
            return request
        except (InvalidInput, NotFound) as error:
            return self._writer.failure(codec.protocol_of(raw.headers), rpc.http_status(error), str(error))

    def _predict(self, batch: _Batch) -> list[Results]:
        checked = self._schema.check(batch.columns, batch.rows, batch.place)
        batch.errors = checked.errors | batch.errors
        rows = (
            [row for row in range(batch.rows) if row not in batch.errors] if batch.errors else list(range(batch.rows))
        )
        probabilities = np.full(batch.rows, np.nan)
        columns: dict[str, NDArray[Any]] = {}
        if rows:
            columns = self._columns(batch, checked, rows)
            probabilities[rows] = self._run(batch, rows, columns)
        return self._split(batch, rows, probabilities, columns)

    def _columns(self, batch: _Batch, checked: Checked, rows: list[int]) -> dict[str, NDArray[Any]]:
        """The signature's columns of `rows`; notes which of them are stale, or rejected for what the store has."""
        moments = checked.moments[rows]
        if self.config.clock == "wall":
            moments = np.full(len(rows), time.time_ns() // 1000, dtype=np.int64)
        given = checked.columns
        if len(rows) < batch.rows:
            given = {name: [values[row] for row in rows] for name, values in given.items()}
        looked = self._look_up(given, moments, batch.until)
        batch.errors |= {rows[at]: error for at, error in looked.errors.items()}
        batch.stale = {rows[at]: views for at, views in looked.stale.items()}
        numbers = {name: np.array(given[name], dtype=np.float64) for name in self._numbers}  # None becomes NaN
        categories = {name: np.array(given[name], dtype=object) for name in self._categories}
        columns = looked.columns | numbers | categories
        batch.tried = Tried(rows, given, moments, looked, columns)
        return columns

    def _look_up(self, columns: Mapping[str, list[Any]], moments: NDArray[np.int64], until: float) -> LookedUp:
        start = time.perf_counter()
        looked = self._lookup.read(columns, moments, until - time.time())
        if self.telemetry is not None:
            seconds = time.perf_counter() - start
            self.telemetry.looked_up(seconds, looked.cache_hits, looked.cache_misses, looked.failed_reads)
        return looked

    def _count(self, batch: _Batch) -> None:
        """Count what became of the rows, and what the store had for them."""
        if self.telemetry is None or not batch.rows:
            return
        failed = np.zeros(batch.rows, dtype=np.bool_)
        failed[list(batch.errors)] = True
        for traffic, own in telemetry.rows_by_traffic(batch.copies):
            lost = int(np.count_nonzero(failed[own]))
            self.telemetry.rows(len(failed[own]) - lost, lost, traffic)
        if batch.tried is not None:
            copies = None if batch.copies is None else batch.copies[batch.tried.rows]
            for traffic, own in telemetry.rows_by_traffic(copies):
                for view, states in batch.tried.looked.states.items():
                    found = np.bincount(states[own], minlength=len(State))
                    for state in _MISSING_STATES:
                        self.telemetry.missing(view, state.name.lower(), int(found[state]), traffic)
                    self.telemetry.stale(view, int(found[State.STALE]), traffic)
        if batch.served is not None:
            self.telemetry.served(batch.served)

    def _run(self, batch: _Batch, rows: list[int], columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Probabilities of `rows`, NaN where a row has failed."""
        numbers, categories = self.signature.encode(columns)
        probabilities = self._model.probabilities(numbers, categories)
        for at in np.flatnonzero(~np.isfinite(probabilities)).tolist():
            batch.errors.setdefault(rows[at], RowError("the model gave no finite probability for this row", 500))
        good = np.ones(len(rows), dtype=np.bool_)
        if batch.errors:
            good = np.array([row not in batch.errors for row in rows])
        probabilities = np.where(good, probabilities, np.nan)
        some = slice(None) if good.all() else good
        copies = None if batch.copies is None else batch.copies[rows][some]
        batch.served = telemetry.Rows(numbers[some], categories[some], probabilities[some], copies)
        return probabilities

    def _split(
        self, batch: _Batch, rows: list[int], probabilities: NDArray[np.float64], columns: Mapping[str, NDArray[Any]]
    ) -> list[Results]:
        ids = prediction_ids(time.time_ns() // 1_000_000, os.urandom(RANDOM_BYTES * batch.rows))
        if batch.tried is not None:
            batch.tried.ids, batch.tried.probabilities = ids, probabilities
        asked = rows and any(request.served_features for request in batch.requests)
        served = plain_rows(self.signature.columns, rows, columns) if asked else {}
        results = []
        for request, start in zip(batch.requests, batch.starts, strict=False):
            end = start + request.rows
            result = Results(probabilities[start:end], ids[start:end])
            if batch.errors:
                result.errors = {row - start: error for row, error in batch.errors.items() if start <= row < end}
            if batch.stale:
                result.stale = {
                    row - start: views
                    for row, views in batch.stale.items()
                    if start <= row < end and row not in batch.errors
                }
            if request.served_features:
                result.served = [served.get(row, {}) for row in range(start, end)]
            results.append(result)
        return results


def online_source(config: ServingConfig, signature: Signature) -> Callable[[], OnlineSource]:
    """Opens the online store that the configuration names; each call makes new connections."""

    def connect() -> OnlineSource:
        from serinus.engines.feast import FeatureStore
        from serinus.engines.feast_redis import RedisRows

        store = FeatureStore.open(config.platform, config.feature_project)
        views, feast_config, online_store = store.online_views([view.name for view in signature.views])
        return OnlineSource(online_store, feast_config, views, RedisRows.of(online_store, feast_config))

    return connect


def _join(requests: list[Request], schema: Schema) -> _Batch:
    starts = [0]
    errors: dict[int, RowError] = {}
    for request in requests:
        if request.errors:
            errors |= {starts[-1] + row: error for row, error in request.errors.items()}
        starts.append(starts[-1] + request.rows)
    return _Batch(requests, starts, _columns(requests, schema), errors)


def _columns(requests: list[Request], schema: Schema) -> Mapping[str, list[Any]]:
    """Values of all requests' rows by field."""
    if len(requests) == 1:
        return requests[0].by_column(schema.fields)
    objects = [request.objects for request in requests if request.objects is not None]
    if len(objects) == len(requests):
        rows = list(chain.from_iterable(objects))
        return {name: [row.get(name) for row in rows] for name in schema.fields}
    each = [(request.by_column(schema.fields), request.rows) for request in requests]
    return {
        name: list(chain.from_iterable(columns.get(name) or [None] * rows for columns, rows in each))
        for name in schema.fields
    }


def _read(path: Path, kind: type[Part]) -> Part:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFound(f"the model archive has no {path.name}") from error
    except ValidationError as error:
        raise IntegrityError(f"{path.name} of the model archive cannot be read: {error}") from error
