"""Guards on predicted probabilities: against the stable version's, and against the offline evaluation's.

Counts are over the fixed bins of `core.profile`. Between versions, on concurrent traffic, what drifts in common is no
difference; harm is a total variation above the tolerance, safe is every bin's share within the margin of the stable
version's. Against what the candidate predicted on its held-out period the season itself is a difference, so that guard
tolerates much and never holds a step back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from serinus.core.guards.reading import Evidences, Reading, Traffic
from serinus.core.guards.words import Judgement, count, judgement, nothing, percent, plain
from serinus.core.profile import PREDICTION_EDGES
from serinus.core.sequential import (
    AlphaShare,
    CloseTest,
    ExpectedTest,
    LearnedTest,
    TwoSampleTest,
    decide,
    decide_by_evidence,
    smoothed,
    threshold,
)
from serinus.core.sequential.learned import LearnedState
from serinus.core.sequential.mixture import bisect, log_mix
from serinus.core.sequential.two_sample import CloseState, TwoSampleState
from serinus.core.sequential.verdict import Codes, Floats
from serinus.core.spec.rollout import Predictions

# The middle of each bin. A missing prediction leans to neither side.
POSITIONS = (0.5, *(round((low + high) / 2, 4) for low, high in pairwise((0.0, *PREDICTION_EDGES, 1.0))))
BINS = len(POSITIONS)


class PredictionState(NamedTuple):
    """The tests; the one that learns also keeps the rows by bin so far, [..., B]."""

    differ: TwoSampleState
    learned: LearnedState
    close: CloseState


def _distance(ours: Floats, theirs: Floats) -> float:
    """Total variation of two rows of counts that are not empty."""
    return float(0.5 * np.abs(ours / ours.sum() - theirs / theirs.sum()).sum())


@dataclass(frozen=True)
class PredictionComparison:
    """Canary against stable version."""

    tolerance: float
    margin: float
    blocking: bool
    name: str = "predictions"

    @property
    def _tests(self) -> tuple[TwoSampleTest, LearnedTest, CloseTest]:
        return TwoSampleTest(POSITIONS), LearnedTest(BINS), CloseTest(BINS)

    def start(self, shape: tuple[int, ...] = ()) -> PredictionState:
        """The state before any traffic."""
        differ, learned, close = self._tests
        return PredictionState(differ.start(shape), learned.start(shape), close.start(shape))

    def update(self, state: PredictionState, traffic: Traffic) -> PredictionState:
        """Add one interval."""
        differ, learned, close = self._tests
        ours, theirs = traffic.canary.predictions, traffic.stable.predictions
        return PredictionState(
            differ.update(state.differ, ours, theirs),
            learned.update(state.learned, ours, theirs),
            close.update(state.close, ours, theirs),
        )

    def evidences(self, state: PredictionState) -> Evidences:
        """A total variation above the tolerance; every bin within the margin."""
        _, _, close = self._tests
        return Evidences(self._apart(state, self.tolerance), close.log_e(state.close, self.margin))

    def _apart(self, state: PredictionState, distance: ArrayLike) -> Floats:
        """Evidence of a larger total variation: half the capital on shapes thought of, half on what is learned."""
        differ, learned, _ = self._tests
        both = np.stack([differ.log_e(state.differ, distance), learned.log_e(state.learned, distance)], axis=-1)
        return log_mix(both, np.log(np.array([0.5, 0.5])))

    def codes(self, state: PredictionState, share: AlphaShare) -> Codes:
        """Verdicts, [...]."""
        return decide_by_evidence(*self.evidences(state), share)

    def _low(self, state: PredictionState, alpha: float) -> float:
        """The total variation is at least this: the tolerance at which the test would just reject."""
        level = threshold(alpha)
        if float(self._apart(state, 0.0)) < level:
            return 0.0
        low, _ = bisect(lambda distance: level - self._apart(state, distance), np.zeros(()), np.ones(()))
        return float(low)

    def _farthest(self, state: PredictionState, alpha: float) -> float:
        """No bin's shares differ by more: the margin at which the test would just reject."""
        _, _, close = self._tests
        level = threshold(alpha)
        _, high = bisect(lambda margin: close.log_e(state.close, margin) - level, np.zeros(()), np.ones(()))
        return float(high)

    def read(self, state: PredictionState, share: AlphaShare) -> Reading:
        """In words, of a state of shape (). The interval bounds the total variation, from below only."""
        said = judgement(self.evidences(state), share)
        rows, others = float(state.learned.canary.sum()), float(state.learned.stable.sum())
        both = rows > 0 and others > 0
        low = self._low(state, share.harm) if both else None
        if low is not None and said.verdict == "harm":
            low = max(low, self.tolerance)
        return Reading(
            guard=self.name,
            verdict=said.verdict,
            blocking=self.blocking,
            unit="total variation",
            value=_distance(state.learned.canary, state.learned.stable) if both else None,
            low=low,
            harm_above=self.tolerance,
            canary=rows,
            stable=others,
            harm_evidence=said.harm_evidence,
            safe_evidence=said.safe_evidence,
            text=self._text(state, share, (low, said)),
        )

    def _text(self, state: PredictionState, share: AlphaShare, told: tuple[float | None, Judgement]) -> str:
        ours, theirs = state.learned.canary, state.learned.stable
        rows, others = float(ours.sum()), float(theirs.sum())
        low, said = told
        absent = nothing(self.name, "predictions", rows, others)
        if absent is not None or low is None:
            return absent or ""
        return (
            f"{self.name}: total variation {plain(_distance(ours, theirs))} between {count(rows)} of the canary and "
            f"{count(others)} of stable, at least {plain(low)} ({plain(self.tolerance)} is tolerated); no bin's share "
            f"differs by more than {percent(self._farthest(state, share.safe))} ({percent(self.margin)} is safe): "
            f"{said.verdict}"
        )


