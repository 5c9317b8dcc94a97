"""Imagined services: how many requests come, how they end, and what a canary does worse.

Counts are drawn for many rollouts at once, from the distributions that the tests of `core.sequential` make no use of:
nothing here knows how a canary is judged. Requests are Poisson, may follow the hours of the day, and may stop; errors
and feature problems are independent given the rate, which an incident raises on both versions; latency is lognormal,
predicted probabilities are logit-normal, and the paired difference of losses is normal.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from math import erf, log, pi, sqrt
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from serinus.core.evidence import Frozen
from serinus.core.guards.reading import ArmCounts, Traffic
from serinus.core.profile import PREDICTION_EDGES
from serinus.core.sequential.verdict import Floats

Ints = NDArray[np.int64]
DAY = 86_400.0
LATENCY_EDGES = (
    0.0005, 0.00075, 0.001, 0.0015, 0.0022, 0.0033, 0.005, 0.0075, 0.01, 0.015, 0.022, 0.033, 0.05, 0.075, 0.1, 0.15,
    0.22, 0.33, 0.5, 0.75, 1.0, 1.5, 2.2, 3.3, 5.0,
)  # fmt: skip
"""The predictor's own buckets, in seconds."""
_Z99 = 2.3263478740408408
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Workload(Frozen):
    """What a service has to do, and how well its stable version does it.

    `rate` is in requests a second, on average over the day; `daily` how far its hours rise above and fall below. Times
    of latency are in seconds. `problems` is the share of rows with a feature missing or stale. Predicted probabilities
    have logits around `logit` with deviation `logit_spread`. `loss` and `loss_spread` are of each row's loss, and
    `difference_spread` is of the difference of both versions' losses on the same row.
    """

    rate: Positive = 10.0
    daily: Share = 0.0
    errors: Share = 0.005
    latency_median: Positive = 0.02
    latency_p99: Positive = 0.08
    latency_edges: tuple[float, ...] = LATENCY_EDGES
    problems: Share = 0.02
    logit: float = -1.2
    logit_spread: Positive = 1.0
    loss: Positive = 0.47
    loss_spread: Positive = 0.45
    difference_spread: Positive = 0.1
    label_delay: timedelta = timedelta(hours=6)
    labelled: Annotated[float, Field(ge=0, le=1)] = 1.0


class Change(Frozen):
    """What a canary does otherwise than the stable version; by default nothing.

    `errors` and `problems` are factors on rates, `latency_p99` on that quantile, the median staying. `logit` is added
    to every prediction's. `quality` is the mean difference of losses, `estimated` what of it shows before outcomes
    are known. `routed` is a factor on the odds by which requests reach the canary at all: a fault of the split.
    """

    errors: Positive = 1.0
    latency_p99: Positive = 1.0
    problems: Positive = 1.0
    logit: float = 0.0
    quality: float = 0.0
    estimated: float = 0.0
    routed: Positive = 1.0


class Incident(Frozen):
    """A time in which both versions err `errors` times as often."""

    errors: Positive = 20.0
    start: timedelta = timedelta(minutes=2)
    duration: timedelta = timedelta(minutes=30)


class Scenario(Frozen):
    """One case. `bad` says whether the canary ought to be taken back, as far as anyone could tell.

    Traffic stops for both after `stops`; without `metrics` nobody counts anything.
    """

    name: str
    change: Change = Change()
    incident: Incident | None = None
    stops: timedelta | None = None
    metrics: bool = True
    bad: bool = False


class Look(NamedTuple):
    """A stretch of time of each rollout, [R]: when it begins, in seconds since the rollout did; how long it is; the
    hour of the day at the rollout's start, in seconds; what share the canary answers, or gets copies of."""

    at: Floats
    seconds: Floats
    phase: Floats
    weight: Floats
    shadow: Floats

    @property
    def end(self) -> Floats:
        return self.at + self.seconds


def _normal(x: float) -> float:
    return 0.5 * (1 + erf(x / sqrt(2)))


def lognormal_shares(median: float, p99: float, edges: tuple[float, ...]) -> Floats:
    """Probability of each bucket between the edges, one more for those above."""
    spread = log(p99 / median) / _Z99
    below = np.array([0.0, *(_normal(log(edge / median) / spread) for edge in edges), 1.0])
    return np.diff(below)


def prediction_shares(logit: float, spread: float) -> Floats:
    """Probability of each bin of `core.profile`: none is missing."""
    below = [_normal((log(edge / (1 - edge)) - logit) / spread) for edge in PREDICTION_EDGES]
    return np.diff(np.array([0.0, 0.0, *below, 1.0]))


