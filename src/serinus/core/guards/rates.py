"""Guards on rates of events: errors, slow requests, feature problems, and the user's own counters.

All are the conditional test of `sequential.rate_ratio` on concurrent traffic. Harm is a rate above `ratio` times the
stable version's, safe is one below that plus `margin`. The interval that is shown bounds the excess
`canary - ratio * stable`, and is above 0 exactly when the verdict is harm, below the margin exactly when the test of
*safe* rejects.

An event need not be whole. A row with one of its three feature views missing counts a third: for a quantity X in
[0, 1] with mean q the test's factor r^X is convex in X, so r^X <= 1 + X (r - 1), and its expectation is at most
1 + q (r - 1), all that the test's proof uses of a row. (A query's numerator may be any count whose occasions each add
a part of at most 1; more than one event an occasion makes it no rate.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serinus.core.guards.reading import ArmCounts, Evidences, Reading, Traffic
from serinus.core.guards.words import (
    Judgement,
    beside,
    count,
    judgement,
    known,
    nothing,
    percent,
    plain,
    points,
    seconds,
)
from serinus.core.sequential import (
    AlphaShare,
    Bounds,
    Counts,
    RateTest,
    Verdict,
    decide_by_evidence,
    rate_bounds,
    rate_log_e,
    threshold,
)
from serinus.core.sequential.rate_ratio import RateState
from serinus.core.sequential.verdict import Codes, Floats
from serinus.core.spec.rollout import Errors, FeatureProblems, QueryGuard, RateGuard, Slow

Flags = NDArray[np.bool_]
Pick = Callable[[ArmCounts], tuple[Floats, Floats]]


class RateGuardState(NamedTuple):
    """Both directions' tests, and what each version did so far: events and what could have been one, [..., 2]."""

    harm: RateState
    safe: RateState
    canary: Floats
    stable: Floats


class Health(NamedTuple):
    """Whether the stable version's own rate is surely above what is well, and the canary's surely below. [...]."""

    stable_sick: Flags
    canary_well: Flags


@dataclass(frozen=True)
class RateComparison:
    """A rate of the canary's against `ratio` times the stable version's.

    `pick` gives an arm's events and what could have been one, which `what` names; `detail` says which events.
    """

    name: str
    blocking: bool
    ratio: float
    margin: float
    what: str
    pick: Pick
    detail: str = ""

    @property
    def _tests(self) -> tuple[RateTest, RateTest]:
        return RateTest(Verdict.HARM, self.ratio), RateTest(Verdict.SAFE, self.ratio)

    def start(self, shape: tuple[int, ...] = ()) -> RateGuardState:
        """The state before any traffic."""
        harm, safe = self._tests
        zeros = np.zeros((*shape, 2))
        return RateGuardState(harm.start(shape), safe.start(shape), zeros, zeros)

    def update(self, state: RateGuardState, traffic: Traffic) -> RateGuardState:
        """Add one interval."""
        harm, safe = self._tests
        ours, theirs = self.pick(traffic.canary), self.pick(traffic.stable)
        counts = Counts(ours[0], theirs[0], ours[1], theirs[1])
        return RateGuardState(
            harm.update(state.harm, counts),
            safe.update(state.safe, counts),
            state.canary + np.stack(np.broadcast_arrays(*ours), axis=-1),
            state.stable + np.stack(np.broadcast_arrays(*theirs), axis=-1),
        )

    def evidences(self, state: RateGuardState) -> Evidences:
        """Harm beyond the ratio, safety within the margin."""
        harm, safe = self._tests
        return Evidences(harm.log_e(state.harm), safe.log_e(state.safe, self.margin))

    def codes(self, state: RateGuardState, share: AlphaShare) -> Codes:
        """Verdicts, [...]."""
        return decide_by_evidence(*self.evidences(state), share)

    def bounds(self, state: RateGuardState, share: AlphaShare) -> Bounds:
        """The excess over `ratio` times stable's rate, [...]; infinite where nothing is known."""
        harm, safe = self._tests
        low, high = harm.excess(state.harm, share.harm), safe.excess(state.safe, share.safe)
        evidences = self.evidences(state)
        # Bisection ends within rounding of the bound: where that is the border of a verdict, the verdict counts.
        low = np.where(evidences.harm >= threshold(share.harm), np.maximum(low, 0.0), low)
        within = evidences.safe >= threshold(share.safe)
        beyond = np.nextafter(self.margin, np.inf)
        return Bounds(low, np.where(within, np.minimum(high, self.margin), np.maximum(high, beyond)))

    def read(self, state: RateGuardState, share: AlphaShare) -> Reading:
        """In words, of a state of shape ()."""
        (events, requests), (other_events, other_requests) = state.canary.tolist(), state.stable.tolist()
        bounds, said = self.bounds(state, share), judgement(self.evidences(state), share)
        low, high = known(float(bounds.low)), known(float(bounds.high))
        return Reading(
            guard=self.name,
            verdict=said.verdict,
            blocking=self.blocking,
            unit=f"share of {self.what}",
            value=events / requests if requests else None,
            reference=other_events / other_requests if other_requests else None,
            low=low,
            high=high,
            harm_above=0.0,
            safe_below=self.margin,
            canary=requests,
            stable=other_requests,
            harm_evidence=said.harm_evidence,
            safe_evidence=said.safe_evidence,
            text=self._text(state, (low, high), said),
        )

    def _text(self, state: RateGuardState, span: tuple[float | None, float | None], said: Judgement) -> str:
        (events, requests), (other_events, other_requests) = state.canary.tolist(), state.stable.tolist()
        absent = nothing(self.name, self.what, requests, other_requests)
        if absent is not None:
            return absent
        ours = f"{percent(events / requests)} of {count(requests)} {self.what}"
        theirs = f"{percent(other_events / other_requests)} of {count(other_requests)}"
        times = "stable's" if self.ratio == 1 else f"{plain(self.ratio)} times stable's"
        name = f"{self.name} ({self.detail})" if self.detail else self.name
        return f"{name}: {ours} against {theirs}; {beside(*span, points, ' points')} {times}: {said.verdict}"


