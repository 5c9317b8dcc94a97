"""What a predictor counts, in prometheus_client's multi-process mode: each worker writes its own files, which
`serinus sidecar` adds up.

`METRICS` is the one table of all of it; the reference page is made from it. Values of features and predictions are
counted in the profile's fixed bins, so that drift is arithmetic on counters. A counter costs a microsecond, and a row
has dozens of values: rows are kept and counted together, twice a second, by a thread of their own. A worker that is
killed loses at most that half second of value counts; requests and errors are counted at once.

What answers are judged by has the label `traffic`: copies for a shadow are evidence about a version, but nobody got
their answers. Values of features have not: they say what came in, whoever got the answer, and are most of the series.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serinus.core.errors import Conflict
from serinus.core.prediction import LIVE, SHADOW, TRAFFIC, Traffic, by_traffic
from serinus.core.profile import Histogram, Profile, bin_numbers
from serinus.core.serving import ServingConfig
from serinus.core.signature import FIRST_CATEGORY, MISSING, UNKNOWN, Signature
from serinus.serve.answers import TOO_LATE

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_FLUSH_SECONDS = 0.5
_PENDING_ROWS = 4096
_MISSING_BIN = 0
_OTHER_BIN = 1
_FIRST_CATEGORY_BIN = 2


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family. Every one also has the labels `model` and `version`.

    What the `sidecar` counts itself is not in the workers' files.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    buckets: tuple[float, ...] = ()
    process: Literal["worker", "sidecar"] = "worker"


_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
# Six a decade, each at most 1.52 times the one before: a guard counts what is slower than one of them, exactly. Edges
# close enough to place any quantile within 5 % would be 190, for every version and kind of traffic.
_LATENCIES = (
    0.0005, 0.00075, 0.001, 0.0015, 0.0022, 0.0033, 0.005, 0.0075, 0.01, 0.015, 0.022, 0.033,
    0.05, 0.075, 0.1, 0.15, 0.22, 0.33, 0.5, 0.75, 1.0, 1.5, 2.2, 3.3, 5.0,
)  # fmt: skip
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

# `stream` is `predictions` or `outcomes`; outcomes have no version. They are from files, not from what workers counted.
_OF_SIDECAR: tuple[tuple[str, Literal["counter", "gauge"], str, str], ...] = (
    ("serinus_log_shipped_rows_total", "counter", "Rows at the log's destination.", "stream"),
    ("serinus_log_shipped_segments_total", "counter", "Files brought to the log's destination.", "stream"),
    ("serinus_log_shipped_bytes_total", "counter", "Bytes brought to the log's destination.", "stream"),
    (
        "serinus_log_discarded_rows_total", "counter",
        "Rows of files that were dropped, oldest first, because the spool reached its limit.", "stream",
    ),
    ("serinus_log_upload_failures_total", "counter", "Attempts to ship a file that failed.", "stream"),
    ("serinus_log_damaged_segments_total", "counter", "Files set aside, as they cannot be read.", "stream"),
    ("serinus_log_spool_rows", "gauge", "Rows in files that wait to be shipped, open ones included.", "stream"),
    ("serinus_log_spool_bytes", "gauge", "Bytes of files that wait to be shipped.", "stream"),
    ("serinus_log_spool_age_seconds", "gauge", "Age of the oldest file that waits to be shipped.", "stream"),
    (
        "serinus_quota_requests_total", "counter",
        "Requests that quotas allowed or refused, where the spec has quotas; of all versions together.", "result",
    ),
    ("serinus_outcomes_total", "counter", "Outcomes posted: new, repeated, corrected or invalid.", "result"),
    ("serinus_counting_info", "gauge", "1; the epoch names the period over which all these counters run.", "epoch"),
)  # fmt: skip
SIDECAR_METRICS = (
    *(Metric(name, kind, text, (label,), process="sidecar") for name, kind, text, label in _OF_SIDECAR),
    Metric(
        "serinus_upstream_requests_total", "counter",
        "Attempts of the front door at a version, by what came back: ok, error (5xx), none (no answer), or unavailable "
        "(dead or full: the request went to the other version, or was refused).", ("traffic", "result"),
        process="sidecar",
    ),
    Metric(
        "serinus_routed_requests_total", "counter",
        "Requests that the split by weight gave to a version, whoever answered. Without those that named a version.",
        process="sidecar",
    ),
    Metric("serinus_door_up", "gauge", "1 while the front door tells what it counted, else 0.", process="sidecar"),
)  # fmt: skip

METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "serinus_requests_total", "counter",
            "Requests answered, by HTTP status; 504: dropped, as their deadline had passed.", ("code", "traffic"),
        ),
        Metric("serinus_rows_total", "counter", "Rows answered, by result: ok or failed.", ("result", "traffic")),
        Metric(
            "serinus_request_duration_seconds", "histogram",
            "Time in the handler; all requests of a batch take as long as the batch, those past their deadline none.",
            ("traffic",),
            unit="seconds", buckets=_LATENCIES,
        ),
        Metric("serinus_batch_size", "histogram", "Requests in a batch.", unit="requests", buckets=_SIZES),
        Metric(
            "serinus_request_queue_seconds", "histogram",
            "Time from the front door to the handler: waiting for a worker, and for the batch to fill.",
            unit="seconds", buckets=_SECONDS,
        ),
        Metric(
            "serinus_feature_lookup_seconds", "histogram", "Time of a batch's reads of the online store.",
            unit="seconds", buckets=_SECONDS,
        ),
        Metric("serinus_feature_lookup_failures_total", "counter", "Reads of a feature view that gave no answer."),
        Metric("serinus_feature_cache_hits_total", "counter", "Distinct keys of a batch found in the cache."),
        Metric("serinus_feature_cache_misses_total", "counter", "Distinct keys of a batch read from the store."),
        Metric(
            "serinus_feature_missing_total", "counter",
            "Rows without usable values of a view: absent, early (known only later), unavailable.",
            ("view", "reason", "traffic"),
        ),
        Metric(
            "serinus_feature_stale_total", "counter", "Rows whose values of a view were too old.", ("view", "traffic")
        ),
        Metric("serinus_feature_values_total", "counter", "Values served, by the profile's bins.", ("feature", "bin")),
        Metric(
            "serinus_prediction_values_total", "counter", "Probabilities served, by the profile's bins.",
            ("bin", "traffic"),
        ),
        Metric("serinus_model_info", "gauge", "1 for each model version that is loaded.", ("digest", "schema_digest")),
        Metric("serinus_log_rows_total", "counter", "Answered rows handed to the prediction log."),
        Metric(
            "serinus_log_dropped_rows_total", "counter",
            "Rows lost before they were in a file: sampled (on purpose), queue_full, disk_full, disk_error, invalid.",
            ("reason",),
        ),
        Metric("serinus_log_appended_rows_total", "counter", "Rows appended to segments of the prediction log."),
        Metric("serinus_log_appended_bytes_total", "counter", "Bytes appended to segments of the prediction log."),
        Metric("serinus_log_segments_total", "counter", "Segments of the prediction log that workers closed."),
        *SIDECAR_METRICS,
    )
}  # fmt: skip


def series(profile: Profile, views: int) -> int:
    """How many time series one worker's version of a model exposes at most, histogram buckets included."""
    values = sum(len(column.counts) for column in profile.columns)
    kinds = {name: len(TRAFFIC) if "traffic" in metric.labels else 1 for name, metric in METRICS.items()}
    histograms = sum(
        kinds[name] * (len(metric.buckets) + 3) for name, metric in METRICS.items() if metric.kind == "histogram"
    )
    predictions = len(profile.prediction.counts) if profile.prediction else 0
    codes, results, of_view, single, of_log = 7, 2, 4, 4, 9
    judged = predictions + codes + results + of_view * views
    return values + histograms + len(TRAFFIC) * judged + single + of_log


