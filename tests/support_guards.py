"""Made-up services and their traffic, for tests of guards: an interval of canary and stable version, R at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from serinus.core.evidence import Arm, Interval
from serinus.core.guards.panel import Panel, States
from serinus.core.guards.reading import ArmCounts, Traffic
from serinus.core.spec.rollout import Rollout

# 1.2 is two buckets, so that the tolerance of latency falls on an edge.
EDGES = tuple(float(0.004 * 1.2 ** (step / 2)) for step in range(44))
T0 = datetime(2026, 3, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
PREDICTIONS = (0.0, *(0.05,) * 20)


def latencies(scale: float = 1.0) -> tuple[float, ...]:
    """The share of requests in each bucket: log-logistic, median 20 ms, p99 93 ms."""
    below = 1 / (1 + (np.array(EDGES) / (0.02 * scale)) ** -3.0)
    return tuple(np.diff(np.concatenate([[0.0], below, [1.0]])).tolist())


def more_slow(shares: tuple[float, ...], first: int, times: float) -> tuple[float, ...]:
    """Latencies with `times` the share from bucket `first` on, the difference put just there."""
    moved = (times - 1) * sum(shares[first:])
    fastest = int(np.argmax(shares))
    changed = list(shares)
    changed[fastest], changed[first] = changed[fastest] - moved, changed[first] + moved
    return tuple(changed)


@dataclass(frozen=True)
class Service:
    """How one version behaves."""

    errors: float = 0.005
    latency: tuple[float, ...] = latencies()
    problems: float = 0.02
    predictions: tuple[float, ...] = PREDICTIONS
    query: float = 0.03


STABLE = Service()


def counts(rng: np.random.Generator, requests: NDArray[np.int64], service: Service, slow_above: int) -> ArmCounts:
    """One interval of one version that got `requests`, [R]."""
    latency = rng.multinomial(requests, service.latency).astype(float)
    queries = np.stack([rng.binomial(requests, service.query), requests], axis=-1)[..., np.newaxis, :]
    return ArmCounts(
        requests=requests.astype(float),
        errors=rng.binomial(requests, service.errors).astype(float),
        slow=latency[..., slow_above + 1 :].sum(axis=-1),
        latency=latency,
        rows=requests.astype(float),
        problems=rng.binomial(3 * requests, service.problems) / 3,
        predictions=rng.multinomial(requests, service.predictions).astype(float),
        queries=queries.astype(float),
        routed=requests.astype(float),
    )


@dataclass(frozen=True)
class World:
    """Two versions and the requests of an interval."""

    canary: Service = STABLE
    stable: Service = STABLE
    requests: int = 1000
    weight: float = 0.05

    def at(self, weight: float) -> World:
        return replace(self, weight=weight)

    def traffic(self, rng: np.random.Generator, rollouts: int, slow_above: int) -> Traffic:
        """One interval of as many rollouts."""
        ours = rng.binomial(self.requests, self.weight, rollouts)
        return Traffic(
            counts(rng, ours, self.canary, slow_above),
            counts(rng, self.requests - ours, self.stable, slow_above),
            np.asarray(self.weight),
        )


def panel(rollout: Rollout, *, shadow: bool = False) -> Panel:
    """The panel of such services, with what the version was expected to predict."""
    held_out = tuple(1000 * share for share in PREDICTIONS)
    return Panel.of(rollout, shadow=shadow, expected=held_out, latency_edges=EDGES)


def one(traffic: Traffic, rollout: int) -> Traffic:
    """The traffic of one of many rollouts, of shape ()."""

    def pick(arm: ArmCounts) -> ArmCounts:
        return ArmCounts(*(np.asarray(value[rollout]) for value in arm))

    return Traffic(pick(traffic.canary), pick(traffic.stable), traffic.weight)


def interval(canary: Arm, stable: Arm) -> Interval:
    """Both versions' arms within a minute."""
    return Interval(since=T0, until=T0 + MINUTE, canary=canary, stable=stable)


def peek(board: Panel, world: World, looks: int, rng: np.random.Generator, rollouts: int) -> NDArray[np.bool_]:
    """Whether each guard ever said harm, and ever safe, in as many rollouts: [2, R, G]."""
    states: States = board.start((rollouts,))
    harm = safe = np.zeros((rollouts, len(board.names)), dtype=bool)
    for _ in range(looks):
        states = board.update(states, world.traffic(rng, rollouts, board.slow_above))
        codes = board.codes(states)
        harm, safe = harm | (codes == 1), safe | (codes == -1)
    return np.stack([harm, safe])
