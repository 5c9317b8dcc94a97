"""Flagger's and Argo Rollouts' rules for a canary, as their sources define them, for many rollouts at once.

Read in fluxcd/flagger 1.44.0 (15bd6ad) and argoproj/argo-rollouts 1.10.0-rc1 (9f8d111). File and line are given beside
each rule. Both compare measurements over a short window of the canary alone with a fixed limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from serinus.core.simulation_traffic import Look, World

RUNNING, PROMOTED, TAKEN_BACK = 0, 1, 2
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Ends(NamedTuple):
    """How rollouts ended, [R], the canary's requests until then, and when, in seconds."""

    result: NDArray[np.int8]
    requests: Floats
    seconds: Floats


class Peer(Protocol):
    """A rule under a name."""

    @property
    def name(self) -> str: ...

    def run(self, world: World, rollouts: int, rng: np.random.Generator) -> Ends: ...


class Window(NamedTuple):
    """What Prometheus would say of a canary over one window: NaN where it took no request."""

    requests: Floats
    success: Floats
    p99: Floats


def histogram_quantile(counts: Floats, edges: tuple[float, ...], quantile: float) -> Floats:
    """Prometheus' function: linear inside a bucket, the highest finite edge above all of them, NaN without counts."""
    cumulative = np.cumsum(counts, axis=-1)
    total = cumulative[..., -1]
    rank = quantile * total
    bucket = (cumulative < rank[..., np.newaxis]).sum(axis=-1)
    ends = np.array([0.0, *edges, edges[-1]])
    at = np.minimum(bucket, len(edges))
    before = np.take_along_axis(np.concatenate([0 * cumulative[..., :1], cumulative], axis=-1), at[..., np.newaxis], -1)
    here = np.take_along_axis(counts, at[..., np.newaxis], -1)[..., 0]
    inside = (rank - before[..., 0]) / np.where(here > 0, here, 1.0)
    value = np.where(at == len(edges), edges[-1], ends[at] + (ends[at + 1] - ends[at]) * inside)
    return np.where(total > 0, value, np.nan)


@dataclass
class Course:
    """Rollouts under way, and the traffic of their canaries."""

    world: World
    rollouts: int
    rng: np.random.Generator
    now: float = 0.0
    result: NDArray[np.int8] = field(init=False)
    requests: Floats = field(init=False)
    ended: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.result = np.zeros(self.rollouts, dtype=np.int8)
        self.requests, self.ended = np.zeros(self.rollouts), np.zeros(self.rollouts)

    @property
    def running(self) -> Bools:
        return self.result == RUNNING

    def watch(self, seconds: float, weight: Floats) -> Window:
        """Let time pass, and measure over it."""
        full = np.ones(self.rollouts)
        look = Look(full * self.now, full * seconds, 0 * full, weight, 0 * full)
        served = self.world.draw(self.rng, look).canary
        self.now += seconds
        self.requests += np.where(self.running, served.requests, 0.0)
        with np.errstate(invalid="ignore"):
            success = 1 - served.errors / np.where(served.requests > 0, served.requests, np.nan)
        edges = self.world.workload.latency_edges
        return Window(served.requests, success, histogram_quantile(served.latency, edges, 0.99))

    def end(self, which: Bools, result: int) -> None:
        which = which & self.running
        self.result[which] = result
        self.ended[which] = self.now

    def ends(self) -> Ends:
        return Ends(self.result, self.requests, self.ended)