def configure(folder: Path) -> None:
    """Set up multi-process mode; call before anything imports prometheus_client (Feast does, with a folder of its own).

    Raises:
        Conflict: it was imported before, without multi-process mode or with another folder.
    """
    import sys

    if "prometheus_client" in sys.modules and os.environ.get(MULTIPROCESS_FOLDER) != str(folder):
        raise Conflict(
            "prometheus_client was imported before the folder of its metrics was known",
            hint=f"set {MULTIPROCESS_FOLDER}={folder} in the environment of the process",
        )
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[MULTIPROCESS_FOLDER] = str(folder)


class Telemetry:
    """The metrics of one model version in one worker."""

    def __init__(
        self, config: ServingConfig, signature: Signature, profile: Profile, registry: CollectorRegistry
    ) -> None:
        self._registry = registry
        self._common = (config.deployment.model.name, str(config.version))
        self._children: dict[tuple[str, ...], Any] = {}
        self._families = {
            metric.name: self._family(metric) for metric in METRICS.values() if metric.process == "worker"
        }
        self._values = ValueCounts(signature, profile)
        self._child("serinus_model_info", config.digest, signature.schema_digest).set(1)
        for view in signature.views:  # so that it shows how many there are, and that none of them was stale
            self._child("serinus_feature_stale_total", view.name, LIVE)
        self._stop = threading.Event()
        threading.Thread(target=self._flush_regularly, name="telemetry", daemon=True).start()

    def answered(self, codes: Sequence[int], seconds: float, copies: Sequence[bool] | None = None) -> None:
        """Count a batch's requests by the status each was answered with.

        Args:
            codes: one a request.
            seconds: the batch took.
            copies: which requests were copies for a shadow; None: none of them.
        """
        for traffic, own in by_traffic(codes, copies):
            for code in set(own):
                self._child("serinus_requests_total", str(code), traffic).inc(own.count(code))
            timely = len(own) - own.count(TOO_LATE)
            if timely:
                _observe(self._child("serinus_request_duration_seconds", traffic), seconds, timely)
        _observe(self._child("serinus_batch_size"), len(codes), 1)

    def waited(self, seconds: Sequence[float]) -> None:
        """Count how long each of a batch's requests waited."""
        histogram = self._child("serinus_request_queue_seconds")
        histogram._sum.inc(sum(seconds))
        for at, times in enumerate(np.bincount(np.searchsorted(histogram._upper_bounds, seconds)).tolist()):
            if times:
                histogram._buckets[at].inc(times)

    def rows(self, ok: int, failed: int, traffic: Traffic = LIVE) -> None:
        """Count a batch's rows."""
        self._add("serinus_rows_total", ok, "ok", traffic)
        self._add("serinus_rows_total", failed, "failed", traffic)

    def looked_up(self, seconds: float, hits: int, misses: int, failures: int) -> None:
        """Count one lookup."""
        _observe(self._child("serinus_feature_lookup_seconds"), seconds, 1)
        self._add("serinus_feature_cache_hits_total", hits)
        self._add("serinus_feature_cache_misses_total", misses)
        self._add("serinus_feature_lookup_failures_total", failures)

    def missing(self, view: str, reason: str, rows: int, traffic: Traffic = LIVE) -> None:
        """Count rows without usable values of a view."""
        self._add("serinus_feature_missing_total", rows, view, reason, traffic)

    def stale(self, view: str, rows: int, traffic: Traffic = LIVE) -> None:
        """Count rows whose values of a view were too old."""
        self._add("serinus_feature_stale_total", rows, view, traffic)

    def count(self, name: str, amount: int, *labels: str) -> None:
        """Add to a worker's counter of `METRICS`, from any thread."""
        self._add(name, amount, *labels)

    def served(self, rows: Rows) -> None:
        """Keep encoded rows and their predictions to be counted in bins."""
        if self._values.add(rows) >= _PENDING_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the counts of values that are pending."""
        features, predictions = self._values.take()
        for feature, bins in features.items():
            for position in np.flatnonzero(bins).tolist():
                self._add("serinus_feature_values_total", int(bins[position]), feature, str(position))
        for traffic, bins in predictions.items():
            for position in np.flatnonzero(bins).tolist():
                self._add("serinus_prediction_values_total", int(bins[position]), str(position), traffic)

    def close(self) -> None:
        """Stop the thread and write what is pending."""
        self._stop.set()
        self.flush()

    def _flush_regularly(self) -> None:
        while not self._stop.wait(_FLUSH_SECONDS):
            self.flush()

    def _family(self, metric: Metric) -> Any:
        import prometheus_client

        names = ("model", "version", *metric.labels)
        if metric.kind == "counter":
            return prometheus_client.Counter(metric.name, metric.help, names, registry=self._registry)
        if metric.kind == "gauge":
            return prometheus_client.Gauge(
                metric.name, metric.help, names, registry=self._registry, multiprocess_mode="livemax"
            )
        return prometheus_client.Histogram(
            metric.name, metric.help, names, registry=self._registry, buckets=metric.buckets
        )

    def _child(self, name: str, *labels: str) -> Any:
        """`labels()` costs three microseconds; a dictionary a tenth of one."""
        key = (name, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._families[name].labels(*self._common, *labels)
        return child

    def _add(self, name: str, amount: int, *labels: str) -> None:
        if amount:
            self._child(name, *labels).inc(amount)


def _observe(histogram: Any, value: float, times: int) -> None:
    """`times` observations of one value at the price of one: prometheus_client has no public way to say that."""
    histogram._sum.inc(value * times)
    histogram._buckets[bisect_left(histogram._upper_bounds, value)].inc(times)


class Rows(NamedTuple):
    """Encoded rows with their predictions. `copies` tells which were copies for a shadow; None: none of them."""

    numbers: NDArray[np.float32]
    categories: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    copies: NDArray[np.bool_] | None = None

    @property
    def marks(self) -> NDArray[np.bool_]:
        return np.zeros(len(self.probabilities), dtype=np.bool_) if self.copies is None else self.copies


def rows_by_traffic(copies: NDArray[np.bool_] | None) -> list[tuple[Traffic, Any]]:
    """How to pick each kind of traffic's rows from an array, for the kinds that there are."""
    if copies is None:
        return [(LIVE, slice(None))]
    return [(traffic, rows) for traffic, rows in ((LIVE, ~copies), (SHADOW, copies)) if rows.any()]


