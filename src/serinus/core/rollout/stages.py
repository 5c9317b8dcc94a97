"""The way of a canary: starting, shadow, steps, provisional. Where it stands, what it gets there, what comes next."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from croniter import croniter

from serinus.core.rollout.state import Candidate, Ended, Phase, RolloutState, Shares
from serinus.core.spec.rollout import FreezeWindow, Rollout

ALL = 100.0


class Stage(NamedTuple):
    """A phase with its step, and the percent of the requests that the canary answers in it."""

    phase: Phase
    step: int
    weight: float


def shares(rollout: Rollout, state: RolloutState) -> Shares:
    """What each version is to get. A step's weight stays the one it was entered with, should the policy change."""
    if state.canary is None:
        return Shares(stable=state.stable)
    weight = shadow = 0.0
    if state.phase == "shadow" and rollout.shadow is not None:
        shadow = rollout.shadow.percent
    elif state.phase == "step":
        weight = rollout.steps[state.step] if state.weight is None else state.weight
    elif state.phase == "provisional":
        weight = ALL
    return Shares(stable=state.stable, canary=state.canary.version, weight=weight, shadow=shadow)


def first(rollout: Rollout) -> Stage:
    """The first stage after starting."""
    return Stage("shadow", 0, 0.0) if rollout.shadow is not None else Stage("step", 0, rollout.steps[0])


def following(rollout: Rollout, state: RolloutState) -> Stage:
    """The stage after the present one."""
    if state.phase == "starting":
        return first(rollout)
    step = 0 if state.phase == "shadow" else state.step + 1
    if step < len(rollout.steps):
        return Stage("step", step, rollout.steps[step])
    return Stage("provisional", 0, ALL)


def enter(state: RolloutState, stage: Stage) -> RolloutState:
    """The state at the beginning of a stage: its tests start afresh, and totals are compared with those from now on."""
    return state.model_copy(
        update={
            "phase": stage.phase,
            "step": stage.step,
            "weight": stage.weight,
            "watched": timedelta(0),
            "unready": timedelta(0),
            "tests": None,
            "edges": (),
            "baseline": None,
            "requests": 0.0,
            "readings": (),
        }
    )


def begin(state: RolloutState, canary: Candidate, now: datetime) -> RolloutState:
    """The state in which a canary is being started."""
    begun = enter(state, Stage("starting", 0, 0.0))
    return begun.model_copy(update={"canary": canary, "started": now, "approved": (), "paused": None})


def end(state: RolloutState, ended: Ended) -> RolloutState:
    """The state after a canary's rollout, with the stable version alone: the canary's, if it was promoted."""
    stable = ended.version if ended.result == "promoted" else state.stable
    left = enter(state, Stage("stable", 0, 0.0)).remembering(ended)
    done = {"stable": stable, "canary": None, "requested": None, "started": None, "approved": (), "paused": None}
    return left.model_copy(update=done)


def fitting(rollout: Rollout, state: RolloutState) -> Stage:
    """The stage of another policy that fits where a canary stands: one that gives it no more than it has."""
    if state.phase == "provisional":
        return Stage("provisional", 0, ALL)
    if state.phase == "step":
        has = ALL if state.weight is None else state.weight
        step = max((at for at, weight in enumerate(rollout.steps) if weight <= has), default=None)
        return Stage("starting", 0, 0.0) if step is None else Stage("step", step, rollout.steps[step])
    return Stage("starting" if rollout.shadow is None else state.phase, 0, 0.0)


def frozen(windows: list[FreezeWindow], now: datetime) -> FreezeWindow | None:
    """The freeze window that `now` lies in, if any."""
    for window in windows:
        began: datetime = croniter(window.start, now + timedelta(microseconds=1)).get_prev(datetime)
        if now < began + window.duration:
            return window
    return None