@dataclass(frozen=True)
class Flagger:
    """`step` to `maximum` percent, or `iterations` of a fixed weight (A/B testing, pkg/controller/scheduler.go:639).

    Each `interval` (scheduler.go:320-505): first, as many failed checks as `threshold` roll back (:430; the count is of
    the whole analysis, canary.go:655 makes it 1 where not given). Then the metrics, of the canary alone, over the last
    minute: a success rate below the least (:165-176 of scheduler_metrics.go), a p99 above the most (:200-211), or no
    value at all (:155, NaN included by providers/prometheus.go:170) is a failed check, and nothing advances. Else the
    weight rises by the step until it has reached its maximum, and then the canary is promoted (:570, :617).
    """

    name: str
    threshold: int = 10
    step: float = 0.05
    maximum: float = 0.5
    iterations: int = 0
    least_success: float = 0.99
    most_p99: float = 0.5
    interval: float = 60.0

    def run(self, world: World, rollouts: int, rng: np.random.Generator) -> Ends:
        course = Course(world, rollouts, rng)
        failed = np.zeros(rollouts, dtype=np.int64)
        # The first look only begins: with the first step's weight, or the first iteration (scheduler.go:449).
        weight, done = np.full(rollouts, self.step), np.ones(rollouts, dtype=np.int64)
        while course.running.any():
            window = course.watch(self.interval, weight)
            course.end(failed >= self.threshold, TAKEN_BACK)
            good = (window.success >= self.least_success) & (window.p99 <= self.most_p99)
            failed += np.where(good, 0, 1)
            last = done >= self.iterations if self.iterations else weight >= self.maximum - 1e-9
            course.end(good & last, PROMOTED)
            done += np.where(good, 1, 0)
            if not self.iterations:
                weight = np.where(good & ~last, np.minimum(weight + self.step, 1.0), weight)
        return course.ends()


@dataclass(frozen=True)
class Argo:
    """`steps` of percent and seconds, while an analysis measures each `interval` (analysis/analysis.go).

    `success >= least_success` is successful, everything else failed: a comparison with NaN, as of a rate over no
    requests, is false (utils/evaluate/evaluate.go:40). More than `failure_limit` failures abort (analysis.go:667). A
    query without any result makes an error of `result[0]`; it is repeated after ten seconds, and more than four in a
    row abort (:236, :682; utils/defaults/defaults.go:37). With `lenient`, the conditions are those that the
    documentation gives for empty results and NaN to be successful (docs/features/analysis.md:1274, :1385).
    When all steps are over the canary is promoted.
    """

    name: str
    steps: tuple[tuple[float, float], ...] = ((0.2, 600.0), (0.4, 600.0), (0.6, 600.0), (0.8, 600.0))
    least_success: float = 0.95
    failure_limit: int = 3
    error_limit: int = 4
    interval: float = 300.0
    lenient: bool = False

    def run(self, world: World, rollouts: int, rng: np.random.Generator) -> Ends:
        course = Course(world, rollouts, rng)
        failed = np.zeros(rollouts, dtype=np.int64)
        if not world.scenario.metrics and not self.lenient:
            course.now = self.interval + 10.0 * self.error_limit
            course.end(course.running, TAKEN_BACK)
        for weight, seconds in self.steps:
            for _ in range(round(seconds / self.interval)):
                if not course.running.any():
                    break
                window = course.watch(self.interval, np.full(rollouts, weight))
                good = window.success >= self.least_success
                failed += np.where(good | (self.lenient & (window.requests == 0)), 0, 1)
                course.end(failed > self.failure_limit, TAKEN_BACK)
        course.end(course.running, PROMOTED)
        return course.ends()


LOOKS = 200
_HELD = ((0.05, 60.0 * LOOKS),)

PEERS: tuple[Peer, ...] = (
    # docs/gitbook/usage/how-it-works.md:25-38.
    Flagger("Flagger, documented"),
    # The same with a limit that knows how fast the stable version is: 1.1 times its p99.
    Flagger("Flagger, p99 told", most_p99=0.088),
    # At 5 % for 200 looks, a minute apart.
    Flagger("Flagger, 5 of 200", threshold=5, iterations=LOOKS),
    Flagger("Flagger, 10 of 200", threshold=10, iterations=LOOKS),
    # docs/features/analysis.md:60-86.
    Argo("Argo, documented"),
    Argo("Argo, 0 of 200", _HELD, 0.99, failure_limit=0, interval=60.0),
    Argo("Argo, 3 of 200", _HELD, 0.99, failure_limit=3, interval=60.0),
    Argo("Argo, 3, lenient", _HELD, 0.99, failure_limit=3, interval=60.0, lenient=True),
)