class ValueCounts:
    """Encoded rows that wait to be counted in the profile's bins."""

    def __init__(self, signature: Signature, profile: Profile) -> None:
        histograms = {histogram.name: histogram for histogram in profile.columns}
        self._numbers = [(column.name, histograms[column.name]) for column in signature.numbers]
        self._categories = [
            (
                column.name,
                _category_bins(column.categories, histograms[column.name]),
                len(histograms[column.name].counts),
            )
            for column in signature.categories
        ]
        self._prediction = profile.prediction
        self._lock = threading.Lock()
        self._pending: list[Rows] = []
        self._rows = 0

    def add(self, rows: Rows) -> int:
        """Keep rows; gives how many are waiting."""
        with self._lock:
            self._pending.append(rows)
            self._rows += len(rows.probabilities)
            return self._rows

    def take(self) -> tuple[dict[str, NDArray[np.int64]], dict[Traffic, NDArray[np.int64]]]:
        """Counts a bin of everything that waited: of values by feature, of predictions by traffic."""
        with self._lock:
            pending, self._pending, self._rows = self._pending, [], 0
        if not pending:
            return {}, {}
        numbers, categories, probabilities = (np.concatenate([each[at] for each in pending]) for at in range(3))
        features: dict[str, NDArray[np.int64]] = {}
        for position, (name, histogram) in enumerate(self._numbers):
            features[name] = _count_numbers(numbers[:, position], histogram)
        for position, (name, bins, width) in enumerate(self._categories):
            features[name] = np.bincount(bins[categories[:, position]], minlength=width)
        prediction = self._prediction
        if prediction is None:
            return features, {}
        copies = None if all(each.copies is None for each in pending) else [each.marks for each in pending]
        parts = rows_by_traffic(None if copies is None else np.concatenate(copies))
        return features, {traffic: _count_numbers(probabilities[rows], prediction) for traffic, rows in parts}


def _count_numbers(values: NDArray[Any], histogram: Histogram) -> NDArray[np.int64]:
    return np.bincount(bin_numbers(values, np.array(histogram.edges)), minlength=len(histogram.counts))


def _category_bins(known: tuple[str, ...], histogram: Histogram) -> NDArray[np.int64]:
    """The profile's bin of each of the signature's codes."""
    bins: Mapping[str, int] = {name: _FIRST_CATEGORY_BIN + at for at, name in enumerate(histogram.categories)}
    table = np.full(FIRST_CATEGORY + len(known), _OTHER_BIN, dtype=np.int64)
    table[MISSING] = _MISSING_BIN
    table[UNKNOWN] = _OTHER_BIN
    for at, name in enumerate(known):
        table[FIRST_CATEGORY + at] = bins.get(name, _OTHER_BIN)
    return table
