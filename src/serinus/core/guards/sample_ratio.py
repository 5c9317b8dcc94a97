"""The guard on routing: does the traffic split as configured? It can only ever say that it does not.

A mismatch is no fault of the canary's, and makes every other comparison doubtful: it pauses the rollout. There is no
configured split among copies, so a shadow is not checked.

Where each pod is scraped at a moment of its own, the counts of one version begin and end up to a scrape interval before
those of the other. Though routing is right, sums then differ by as much as was routed meanwhile: in the beginning,
with traffic of the stage before among it, and in the end. So much is forgiven, as the busiest time of the stage so far
tells; a split that is wrong goes on to differ, and is found some scrapes later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from serinus.core.guards.reading import Evidences, Reading, Traffic
from serinus.core.guards.words import count, judgement, percent
from serinus.core.sequential import AlphaShare, SampleRatioTest, decide_by_evidence
from serinus.core.sequential.sample_ratio import SplitState
from serinus.core.sequential.verdict import Codes, Floats
from serinus.core.spec.rollout import SampleRatio

# Counts are apart where a stage begins and where it ends.
_ENDS = 2.0
_DENSE = 2.0


class SplitCounts(NamedTuple):
    """The test, and how many requests were routed to each version so far, and to the canary by configuration, [...].

    `lately` are those of about the last time that counts may be apart, `busiest` the most that there were of them.
    """

    test: SplitState
    canary: Floats
    stable: Floats
    due: Floats
    lately: Floats
    busiest: Floats


@dataclass(frozen=True)
class SplitCheck:
    """Observed against configured split."""

    test: SampleRatioTest
    blocking: bool = False
    name: str = "sample-ratio"

    def start(self, shape: tuple[int, ...] = ()) -> SplitCounts:
        """The state before any traffic."""
        zeros = np.zeros(shape)
        return SplitCounts(self.test.start(shape), zeros, zeros, zeros, zeros, zeros)

    def update(self, state: SplitCounts, traffic: Traffic) -> SplitCounts:
        """Add one interval."""
        ours, theirs = traffic.canary.routed, traffic.stable.routed
        test = self.test.update(state.test, ours, theirs, traffic.weight)
        routed = ours + theirs
        due = state.due + traffic.weight * routed
        lately, busiest = _busy(state, routed, traffic)
        return SplitCounts(test, state.canary + ours, state.stable + theirs, due, lately, busiest)

    def evidences(self, state: SplitCounts) -> Evidences:
        """A routing fault in either direction."""
        harm = self.test.log_e(state.test, _ENDS * state.busiest)
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


def _busy(state: SplitCounts, routed: Floats, traffic: Traffic) -> tuple[Floats, Floats]:
    """How much was routed in about the time that counts may be apart, of late and at most.

    It is forgotten little by little, for counts come in lumps, a scrape of one version and then one of the other. In an
    interval that is longer, requests are taken to be at most `_DENSE` times as close together as on average.
    """
    if traffic.apart <= 0:
        return state.lately, state.busiest
    intervals = traffic.seconds / traffic.apart
    lately = routed + math.exp(-intervals) * state.lately
    return lately, np.maximum(state.busiest, lately * min(1.0, _DENSE / max(intervals, 1.0)))


def sample_ratio(spec: SampleRatio) -> SplitCheck:
    """The guard of a spec."""
    return SplitCheck(SampleRatioTest(spec.tolerance, spec.slack))