@dataclass(frozen=True)
class OwnRateComparison(RateComparison):
    """Also knows each version's own rate, so that a sick stable version is told from a sick canary.

    Both bounds only ever hold a step back, so they take nothing of the budget that guards the steps.
    """

    sick: float = 0.05

    def absolute(self, state: RateGuardState, share: AlphaShare) -> tuple[Bounds, Bounds]:
        """Rates of canary and stable version by themselves, each [...]."""
        ours = rate_bounds(state.canary[..., 0], state.canary[..., 1], share)
        return ours, rate_bounds(state.stable[..., 0], state.stable[..., 1], share)

    def health(self, state: RateGuardState, share: AlphaShare) -> Health:
        """The same bounds against `sick`, without computing them: fast for many rollouts."""
        high = rate_log_e(Verdict.HARM, state.stable[..., 0], state.stable[..., 1], self.sick)
        low = rate_log_e(Verdict.SAFE, state.canary[..., 0], state.canary[..., 1], self.sick)
        return Health(high >= threshold(share.harm), low >= threshold(share.safe))


def errors(spec: Errors) -> OwnRateComparison:
    """Requests with 5xx or no answer, of all requests."""
    return _own_rate("errors", spec, "requests", lambda arm: (arm.errors, arm.requests))


def slow(spec: Slow, edge: float | None) -> RateComparison:
    """Answered requests that took longer than `edge` seconds (None: not known yet), of all answered ones."""
    comparison = _rate("slow", spec, "answered requests", lambda arm: (arm.slow, arm.latency.sum(axis=-1)))
    return comparison if edge is None else replace(comparison, detail=f"above {seconds(edge)}")


def features(spec: FeatureProblems) -> OwnRateComparison:
    """The share of rows' views that had problems."""
    return _own_rate("features", spec, "rows", lambda arm: (arm.problems, arm.rows))


def query(spec: QueryGuard, position: int) -> RateComparison:
    """The user's counters, by their position in the spec."""
    return _rate(
        spec.name, spec, "occasions", lambda arm: (arm.queries[..., position, 0], arm.queries[..., position, 1])
    )


def _rate(name: str, spec: RateGuard, what: str, pick: Pick) -> RateComparison:
    return RateComparison(name, spec.blocking, spec.ratio, spec.margin, what, pick)


def _own_rate(name: str, spec: Errors | FeatureProblems, what: str, pick: Pick) -> OwnRateComparison:
    return OwnRateComparison(name, spec.blocking, spec.ratio, spec.margin, what, pick, sick=spec.sick)
