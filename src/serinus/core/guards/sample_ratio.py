"""The guard on routing: does the traffic split as configured? It can only ever say that it does not.

A mismatch is no fault of the canary's, and makes every other comparison doubtful: it pauses the rollout. There is no
configured split among copies, so a shadow is not checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from serinus.core.guards.reading import Evidences, Reading, Traffic
from serinus.core.guards.words import count, judgement, percent
from serinus.core.sequential import AlphaShare, SampleRatioTest, decide_by_evidence
from serinus.core.sequential.sample_ratio import SplitState
from serinus.core.sequential.verdict import Codes, Floats
from serinus.core.spec.rollout import SampleRatio


class SplitCounts(NamedTuple):
    """The test, and how many requests were routed to each version so far, and to the canary by configuration, [...]."""

    test: SplitState
    canary: Floats
    stable: Floats
    due: Floats


@dataclass(frozen=True)
class SplitCheck:
    """Observed against configured split."""

    test: SampleRatioTest
    blocking: bool = False
    name: str = "sample-ratio"

    def start(self, shape: tuple[int, ...] = ()) -> SplitCounts:
        """The state before any traffic."""
        zeros = np.zeros(shape)
        return SplitCounts(self.test.start(shape), zeros, zeros, zeros)

    def update(self, state: SplitCounts, traffic: Traffic) -> SplitCounts:
        """Add one interval."""
        ours, theirs = traffic.canary.routed, traffic.stable.routed
        test = self.test.update(state.test, ours, theirs, traffic.weight)
        due = traffic.weight * (ours + theirs)
        return SplitCounts(test, state.canary + ours, state.stable + theirs, state.due + due)

    def evidences(self, state: SplitCounts) -> Evidences:
        """A routing fault in either direction."""
        harm = self.test.log_e(state.test)
        return Evidences(harm, np.full_like(harm, -np.inf))

    def codes(self, state: SplitCounts, share: AlphaShare) -> Codes:
        """Verdicts, [...]."""
        return decide_by_evidence(*self.evidences(state), share)

    def read(self, state: SplitCounts, share: AlphaShare) -> Reading:
        """In words, of a state of shape ()."""
        said = judgement(self.evidences(state), share)
        ours, total = float(state.canary), float(state.canary + state.stable)
        text = f"{self.name}: no requests routed yet: undecided"
        if total:
            verdict = "routing is at fault" if said.verdict == "harm" else "no fault found"
            text = (
                f"{self.name}: {percent(ours / total)} of {count(total)} routed requests went to the canary, "
                f"{percent(float(state.due) / total)} by configuration: {verdict}"
            )
        return Reading(
            guard=self.name,
            verdict=said.verdict,
            blocking=False,
            on_harm="pause",
            unit="share of requests",
            value=ours / total if total else None,
            reference=float(state.due) / total if total else None,
            canary=ours,
            stable=float(state.stable),
            harm_evidence=said.harm_evidence,
            text=text,
        )


def sample_ratio(spec: SampleRatio) -> SplitCheck:
    """The guard of a spec."""
    return SplitCheck(SampleRatioTest(spec.tolerance, spec.slack))
