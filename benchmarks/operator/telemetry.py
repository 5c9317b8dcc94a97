"""What pods would count, on one page a pod: each second of traffic is shared out by the weights of its route.

Both versions answer the same way: one request in two hundred fails, latencies and predictions are spread alike. So the
evidence is that of a healthy canary, in the series that a pod has, and grows as it would.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.operator.fleet import PREDICTIONS
from serinus.core.rollout import Shares
from serinus.serve.telemetry import METRICS

RATE = 200.0
"""Requests a second of a deployment."""
_FAILING = 0.005
_BUCKETS = METRICS["serinus_request_duration_seconds"].buckets
# Seconds that requests take, and how many of a hundred.
_LATENCIES = ((0.004, 50.0), (0.009, 40.0), (0.03, 9.0), (0.2, 1.0))
_VIEWS = ("origin", "destination", "carrier")
_AT_MOST = tuple((f"{edge}", sum(share for seconds, share in _LATENCIES if seconds <= edge) / 100) for edge in _BUCKETS)
_BINS = tuple((at, count / sum(PREDICTIONS)) for at, count in enumerate(PREDICTIONS))

Pod = tuple[str, str, int]
"""Namespace, model and version."""


@dataclass
class Counts:
    """Requests that pods have answered, by the shares that are in force. Fractions of requests count too."""

    _live: dict[Pod, float] = field(default_factory=dict)
    _shares: dict[tuple[str, str], tuple[Shares, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def route(self, namespace: str, model: str, shares: Shares | None) -> None:
        """Send requests by other shares from now on, or none any more."""
        with self._lock:
            self._count(namespace, model)
            if shares is None:
                self._shares.pop((namespace, model), None)
            else:
                self._shares[namespace, model] = (shares, time.monotonic())

    def page(self, pod: Pod) -> str:
        """A pod's metrics."""
        with self._lock:
            self._count(*pod[:2])
            requests = self._live.get(pod, 0.0)
        return "\n".join(_lines(pod[1], pod[2], requests)) + "\n"

    def _count(self, namespace: str, model: str) -> None:
        found = self._shares.get((namespace, model))
        if found is None:
            return
        shares, since = found
        now = time.monotonic()
        requests = (now - since) * RATE
        self._shares[namespace, model] = (shares, now)
        weight = shares.weight / 100 if shares.canary is not None else 0.0
        for version, share in ((shares.stable, 1 - weight), (shares.canary, weight)):
            if version is not None:
                pod = (namespace, model, version)
                self._live[pod] = self._live.get(pod, 0.0) + requests * share


def _lines(model: str, version: int, requests: float) -> Iterator[str]:
    own = f'model="{model}",version="{version}"'
    failed = round(requests * _FAILING)
    answered = round(requests) - failed
    yield f'serinus_counting_info{{{own},epoch="1"}} 1'
    yield f"serinus_door_up{{{own}}} 1"
    yield f"serinus_routed_requests_total{{{own}}} {answered + failed}"
    for traffic, scale in (("live", 1), ("shadow", 0)):
        of = f'{own},traffic="{traffic}"'
        yield f'serinus_upstream_requests_total{{{of},result="ok"}} {answered * scale}'
        for result in ("error", "none", "unavailable"):
            yield f'serinus_upstream_requests_total{{{of},result="{result}"}} {failed * scale * (result == "error")}'
        yield f'serinus_rows_total{{{of},result="ok"}} {answered * scale}'
        yield f'serinus_rows_total{{{of},result="failed"}} 0'
        for view in _VIEWS:
            yield f'serinus_feature_stale_total{{{of},view="{view}"}} 0'
            for reason in ("absent", "early", "unavailable"):
                yield f'serinus_feature_missing_total{{{of},view="{view}",reason="{reason}"}} 0'
        for at, share in _BINS:
            yield f'serinus_prediction_values_total{{{of},bin="{at}"}} {round(answered * scale * share)}'
        for edge, share in (*_AT_MOST, ("+Inf", 1.0)):
            yield f'serinus_request_duration_seconds_bucket{{{of},le="{edge}"}} {round(answered * scale * share)}'
