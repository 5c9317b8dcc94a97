"""What metrics say of each version, as `core.evidence` counts it: one way, wherever the metrics were read.

Attempts and their failures are the front door's counts: it alone sees what a version did not answer, and it sees what
the handler answered too, so that nothing is counted twice. All else is the handler's.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from serinus.core.evidence import Arm
from serinus.core.prediction import LIVE, SHADOW
from serinus.core.profile import PREDICTION_EDGES

UPSTREAM = "serinus_upstream_requests_total"
ROUTED = "serinus_routed_requests_total"
ROWS = "serinus_rows_total"
MISSING = "serinus_feature_missing_total"
STALE = "serinus_feature_stale_total"
PREDICTIONS = "serinus_prediction_values_total"
LATENCY = "serinus_request_duration_seconds_bucket"
COUNTERS = (UPSTREAM, ROUTED, ROWS, MISSING, STALE, PREDICTIONS, LATENCY)
"""The counters that arms are made of."""
DOOR_UP = "serinus_door_up"
COUNTING = "serinus_counting_info"
_ANSWERED = "ok"
_NOT_LOOKED_UP = "invalid"
_PREDICTION_BINS = len(PREDICTION_EDGES) + 2


class Sample(NamedTuple):
    """One value of one series."""

    name: str
    labels: Mapping[str, str]
    value: float


class Arms(NamedTuple):
    """Totals by version: of live traffic, and of copies."""

    live: dict[int, Arm]
    shadow: dict[int, Arm]


def arms(samples: Iterable[Sample], model: str, versions: Sequence[int]) -> Arms:
    """Totals of each version from totals of series, or what they grew by from what series grew by.

    Series that differ in other labels (process, pod) are added up. A version without a series has counted nothing.
    """
    wanted = {str(version): version for version in versions}
    found: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in samples:
        version = wanted.get(sample.labels.get("version", ""))
        if version is not None and sample.name in COUNTERS and sample.labels.get("model") == model:
            found[sample.labels.get("traffic", LIVE), version].append(sample)
    views = {version: _views(found, version) for version in versions}
    made = {
        traffic: {version: _arm(found[traffic, version], views[version]) for version in versions}
        for traffic in (LIVE, SHADOW)
    }
    return Arms(made[LIVE], made[SHADOW])


def _views(found: Mapping[tuple[str, int], list[Sample]], version: int) -> int:
    """How many feature views a version reads: a worker shows each from its start, with nothing counted."""
    own = [sample for (_, number), samples in found.items() if number == version for sample in samples]
    return len({sample.labels["view"] for sample in own if sample.name in (MISSING, STALE)})


def _arm(samples: Sequence[Sample], views: int) -> Arm:
    by_name: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_name[sample.name].append(sample)
    edges, latency = _latency(by_name[LATENCY])
    return Arm(
        requests=_sum(by_name[UPSTREAM]),
        errors=_sum(each for each in by_name[UPSTREAM] if each.labels["result"] != _ANSWERED),
        latency_edges=edges,
        latency=latency,
        rows=_sum(each for each in by_name[ROWS] if each.labels["result"] != _NOT_LOOKED_UP),
        problems=_sum([*by_name[MISSING], *by_name[STALE]]) / max(1, views),
        predictions=_predictions(by_name[PREDICTIONS]),
        routed=_sum(by_name[ROUTED]),
    )


def _sum(samples: Iterable[Sample]) -> float:
    return math.fsum(sample.value for sample in samples)


def _latency(samples: Sequence[Sample]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Edges in seconds, and requests between them: Prometheus counts what is at or below each edge."""
    at_most: dict[float, float] = defaultdict(float)
    for sample in samples:
        at_most[float(sample.labels["le"])] += sample.value
    ordered = sorted(at_most)
    totals = [at_most[edge] for edge in ordered]
    counts = tuple(max(0.0, total - lower) for total, lower in zip(totals, [0.0, *totals], strict=False))
    return tuple(edge for edge in ordered if math.isfinite(edge)), counts


def _predictions(samples: Sequence[Sample]) -> tuple[float, ...]:
    if not samples:
        return ()
    counts = [0.0] * _PREDICTION_BINS
    for sample in samples:
        counts[int(sample.labels["bin"])] += sample.value
    return tuple(counts)


def added(before: Arm, more: Arm) -> Arm | None:
    """Totals and what they grew by; None where their bins are not the same."""
    if before.latency_edges and more.latency_edges and before.latency_edges != more.latency_edges:
        return None
    return Arm(
        requests=before.requests + more.requests,
        errors=before.errors + more.errors,
        latency_edges=more.latency_edges or before.latency_edges,
        latency=_each(before.latency, more.latency),
        rows=before.rows + more.rows,
        problems=before.problems + more.problems,
        predictions=_each(before.predictions, more.predictions),
        routed=before.routed + more.routed,
    )


def _each(before: tuple[float, ...], more: tuple[float, ...]) -> tuple[float, ...]:
    if not before or not more:
        return before or more
    return tuple(x + y for x, y in zip(before, more, strict=True))
