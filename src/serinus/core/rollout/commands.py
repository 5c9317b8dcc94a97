"""What people may ask of a rollout. Each command is obeyed once; one that makes no sense is answered, not ignored."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from serinus.core.rollout.stages import Stage, end, enter
from serinus.core.rollout.state import Action, Command, Ended, Pause, RolloutState
from serinus.core.spec.rollout import Rollout


class Changed(NamedTuple):
    """What a command did."""

    action: Action
    reasons: tuple[str, ...]
    state: RolloutState


def obey(rollout: Rollout, state: RolloutState, command: Command, now: datetime) -> Changed:
    """Carry out one command of a person, at any phase."""
    state = state.remembering(handled=command.id)
    said = f"{command.who}: {command.why}"
    if command.verb == "start":
        return _start(state, command, said)
    if state.canary is None:
        return Changed("hold", (f"{command.verb} by {said}", "there is no rollout to act on"), state)
    if command.verb == "approve":
        return _approve(rollout, state, command, said)
    if command.verb == "pause":
        paused = Pause(who=command.who, why=command.why, since=now)
        return Changed("pause", (said,), state.model_copy(update={"paused": paused}))
    if command.verb == "resume":
        return _resume(state, said)
    if command.verb == "promote":
        return _promote(rollout, state, said, now)
    undo = state.phase == "provisional"
    return Changed(
        "undo" if undo else "rollback", (said,), _ended(state, "undone" if undo else "rolled back", said, now)
    )


def _ended(state: RolloutState, result: str, why: str, now: datetime) -> RolloutState:
    assert state.canary is not None
    ended = {"version": state.canary.version, "result": result, "why": why, "at": now}
    return end(state, Ended.model_validate(ended))


def _start(state: RolloutState, command: Command, said: str) -> Changed:
    candidate = command.candidate
    if candidate is None:
        return Changed("hold", (f"start by {said}", "the version could not be looked up"), state)
    if candidate.version == state.stable:
        return Changed("hold", (f"start by {said}", f"version {candidate.version} is the stable one"), state)
    if state.phase == "provisional" and state.canary is not None and candidate.version != state.canary.version:
        why = f"version {state.canary.version} is to be confirmed or undone first"
        return Changed("hold", (f"start by {said}", why), state)
    return Changed(
        "hold", (f"start version {candidate.version}, {said}",), state.model_copy(update={"requested": candidate})
    )


def _approve(rollout: Rollout, state: RolloutState, command: Command, said: str) -> Changed:
    if command.weight not in rollout.approvals:
        allowed = ", ".join(f"{each:g}" for each in rollout.approvals) or "none"
        return Changed("hold", (f"approve by {said}", f"steps that wait for an approval: {allowed}"), state)
    approved = (*state.approved, command.weight)
    return Changed(
        "approve", (f"{command.weight:g} % approved by {said}",), state.model_copy(update={"approved": approved})
    )


def _resume(state: RolloutState, said: str) -> Changed:
    if state.paused is None:
        return Changed("hold", (f"resume by {said}", "the rollout is not paused"), state)
    # The stage's time begins anew, or one that was paused for taking too long would be so at once again. What was
    # paused for a fault of routing is judged by new traffic.
    stage = Stage(state.phase, state.step, state.weight or 0.0)
    begun = enter(state, stage) if _faulty(state) else state.model_copy(update={"watched": timedelta(0)})
    return Changed("resume", (said,), begun.model_copy(update={"paused": None}))


def _faulty(state: RolloutState) -> bool:
    return any(each.verdict == "harm" for each in state.readings)


def _promote(rollout: Rollout, state: RolloutState, said: str, now: datetime) -> Changed:
    if state.phase == "starting":
        return Changed("hold", (f"promote by {said}", "the version is still being started"), state)
    if state.phase == "provisional":
        return Changed("confirm", (said,), _ended(state, "promoted", said, now))
    if rollout.confirmation is None:
        return Changed("promote", (said,), _ended(state, "promoted", said, now))
    begun = enter(state, Stage("provisional", 0, 100.0)).model_copy(update={"paused": None})
    return Changed("promote", (said,), begun)
