"""What would a policy do? Thousands of whole rollouts in an imagined world, judged by the very guards that decide.

It follows `core.rollout`: the same stages with their own tests, the same order of rules, and the first interval of a
stage only sets the totals that later ones are compared with. It leaves out what people do (approvals come at once, no
freeze window, a pause is an end) and the time a canary takes to be ready. Rollouts do not know of each other, so each
stage is run for all that reach it before the next one, everyone at their own time.

A look costs the same whether a minute or an hour has passed, and a stage may last a thousand of them. So looks are
taken further apart as a stage grows older, by default by a fifth of its age: the tests may be looked at as seldom as
one likes, it only makes a decision later by at most that share. A growth of 0 looks at every interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import ceil, floor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serinus.core.guards.panel import Panel, States
from serinus.core.sequential.verdict import Floats, Verdict
from serinus.core.simulation_quality import Known, LossWatch, Positions
from serinus.core.simulation_traffic import DAY, Look, Scenario, Workload, World, prediction_shares
from serinus.core.spec.rollout import Rollout

Bools = NDArray[np.bool_]
GROWTH = 0.2
# Rollouts at once: more take more memory and no less time.
BATCH = 2000
# Rows of the held-out period by which predictions are expected.
_HELD_OUT = 10_000
RUNNING = -1
QUALITY_GUARDS = ("quality", "estimate")


class Result(IntEnum):
    """How a rollout ends: `PAUSED` for a fault of routing, `KEPT` where outcomes decided nothing about a promotion."""

    ROLLED_BACK = 0
    UNDONE = 1
    PAUSED = 2
    INCONCLUSIVE = 3
    KEPT = 4
    CONFIRMED = 5


class Stage(NamedTuple):
    """A part of a rollout: what share the canary answers, or gets copies of."""

    name: str
    weight: float
    shadow: float


@dataclass(frozen=True)
class Outcomes:
    """How rollouts ended, each [R].

    `guard` is the position in `guards` of the one that ended it, or -1; `stage` the position in `stages` of the last
    one. `seconds` and `served` are the time and the canary's answers until it was taken back, stopped, or kept.
    `judged` are the canary's requests, or copies, that tests knew of.
    """

    guards: tuple[str, ...]
    stages: tuple[str, ...]
    result: NDArray[np.int8]
    guard: NDArray[np.int8]
    stage: NDArray[np.int8]
    seconds: Floats
    served: Floats
    judged: Floats

    @property
    def promoted(self) -> Bools:
        """Whether the canary got all traffic, even if it was taken back later."""
        return np.asarray(np.isin(self.result, (Result.UNDONE, Result.KEPT, Result.CONFIRMED)))

    @property
    def taken_back(self) -> Bools:
        return np.asarray(np.isin(self.result, (Result.ROLLED_BACK, Result.UNDONE)))

    @property
    def caught(self) -> Bools:
        """Whether any guard stopped it: taken back, or paused for a fault."""
        return np.asarray(self.taken_back | (self.result == Result.PAUSED))


def joined(parts: list[Outcomes]) -> Outcomes:
    """Outcomes of batches as one."""
    names = ("result", "guard", "stage", "seconds", "served", "judged")
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Outcomes(parts[0].guards, parts[0].stages, **arrays)


def stages(rollout: Rollout) -> tuple[Stage, ...]:
    """All stages of a policy."""
    shadow = (Stage("shadow", 0.0, rollout.shadow.percent / 100),) if rollout.shadow else ()
    steps = (Stage(f"{weight:g} %", weight / 100, 0.0) for weight in rollout.steps)
    return (*shadow, *steps, *((Stage("confirmation", 1.0, 0.0),) if rollout.confirmation else ()))


def schedule(interval: float, maximum: float, growth: float = GROWTH) -> tuple[float, ...]:
    """When a stage is looked at, in seconds since it began: multiples of the interval, the last one at its end."""
    last = ceil(maximum / interval - 1e-9)
    ticks = [1]
    while ticks[-1] < last:
        ticks.append(min(ticks[-1] + max(1, floor(growth * ticks[-1])), last))
    return tuple(interval * tick for tick in ticks)


def panel_of(rollout: Rollout, workload: Workload, *, shadow: bool = False) -> Panel:
    """The guards on a workload's traffic. The held-out period has shown how the stable version's likes predict."""
    expected = tuple((_HELD_OUT * prediction_shares(workload.logit, workload.logit_spread)).tolist())
    return Panel.of(rollout, shadow=shadow, expected=expected, latency_edges=workload.latency_edges)


def world_of(rollout: Rollout, workload: Workload, scenario: Scenario) -> World:
    """A workload in a scenario, counted as a policy's guards count."""
    panel = panel_of(rollout, workload)
    return World(workload, scenario, panel.slow_above + 1, len(panel.queries))