@dataclass(frozen=True)
class ExpectedPredictions:
    """The canary against what it predicted on its held-out period. Harm only. The state is rows by bin, [..., B]."""

    test: ExpectedTest
    tolerance: float
    blocking: bool = False
    name: str = "expected"

    def start(self, shape: tuple[int, ...] = ()) -> Floats:
        """The state before any traffic."""
        return np.zeros((*shape, BINS))

    def update(self, state: Floats, traffic: Traffic) -> Floats:
        """Add one interval."""
        return np.asarray(state + traffic.canary.predictions, dtype=np.float64)

    def evidences(self, state: Floats) -> Evidences:
        """A total variation above the tolerance."""
        harm = self.test.log_e(state, self.tolerance)
        return Evidences(harm, np.full_like(harm, -np.inf))

    def codes(self, state: Floats, share: AlphaShare) -> Codes:
        """Verdicts, [...]."""
        harm = self.test.rejects(state, self.tolerance, share.harm)
        return decide(harm, np.zeros_like(harm))

    def read(self, state: Floats, share: AlphaShare) -> Reading:
        """In words, of a state of shape ()."""
        said = judgement(self.evidences(state), share)
        rows = float(state.sum())
        bounds = self.test.bounds(state, share)
        value = _distance(state, np.array(self.test.expected)) if rows else None
        low, high = float(bounds.low), float(bounds.high)
        if said.verdict == "harm":
            low = max(low, self.tolerance)
        text = f"{self.name}: no predictions counted of the canary yet: undecided"
        if value is not None:
            text = (
                f"{self.name}: total variation {plain(value)} between {count(rows)} predictions and the held-out "
                f"period's; it is {plain(low)} to {plain(high)}, {plain(self.tolerance)} is tolerated: {said.verdict}"
            )
        return Reading(
            guard=self.name,
            verdict=said.verdict,
            blocking=False,
            unit="total variation",
            value=value,
            low=low if rows else None,
            high=high if rows else None,
            harm_above=self.tolerance,
            canary=rows,
            harm_evidence=said.harm_evidence,
            text=text,
        )


def predictions(spec: Predictions) -> PredictionComparison:
    """The guard between versions."""
    return PredictionComparison(spec.tolerance, spec.margin, spec.blocking)


def expected_predictions(spec: Predictions, counts: Sequence[float]) -> ExpectedPredictions:
    """The guard against `counts` of the held-out period."""
    shares = tuple(float(share) for share in smoothed(counts))
    return ExpectedPredictions(ExpectedTest(shares), spec.expected_tolerance)