@dataclass(frozen=True)
class World:
    """A workload in one scenario. Latency buckets from `slow_from` on count as slow; a user's own rates, `queries` of
    them, are those of errors."""

    workload: Workload
    scenario: Scenario
    slow_from: int = 15
    queries: int = 0

    @cached_property
    def latencies(self) -> tuple[Floats, Floats]:
        """Probabilities of the latency buckets, of canary and stable version."""
        load = self.workload
        edges, p99 = load.latency_edges, load.latency_p99
        ours = lognormal_shares(load.latency_median, p99 * self.scenario.change.latency_p99, edges)
        return ours, lognormal_shares(load.latency_median, p99, edges)

    @cached_property
    def predictions(self) -> tuple[Floats, Floats]:
        """Probabilities of the prediction's bins, of canary and stable version."""
        load = self.workload
        ours = prediction_shares(load.logit + self.scenario.change.logit, load.logit_spread)
        return ours, prediction_shares(load.logit, load.logit_spread)

    @property
    def stops(self) -> float:
        """When traffic ends, in seconds."""
        return np.inf if self.scenario.stops is None else self.scenario.stops.total_seconds()

    def expected(self, start: Floats, end: Floats, phase: Floats) -> Floats:
        """Requests between two moments on average, [R]; none before the rollout began."""
        start, end = np.clip(start, 0.0, self.stops), np.clip(end, 0.0, self.stops)
        turn = 2 * pi / DAY
        swing = (np.cos(turn * (start + phase)) - np.cos(turn * (end + phase))) / turn
        return np.maximum(self.workload.rate * (end - start + self.workload.daily * swing), 0.0)

    def error_rate(self, look: Look) -> Floats:
        """The stable version's mean rate of errors in a look, [R]."""
        incident, base = self.scenario.incident, self.workload.errors
        if incident is None:
            return np.full(look.at.shape, base)
        start = incident.start.total_seconds()
        end = start + incident.duration.total_seconds()
        inside = np.clip(np.minimum(look.end, end) - np.maximum(look.at, start), 0.0, None) / look.seconds
        return np.asarray(base + inside * (min(base * incident.errors, 0.9) - base))

    def draw(self, rng: np.random.Generator, look: Look) -> Traffic:
        """New counts of both versions, [R]."""
        change = self.scenario.change
        requests = rng.poisson(self.expected(look.at, look.end, look.phase))
        copied = look.shadow > 0
        share = np.where(copied, look.shadow, look.weight)
        odds = change.routed * share
        reached = np.where(copied, share, odds / (1 - share + odds))
        ours = rng.binomial(requests, reached)
        theirs: Ints = np.where(copied, requests, requests - ours)
        errors = self.error_rate(look)
        canary = self._arm(rng, 0, ours, np.minimum(errors * change.errors, 0.95))
        stable = self._arm(rng, 1, theirs, errors)
        if not self.scenario.metrics:
            canary, stable = (ArmCounts(*(np.zeros_like(each) for each in arm)) for arm in (canary, stable))
        return Traffic(canary, stable, np.where(copied, 0.0, look.weight))

    def _arm(self, rng: np.random.Generator, arm: int, requests: Ints, error_rate: Floats) -> ArmCounts:
        """Counts of the canary (0) or of the stable version (1)."""
        problem_rate = self.workload.problems * (1.0 if arm else self.scenario.change.problems)
        errors = rng.binomial(requests, error_rate)
        answered = requests - errors
        latency = rng.multinomial(answered, self.latencies[arm])
        problems = rng.binomial(answered, min(problem_rate, 1.0))
        predictions = rng.multinomial(answered, self.predictions[arm])
        queries = np.repeat(np.stack([errors, requests], axis=-1)[..., np.newaxis, :], self.queries, axis=-2)
        counts = (
            requests, errors, latency[..., self.slow_from :].sum(axis=-1), latency, answered, problems, predictions,
            queries, requests,
        )  # fmt: skip
        return ArmCounts(*(np.asarray(each, dtype=np.float64) for each in counts))


def normal_sums(rng: np.random.Generator, rows: Floats, mean: float, spread: float) -> tuple[Floats, Floats]:
    """Sum and sum of squares of so many independent normal values, exactly, from two draws."""
    total = rows * mean + np.sqrt(rows) * spread * rng.standard_normal(rows.shape)
    about = np.where(rows > 1, rng.chisquare(np.maximum(rows - 1, 1)), 0.0)
    return total, total**2 / np.maximum(rows, 1) + spread**2 * about


def gamma_sums(rng: np.random.Generator, rows: Floats, mean: float, spread: float) -> tuple[Floats, Floats]:
    """Sum of so many independent values above zero, such as losses, and their sum of squares, nearly."""
    shape = (mean / spread) ** 2
    total = rng.gamma(np.maximum(rows, 1) * shape, mean / shape) * (rows > 0)
    about = np.where(rows > 1, rng.chisquare(np.maximum(rows - 1, 1)), 0.0)
    return total, total**2 / np.maximum(rows, 1) + spread**2 * about
