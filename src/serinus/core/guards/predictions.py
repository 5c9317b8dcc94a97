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

from serinus.core.guards.reading import Evidences, Reading, Traffic
from serinus.core.guards.words import Judgement, count, judgement, nothing, percent, plain
from serinus.core.profile import PREDICTION_EDGES
from serinus.core.sequential import (
    AlphaShare,
    CloseTest,
    ExpectedTest,
    TwoSampleTest,
    decide,
    decide_by_evidence,
    smoothed,
    threshold,
)
from serinus.core.sequential.mixture import bisect
from serinus.core.sequential.two_sample import CloseState, TwoSampleState
from serinus.core.sequential.verdict import Codes, Floats
from serinus.core.spec.rollout import Predictions

# The middle of each bin. A missing prediction leans to neither side.
POSITIONS = (0.5, *(round((low + high) / 2, 4) for low, high in pairwise((0.0, *PREDICTION_EDGES, 1.0))))
BINS = len(POSITIONS)


class PredictionState(NamedTuple):
    """Both tests, and rows by bin so far, [..., B]."""

    differ: TwoSampleState
    close: CloseState
    canary: Floats
    stable: Floats


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
    def _tests(self) -> tuple[TwoSampleTest, CloseTest]:
        return TwoSampleTest(POSITIONS), CloseTest(BINS)

    def start(self, shape: tuple[int, ...] = ()) -> PredictionState:
        """The state before any traffic."""
        differ, close = self._tests
        zeros = np.zeros((*shape, BINS))
        return PredictionState(differ.start(shape), close.start(shape), zeros, zeros)

    def update(self, state: PredictionState, traffic: Traffic) -> PredictionState:
        """Add one interval."""
        differ, close = self._tests
        ours, theirs = traffic.canary.predictions, traffic.stable.predictions
        return PredictionState(
            differ.update(state.differ, ours, theirs),
            close.update(state.close, ours, theirs),
            state.canary + ours,
            state.stable + theirs,
        )

    def evidences(self, state: PredictionState) -> Evidences:
        """A total variation above the tolerance; every bin within the margin."""
        differ, close = self._tests
        return Evidences(differ.log_e(state.differ, self.tolerance), close.log_e(state.close, self.margin))

    def codes(self, state: PredictionState, share: AlphaShare) -> Codes:
        """Verdicts, [...]."""
        return decide_by_evidence(*self.evidences(state), share)

    def _low(self, state: PredictionState, alpha: float) -> float:
        """The total variation is at least this: the tolerance at which the test would just reject."""
        differ, _ = self._tests
        level = threshold(alpha)
        zero, one = np.zeros(()), np.ones(())
        if float(differ.log_e(state.differ)) < level:
            return 0.0
        low, _ = bisect(lambda margin: level - differ.log_e(state.differ, margin), zero, one)
        return float(low)

    def _farthest(self, state: PredictionState, alpha: float) -> float:
        """No bin's shares differ by more: the margin at which the test would just reject."""
        _, close = self._tests
        level = threshold(alpha)
        _, high = bisect(lambda margin: close.log_e(state.close, margin) - level, np.zeros(()), np.ones(()))
        return float(high)

    def read(self, state: PredictionState, share: AlphaShare) -> Reading:
        """In words, of a state of shape (). The interval bounds the total variation, from below only."""
        said = judgement(self.evidences(state), share)
        rows, others = float(state.canary.sum()), float(state.stable.sum())
        both = rows > 0 and others > 0
        low = self._low(state, share.harm) if both else None
        if low is not None and said.verdict == "harm":
            low = max(low, self.tolerance)
        return Reading(
            guard=self.name,
            verdict=said.verdict,
            blocking=self.blocking,
            unit="total variation",
            value=_distance(state.canary, state.stable) if both else None,
            low=low,
            harm_above=self.tolerance,
            canary=rows,
            stable=others,
            harm_evidence=said.harm_evidence,
            safe_evidence=said.safe_evidence,
            text=self._text(state, share, (low, said)),
        )

    def _text(self, state: PredictionState, share: AlphaShare, told: tuple[float | None, Judgement]) -> str:
        rows, others = float(state.canary.sum()), float(state.stable.sum())
        low, said = told
        absent = nothing(self.name, "predictions", rows, others)
        if absent is not None or low is None:
            return absent or ""
        return (
            f"{self.name}: total variation {plain(_distance(state.canary, state.stable))} between {count(rows)} of the "
            f"canary and {count(others)} of stable, at least {plain(low)} ({plain(self.tolerance)} is tolerated); no "
            f"bin's share differs by more than {percent(self._farthest(state, share.safe))} "
            f"({percent(self.margin)} is safe): {said.verdict}"
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