def simulate(
    rollout: Rollout, world: World, rng: np.random.Generator, rollouts: int = 2000, growth: float = GROWTH
) -> Outcomes:
    """Run whole rollouts of a policy to their ends.

    Args:
        rollout: the policy.
        world: what happens (see `world_of`).
        rng: where chance comes from; one in the same state gives the same outcomes.
        rollouts: how many.
        growth: by which share of a stage's age looks lie apart, at least one interval.
    """
    sizes = [min(BATCH, rollouts - start) for start in range(0, rollouts, BATCH)]
    return joined([_Course(rollout, world, rng, (size, growth)).run() for size in sizes])


class _Course:
    """A batch of rollouts under way."""

    def __init__(self, rollout: Rollout, world: World, rng: np.random.Generator, shape: tuple[int, float]) -> None:
        size, self.growth = shape
        self.rollout, self.world, self.rng = rollout, world, rng
        self.losses = LossWatch(rollout, world, rng, size)
        self.phase = rng.uniform(0.0, DAY, size)
        self.at, self.served, self.judged, self.requests = (np.zeros(size) for _ in range(4))
        self.result = np.full(size, RUNNING, dtype=np.int8)
        self.guard = np.full(size, -1, dtype=np.int8)
        self.stage = np.zeros(size, dtype=np.int8)
        self.guards = (*panel_of(rollout, world.workload).names, *QUALITY_GUARDS)

    def run(self) -> Outcomes:
        """Every stage in turn, for those that reach it."""
        every = stages(self.rollout)
        for position, stage in enumerate(every):
            running = np.flatnonzero(self.result == RUNNING)
            self.stage[running] = position
            self.losses.enter(running, self.at[running], stage.weight)
            if stage.weight == 1.0:
                self._confirm(running, stage)
            else:
                self._compare(running, stage)
        self.result[self.result == RUNNING] = Result.KEPT
        names = tuple(stage.name for stage in every)
        return Outcomes(self.guards, names, self.result, self.guard, self.stage, self.at, self.served, self.judged)

    def _pass(self, running: Positions, stage: Stage, seconds: float) -> Look:
        """Let time pass for some rollouts."""
        one = np.ones(len(running))
        look = Look(self.at[running], seconds * one, self.phase[running], stage.weight * one, stage.shadow * one)
        self.losses.add(running, look)
        self.at[running] += seconds
        return look

    def _compare(self, running: Positions, stage: Stage) -> None:
        """A stage beside the stable version: until each rollout has ended or earned the next stage."""
        pace, panel = self.rollout.pace, panel_of(self.rollout, self.world.workload, shadow=stage.shadow > 0)
        interval, maximum = self.rollout.interval.total_seconds(), pace.maximum_duration.total_seconds()
        states, before = panel.start((len(running),)), 0.0
        self.requests[running] = 0.0
        for elapsed in schedule(interval, maximum, self.growth):
            if not running.size:
                return
            traffic = self.world.draw(self.rng, self._pass(running, stage, elapsed - before))
            self.served[running] += traffic.canary.requests if not stage.shadow else 0.0
            if before:
                states = panel.update(states, traffic)
                self.judged[running] += traffic.canary.requests
                self.requests[running] += traffic.canary.requests
            stays = self._decide(running, (panel, states), elapsed)
            running, states, before = running[stays], take(states, stays), elapsed

    def _decide(self, running: Positions, judged: tuple[Panel, States], elapsed: float) -> Bools:
        """The rules of `core.rollout.machine` in their order; which rollouts stay in the stage."""
        pace, known = self.rollout.pace, self.losses.said(running)
        harm, waits = self._said(running, judged, known)
        fault = np.array([name == "sample-ratio" for name in self.guards])
        stays = self._stop(running, harm & ~fault, Result.ROLLED_BACK)
        stays &= self._stop(running, harm & fault, Result.PAUSED)
        if elapsed >= pace.maximum_duration.total_seconds() - 1e-9:
            back = self.rollout.inconclusive == "rollback"
            self._end(running[stays & waits], Result.ROLLED_BACK if back else Result.INCONCLUSIVE)
            return np.zeros(len(running), dtype=np.bool_)
        early = elapsed < pace.minimum_duration.total_seconds() - 1e-9
        return stays & (waits | early)

    def _said(self, running: Positions, judged: tuple[Panel, States], known: Known) -> tuple[Bools, Bools]:
        """Which guards say harm, [n, G], and whether anything keeps the next stage away, [n]."""
        panel, states = judged
        codes, spec = panel.codes(states), self.rollout.guards.quality
        harm = np.zeros((len(running), len(self.guards)), dtype=np.bool_)
        harm[:, [self.guards.index(name) for name in panel.names]] = codes == Verdict.HARM
        harm[:, -2:] = np.stack([known.quality, known.estimate], axis=-1) == Verdict.HARM
        waits = (codes[:, panel.blocking] != Verdict.SAFE).any(axis=-1)
        waits |= self.requests[running] < self.rollout.pace.minimum_requests
        for health in panel.health(states).values():
            waits |= health.stable_sick & ~health.canary_well
        if spec.enabled and spec.blocking:
            waits |= known.quality != Verdict.SAFE
        return harm, waits

    def _confirm(self, running: Positions, stage: Stage) -> None:
        """After the promotion, until outcomes confirm or undo it."""
        spec, before = self.rollout.confirmation, 0.0
        if spec is None:
            return
        maximum = spec.maximum_duration.total_seconds()
        for elapsed in schedule(self.rollout.interval.total_seconds(), maximum, self.growth):
            if not running.size:
                return
            look = self._pass(running, stage, elapsed - before)
            self.served[running] += self.rng.poisson(self.world.expected(look.at, look.end, look.phase))
            known = self.losses.said(running)
            harm = np.zeros((len(running), len(self.guards)), dtype=np.bool_)
            harm[:, -2:] = np.stack([known.quality, known.estimate], axis=-1) == Verdict.HARM
            stays = self._stop(running, harm, Result.UNDONE)
            confirmed = stays & (known.quality == Verdict.SAFE) & (known.rows >= spec.minimum_labels)
            self._end(running[confirmed], Result.CONFIRMED)
            stays &= ~confirmed
            running, before = running[stays], elapsed
        self._end(running, Result.UNDONE if spec.inconclusive == "undo" else Result.KEPT)

    def _stop(self, running: Positions, harm: Bools, result: Result) -> Bools:
        """End the rollouts that a guard says harm of; which ones go on."""
        hit = harm.any(axis=-1) & (self.result[running] == RUNNING)
        self._end(running[hit], result)
        self.guard[running[hit]] = harm[hit].argmax(axis=-1)
        return np.asarray(~hit)

    def _end(self, which: Positions, result: Result) -> None:
        self.result[which] = result


def take(states: Any, which: Any) -> Any:
    """Some rollouts of nested tuples of arrays."""
    if isinstance(states, tuple):
        parts = [take(each, which) for each in states]
        return type(states)(*parts) if hasattr(states, "_fields") else tuple(parts)
    return states[which]
