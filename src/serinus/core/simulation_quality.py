"""Imagined outcomes: how the losses of canary and stable version compare in a simulated rollout, as labels come in.

Kept apart from `simulation_traffic` because outcomes come late: what becomes known now was asked a label delay ago, in
an earlier stage perhaps, where the canary answered another share. The tests are those of the guards on quality, on the
very sums that evidence carries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serinus.core.guards.budget import estimates, shares
from serinus.core.guards.quality import LOSSES, arms, estimated, paired
from serinus.core.sequential import Range, Sums, decide_by_evidence
from serinus.core.sequential.arms import ArmsState
from serinus.core.sequential.verdict import Codes, Floats
from serinus.core.simulation_traffic import Look, World, gamma_sums, normal_sums
from serinus.core.spec.rollout import Rollout

Positions = NDArray[np.int64]


class Known(NamedTuple):
    """How many rows rest behind the verdicts on quality, [n], and the codes by outcomes and by estimates."""

    rows: Floats
    quality: Codes
    estimate: Codes


@dataclass
class LossWatch:
    """Losses of `size` rollouts, since each began. Verdicts are asked for some of them, by their positions."""

    rollout: Rollout
    world: World
    rng: np.random.Generator
    size: int
    labelled: NDArray[np.float64] = field(init=False)
    estimated: NDArray[np.float64] = field(init=False)
    arms: tuple[ArmsState, ArmsState] = field(init=False)
    _entered: list[tuple[Floats, float]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.labelled, self.estimated = np.zeros((3, self.size)), np.zeros((3, self.size))
        begun = arms(self.rollout.guards.quality).start((self.size,))
        # Written into from now on, so that no two may be one array.
        harm, safe = (ArmsState(each.gain.copy(), each.stake.copy()) for each in begun)
        self.arms = (harm, safe)

    @property
    def enabled(self) -> bool:
        return self.rollout.guards.quality.enabled

    @property
    def _randomised(self) -> bool:
        return self.rollout.guards.quality.predictions_change_outcomes

    def enter(self, which: Positions, at: Floats, weight: float) -> None:
        """Some rollouts begin a stage in which the canary answers `weight` of the requests."""
        starts = np.full(self.size, np.inf)
        starts[which] = at
        self._entered.append((starts, weight))

    def add(self, which: Positions, look: Look) -> None:
        """Let a stretch of time pass for some rollouts; metrics or not, predictions are logged."""
        if not self.enabled or not self.world.scenario.metrics:
            return
        if self._randomised:
            self._add_arms(which, look)
            return
        load, change = self.world.workload, self.world.scenario.change
        delay = load.label_delay.total_seconds()
        asked = self.world.expected(look.at - delay, look.end - delay, look.phase)
        self._plus(self.labelled, which, (asked * load.labelled, change.quality, load.difference_spread))
        if estimates(self.rollout):
            now = self.world.expected(look.at, look.end, look.phase)
            self._plus(self.estimated, which, (now, change.estimated, 0.5 * load.difference_spread))

    def _plus(self, sums: Floats, which: Positions, rows: tuple[Floats, float, float]) -> None:
        expected, mean, spread = rows
        count = self.rng.poisson(expected).astype(np.float64)
        total, squares = normal_sums(self.rng, count, mean, spread)
        sums[:, which] += np.stack([count, total, squares])

    def _add_arms(self, which: Positions, look: Look) -> None:
        load, change = self.world.workload, self.world.scenario.change
        ours, theirs = self._asked(which, look)
        spec, both = self.rollout.guards.quality, []
        for expected, mean in ((ours, load.loss + change.quality), (theirs, load.loss)):
            count = self.rng.poisson(expected * load.labelled).astype(np.float64)
            both.append(_within(LOSSES[spec.metric], count, gamma_sums(self.rng, count, mean, load.loss_spread)))
        after = arms(spec).update(self._state(which), *both)
        for state, new in zip(self.arms, after, strict=True):
            state.gain[which], state.stake[which] = new
        self.labelled[0, which] += np.asarray(both[0].rows)

    def _state(self, which: Positions) -> tuple[ArmsState, ArmsState]:
        harm, safe = (ArmsState(each.gain[which], each.stake[which]) for each in self.arms)
        return harm, safe

    def _asked(self, which: Positions, look: Look) -> tuple[Floats, Floats]:
        """Requests on average that each arm answered a label delay ago, by the stages of that time."""
        delay = self.world.workload.label_delay.total_seconds()
        begin, end = look.at - delay, look.end - delay
        ours, theirs = np.zeros(len(which)), np.zeros(len(which))
        for position, (starts, weight) in enumerate(self._entered):
            later = self._entered[position + 1][0][which] if position + 1 < len(self._entered) else np.inf
            low, high = np.maximum(begin, starts[which]), np.minimum(end, later)
            low = np.where(np.isfinite(low), low, 0.0)
            inside = np.where((high > low) & (starts[which] < np.inf), high, low)
            asked = self.world.expected(low, inside, look.phase)
            ours, theirs = ours + weight * asked, theirs + (1 - weight) * asked
        return ours, theirs

    def said(self, which: Positions) -> Known:
        """What the guards on quality say of some rollouts."""
        spec, spent = self.rollout.guards.quality, shares(self.rollout)
        silent = np.zeros(len(which), dtype=np.int8)
        if not self.enabled:
            return Known(np.zeros(len(which)), silent, silent)
        rows, share = self.labelled[0, which], spent["quality"]
        if self._randomised:
            found = arms(spec).evidences(self._state(which))
            return Known(rows, decide_by_evidence(found.harm, found.safe, share), silent)
        found = paired(spec).evidences(Sums(*self.labelled[:, which]))
        quality = decide_by_evidence(found.harm, found.safe, share)
        if not estimates(self.rollout):
            return Known(rows, quality, silent)
        found = estimated(spec).evidences(Sums(*self.estimated[:, which]))
        return Known(rows, quality, decide_by_evidence(found.harm, found.safe, spent["estimate"]))


def _within(losses: Range, rows: Floats, sums: tuple[Floats, Floats]) -> Sums:
    """Sums that values inside the range can have: what lies outside is moved to its border."""
    total = np.clip(sums[0], rows * losses.low, rows * losses.high)
    least = total**2 / np.maximum(rows, 1)
    most = (losses.low + losses.high) * total - rows * losses.low * losses.high
    return Sums(rows, total, np.clip(sums[1], least, np.maximum(most, least)))
