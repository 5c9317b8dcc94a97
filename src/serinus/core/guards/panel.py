"""All guards on one stage's traffic together: counts of an interval in, verdicts and readings out.

The same panel decides a rollout (shape ()) and thousands of simulated ones (shape [R]). It holds no state; states are
a tuple of the guards' own, and can be packed into plain lists and back without losing a bit.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serinus.core.errors import InvalidInput
from serinus.core.evidence import Arm, Interval
from serinus.core.guards import latency, predictions, rates, sample_ratio
from serinus.core.guards.budget import shares
from serinus.core.guards.rates import Health, OwnRateComparison
from serinus.core.guards.reading import ArmCounts, Guard, Reading, State, Traffic
from serinus.core.sequential import AlphaShare
from serinus.core.sequential.verdict import Codes, Floats
from serinus.core.spec.rollout import Rollout

States = tuple[State, ...]
Packed = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """The enabled guards of a stage, each with its share of the error budget."""

    guards: tuple[Guard, ...]
    shares: tuple[AlphaShare, ...]
    latency_edges: tuple[float, ...]
    slow_above: int
    queries: tuple[str, ...]

    @classmethod
    def of(
        cls,
        rollout: Rollout,
        *,
        shadow: bool,
        expected: tuple[float, ...] | None,
        latency_edges: tuple[float, ...],
    ) -> Panel:
        """The guards of the shadow or of a step.

        Args:
            rollout: the spec.
            shadow: whether the canary gets copies; then no split is checked.
            expected: how often the candidate predicted each bin of `core.profile` on its held-out period, if known.
            latency_edges: of the histogram that evidence comes with, in seconds; () where there is none.
        """
        threshold = rollout.guards.slow.threshold.total_seconds()
        slow_above = max(0, min(bisect_left(latency_edges, threshold), len(latency_edges) - 1))
        edge = latency_edges[slow_above] if latency_edges else None
        spent = shares(rollout)
        every = _traffic_guards(rollout, expected, latency_edges or (threshold,), edge)
        guards = tuple(each for each in every if each.name in spent and not (shadow and each.name == "sample-ratio"))
        return cls(
            guards=guards,
            shares=tuple(spent[each.name] for each in guards),
            latency_edges=latency_edges,
            slow_above=slow_above,
            queries=tuple(query.name for query in rollout.guards.queries),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """What the guards are called, in the order of everything that is by guard."""
        return tuple(each.name for each in self.guards)

    @property
    def blocking(self) -> NDArray[np.bool_]:
        """Which guards hold a step back until they say safe, [G]."""
        return np.array([each.blocking for each in self.guards], dtype=np.bool_)

    def start(self, shape: tuple[int, ...] = ()) -> States:
        """The states before any traffic."""
        return tuple(each.start(shape) for each in self.guards)

    def update(self, states: States, traffic: Traffic) -> States:
        """Add one interval."""
        return tuple(each.update(state, traffic) for each, state in zip(self.guards, states, strict=True))

    def codes(self, states: States) -> Codes:
        """What each guard says, as codes of `Verdict`, [..., G]."""
        if not self.guards:
            return np.zeros((0,), dtype=np.int8)
        every = zip(self.guards, states, self.shares, strict=True)
        return np.stack([each.codes(state, share) for each, state, share in every], axis=-1)

    def readings(self, states: States) -> tuple[Reading, ...]:
        """The same in words and numbers, of states of shape ()."""
        return tuple(
            each.read(state, share) for each, state, share in zip(self.guards, states, self.shares, strict=True)
        )

    def health(self, states: States) -> dict[str, Health]:
        """Whether the stable version itself is sick, and the canary well, by their own rates, [...]: by those of the
        guards that know them."""
        every = zip(self.guards, states, self.shares, strict=True)
        return {
            guard.name: guard.health(state, share)
            for guard, state, share in every
            if isinstance(guard, OwnRateComparison)
        }

    def pack(self, states: States) -> Packed:
        """States as dicts and lists of plain numbers, by guard; `unpack` gives back the very same."""
        return {each.name: _pack(state) for each, state in zip(self.guards, states, strict=True)}

    def unpack(self, packed: Mapping[str, Any]) -> States:
        """States of shape () from what `pack` made, also by way of JSON."""
        if set(packed) != set(self.names):
            raise InvalidInput(
                f"the state is of the guards {', '.join(sorted(packed))}, not of {', '.join(sorted(self.names))}",
                hint="a stage's guards must not change while it lasts",
            )
        return tuple(_unpack(packed[each.name], each.start(), each.name) for each in self.guards)

    def traffic(self, interval: Interval, weight: float) -> Traffic:
        """An interval's counts as guards take them; `weight` is the canary's share of what was routed, in [0, 1]."""
        return Traffic(
            self._arm(interval.canary),
            self._arm(interval.stable),
            np.asarray(weight, dtype=np.float64),
            seconds=(interval.until - interval.since).total_seconds(),
            apart=interval.apart.total_seconds(),
        )

    def _arm(self, arm: Arm) -> ArmCounts:
        bins = max(len(self.latency_edges), 1) + 1
        # Until a panel knows the edges nothing is known of latency.
        buckets = _bins(arm.latency if self.latency_edges else (), bins, "latency")
        if self.latency_edges and arm.latency and arm.latency_edges != self.latency_edges:
            raise InvalidInput("the latency histogram's edges are not those that the stage began with")
        queries = [arm.queries.get(name, (0.0, 0.0)) for name in self.queries]
        return ArmCounts(
            requests=np.asarray(arm.requests, dtype=np.float64),
            errors=np.asarray(arm.errors, dtype=np.float64),
            slow=np.asarray(buckets[self.slow_above + 1 :].sum(), dtype=np.float64),
            latency=buckets,
            rows=np.asarray(arm.rows, dtype=np.float64),
            problems=np.asarray(arm.problems, dtype=np.float64),
            predictions=_bins(arm.predictions, predictions.BINS, "predictions"),
            queries=np.array(queries, dtype=np.float64).reshape(len(queries), 2),
            routed=np.asarray(arm.routed, dtype=np.float64),
        )


def _traffic_guards(
    rollout: Rollout, expected: tuple[float, ...] | None, edges: tuple[float, ...], slow_edge: float | None
) -> tuple[Guard, ...]:
    """Every guard on traffic, enabled or not."""
    spec = rollout.guards
    outlook = () if expected is None else (predictions.expected_predictions(spec.predictions, expected),)
    return (
        rates.errors(spec.errors),
        rates.slow(spec.slow, slow_edge),
        latency.latency(spec.latency, edges),
        rates.features(spec.features),
        predictions.predictions(spec.predictions),
        *outlook,
        *(rates.query(query, position) for position, query in enumerate(spec.queries)),
        sample_ratio.sample_ratio(spec.sample_ratio),
    )


def _bins(counts: tuple[float, ...], bins: int, what: str) -> Floats:
    """Counts as an array; none at all where nothing was counted."""
    if counts and len(counts) != bins:
        raise InvalidInput(f"evidence has {len(counts)} bins of {what}, and there are {bins}")
    return np.array(counts or [0.0] * bins, dtype=np.float64)


def _pack(state: State) -> Any:
    if isinstance(state, tuple) and hasattr(state, "_asdict"):
        return {name: _pack(value) for name, value in state._asdict().items()}
    return np.asarray(state, dtype=np.float64).tolist()


def _unpack(packed: Any, like: State, where: str) -> State:
    """A state of the shape of `like`, the guard's own at its start."""
    if isinstance(like, tuple) and hasattr(like, "_asdict"):
        fields = like._asdict()
        if not isinstance(packed, Mapping) or set(packed) != set(fields):
            raise InvalidInput(f"the state of {where} lacks {', '.join(fields)}")
        return type(like)(**{name: _unpack(packed[name], value, f"{where}.{name}") for name, value in fields.items()})
    array = np.array(packed, dtype=np.float64)
    if array.shape != np.shape(like):
        raise InvalidInput(f"the state of {where} has shape {array.shape}, and needs {np.shape(like)}")
    return array
