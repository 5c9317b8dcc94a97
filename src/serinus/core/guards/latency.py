"""The guard on a quantile of latency: is the canary's p99 above the stable version's by more than a share of it?

The verdict is `QuantileTest.log_e`'s, on counts that accumulate over the stage. The numbers shown beside it are the
canary's own band and the band of the stable version, moved by the tolerance; when these bands part the verdict is
never the opposite, but it is often earlier, since the test need not take both versions at their worst at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from serinus.core.guards.reading import Evidences, Reading, Traffic
from serinus.core.guards.words import Judgement, count, judgement, known, nothing, plain, seconds
from serinus.core.sequential import AlphaShare, Bounds, QuantileTest, Verdict, decide
from serinus.core.sequential.verdict import Codes, Floats
from serinus.core.spec.rollout import Latency


class LatencyState(NamedTuple):
    """Requests by bucket so far, each [..., J + 1]."""

    canary: Floats
    stable: Floats


@dataclass(frozen=True)
class LatencyComparison:
    """`test.edges` are the histogram's, in seconds."""

    test: QuantileTest
    tolerance: float
    blocking: bool
    name: str = "latency"

    def start(self, shape: tuple[int, ...] = ()) -> LatencyState:
        """The state before any traffic."""
        zeros = np.zeros((*shape, len(self.test.edges) + 1))
        return LatencyState(zeros, zeros)

    def update(self, state: LatencyState, traffic: Traffic) -> LatencyState:
        """Add one interval."""
        return LatencyState(state.canary + traffic.canary.latency, state.stable + traffic.stable.latency)

    def evidences(self, state: LatencyState) -> Evidences:
        """A quantile above, and one below, that of stable times 1 + tolerance."""
        return Evidences(
            self.test.log_e(Verdict.HARM, state.canary, state.stable, self.tolerance),
            self.test.log_e(Verdict.SAFE, state.canary, state.stable, self.tolerance),
        )

    def codes(self, state: LatencyState, share: AlphaShare) -> Codes:
        """Verdicts, [...]."""
        canary, stable = state
        return decide(
            self.test.rejects(Verdict.HARM, canary, stable, self.tolerance, share.harm),
            self.test.rejects(Verdict.SAFE, canary, stable, self.tolerance, share.safe),
        )

    def read(self, state: LatencyState, share: AlphaShare) -> Reading:
        """In words, of a state of shape ()."""
        ours, theirs = self.test.bounds(state.canary, share), self.test.bounds(state.stable, share)
        said = judgement(self.evidences(state), share)
        above, below = (known((1 + self.tolerance) * float(edge)) for edge in (theirs.high, theirs.low))
        requests, others = float(state.canary.sum()), float(state.stable.sum())
        return Reading(
            guard=self.name,
            verdict=said.verdict,
            blocking=self.blocking,
            unit="seconds",
            value=self._quantile(state.canary),
            reference=self._quantile(state.stable),
            low=known(float(ours.low)) if requests else None,
            high=known(float(ours.high)),
            harm_above=above,
            safe_below=below or None,
            canary=requests,
            stable=others,
            harm_evidence=said.harm_evidence,
            safe_evidence=said.safe_evidence,
            text=self._text(state, ours, said),
        )

    def _quantile(self, counts: Floats) -> float | None:
        """The edge below which the quantile was observed; None above all edges, or without requests."""
        total = counts.sum()
        if not total > 0:
            return None
        bucket = int(np.searchsorted(np.cumsum(counts), self.test.quantile * total * (1 - 1e-12)))
        return self.test.edges[bucket] if bucket < len(self.test.edges) else None

    def _text(self, state: LatencyState, ours: Bounds, said: Judgement) -> str:
        requests, others = float(state.canary.sum()), float(state.stable.sum())
        absent = nothing(self.name, "latency", requests, others)
        if absent is not None:
            return absent
        last = self.test.edges[-1]
        values = (self._quantile(state.canary), self._quantile(state.stable))
        mine, other = (f"above {seconds(last)}" if each is None else f"at most {seconds(each)}" for each in values)
        low, high = float(ours.low), float(ours.high)
        band = f"{seconds(low)} to {seconds(high)}" if np.isfinite(high) else f"at least {seconds(low)}"
        allowed = f"{plain(100 * self.tolerance)} % more is tolerated"
        return (
            f"{self.name}: p{plain(100 * self.test.quantile)} {mine} in {count(requests)} requests against {other} in "
            f"{count(others)}; it is {band}, {allowed}: {said.verdict}"
        )


def latency(spec: Latency, edges: tuple[float, ...]) -> LatencyComparison:
    """The guard of a histogram with these edges."""
    return LatencyComparison(QuantileTest(spec.quantile, edges), spec.tolerance, spec.blocking)
