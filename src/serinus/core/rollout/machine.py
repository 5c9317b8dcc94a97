"""`decide`: one look at a rollout. The first thing that applies, from the top, is what is done.

What can take a canary back comes before what can bring it forward, and what is not known does neither. So evidence
that is missing holds, harm acts even on a paused or frozen rollout, and nothing is promoted that no test has found
safe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from serinus.core.rollout.commands import obey
from serinus.core.rollout.stages import begin, end, enter, fitting, following, frozen, shares
from serinus.core.rollout.state import SERINUS, Action, Decision, Ended, Pause, RolloutState, Situation
from serinus.core.rollout.watch import Seen, watch
from serinus.core.spec.rollout import Rollout
from serinus.core.times import format_duration

# Time that counts as watched between two looks, in intervals: more was not watched, or the clock jumped.
_LONGEST_LOOK = 3


@dataclass(frozen=True)
class Look:
    """One look: the policy, the state so far, what is the case, and when it is."""

    rollout: Rollout
    state: RolloutState
    situation: Situation
    now: datetime
    seen: Seen

    def decision(
        self, action: Action, *reasons: str, state: RolloutState | None = None, who: str = SERINUS
    ) -> Decision:
        """What is decided: by default nothing changes but what was seen."""
        after = self.state if state is None else state
        return Decision(
            at=self.now,
            action=action,
            who=who,
            reasons=reasons,
            readings=self.seen.readings,
            shares=shares(self.rollout, after),
            state=after,
        )

    def ended(self, result: str, why: str) -> Ended:
        assert self.state.canary is not None
        return Ended.model_validate(
            {"version": self.state.canary.version, "result": result, "why": why, "at": self.now}
        )


Rule = Callable[[Look], Decision | None]


def decide(rollout: Rollout, state: RolloutState, situation: Situation, now: datetime) -> Decision:
    """What to do now.

    A function of its arguments alone. The same situation twice decides nothing new; one without evidence holds.

    Args:
        rollout: the policy.
        state: what the last decision left.
        situation: what is the case.
        now: an aware time.
    """
    state = _waited(rollout, state, situation, now)
    command = next((each for each in situation.commands if each.id not in state.handled), None)
    if command is not None:
        changed = obey(rollout, state, command, now)
        return Look(rollout, changed.state, situation, now, Seen(readings=state.readings)).decision(
            changed.action, *changed.reasons, who=command.who
        )
    look = Look(rollout, state, situation, now, Seen())
    for rule in (_no_canary, _other_target, _other_policy):
        if decision := rule(look):
            return decision
    seen, state = watch(rollout, state, situation)
    look = replace(look, state=state, seen=seen)
    rules = (_not_ready, _harm, _starting, _confirmation, _paused, _pause_by_guard, _inconclusive, _waits, _approval)
    for rule in rules:
        if decision := rule(look):
            return decision
    return _forward(look)


def _waited(rollout: Rollout, state: RolloutState, situation: Situation, now: datetime) -> RolloutState:
    """The state with the time since the last look: at least none, at most three intervals."""
    passed = timedelta(0) if state.at is None else now - state.at
    if passed < timedelta(0):
        # The clock was set back: by its times, nobody can tell new evidence from old. Comparing begins anew.
        state = state.model_copy(update={"baseline": None})
    passed = min(max(passed, timedelta(0)), _LONGEST_LOOK * rollout.interval)
    canary = state.canary
    ready = canary is None or situation.ready.get(canary.version, False)
    update = {
        "at": now,
        "watched": state.watched + passed,
        "unready": timedelta(0) if ready else state.unready + passed,
    }
    return state.model_copy(update=update)


def _no_canary(look: Look) -> Decision | None:
    state, target = look.state, look.state.requested or look.situation.target
    if state.canary is not None:
        return None
    if target is None:
        return look.decision("hold", "the version that the spec asks for cannot be looked up")
    if target.version == state.stable:
        return look.decision("hold", f"version {state.stable} is stable, and no other is asked for")
    refused = state.refusal(target.version)
    if refused is not None and state.requested is None:
        why = f"version {target.version} is not tried again: it was {refused.result} at {refused.at:%Y-%m-%d %H:%M} UTC"
        return look.decision("hold", f"{why}, as {refused.why}")
    window = frozen(look.rollout.freeze, look.now)
    if window is not None:
        return look.decision("hold", f"version {target.version} waits: {_frozen(window.duration)}")
    begun = begin(state, target, look.now).model_copy(update={"policy": _digest(look.rollout)})
    return look.decision("start", f"version {target.version} is asked for beside {state.stable}", state=begun)


def _other_target(look: Look) -> Decision | None:
    state, target = look.state, look.state.requested or look.situation.target
    assert state.canary is not None
    mine = state.canary.version
    if target is None or (target.version, target.digest) == (mine, state.canary.digest):
        return None  # what else is known of it may not be read a second time
    if target.version == mine:
        why = f"version {mine} is asked for with another digest than it was started with"
        return look.decision("supersede", why, state=end(state, look.ended("superseded", why)))
    if target.version == state.stable:
        why = f"version {mine} is asked for no longer"
        return look.decision("rollback", why, state=end(state, look.ended("withdrawn", why)))
    if state.phase == "provisional" or state.refusal(target.version):
        return None  # what answers everything is confirmed or undone before another follows it
    why = f"version {target.version} is asked for in its place"
    return look.decision("supersede", why, state=end(state, look.ended("superseded", why)))


def _other_policy(look: Look) -> Decision | None:
    state, digest = look.state, _digest(look.rollout)
    if state.policy == digest:
        return None
    stage = fitting(look.rollout, state)
    begun = enter(state, stage).model_copy(update={"policy": digest})
    return look.decision("hold", "the policy has changed: this stage begins anew", state=begun)


def _not_ready(look: Look) -> Decision | None:
    state, limit = look.state, look.rollout.pace.ready_timeout
    assert state.canary is not None
    if look.situation.broken is not None:
        return _take_back(look, f"version {state.canary.version} cannot be served: {look.situation.broken}")
    if state.unready < limit:
        return None
    why = "".join(f": {each}" for each in _trouble(look, state.canary.version))
    return _take_back(look, f"version {state.canary.version} was not ready for {format_duration(limit)}{why}")


def _trouble(look: Look, version: int) -> tuple[str, ...]:
    """What keeps a version from getting its share, where that is known."""
    found = look.situation.unready.get(version) or look.situation.trouble
    return (found,) if found else ()


def _harm(look: Look) -> Decision | None:
    harmful = [each for each in look.seen.readings if each.verdict == "harm" and each.on_harm == "rollback"]
    return _take_back(look, *(each.text for each in harmful)) if harmful else None


def _starting(look: Look) -> Decision | None:
    state = look.state
    if state.phase != "starting":
        return None
    assert state.canary is not None
    version = state.canary.version
    if not look.situation.ready.get(version, False):
        return look.decision("hold", f"version {version} is being started", *_trouble(look, version))
    return _paused(look) or _approval(look) or _forward(look)


def _confirmation(look: Look) -> Decision | None:
    state, confirmation = look.state, look.rollout.confirmation
    if state.phase != "provisional":
        return None
    assert state.canary is not None
    if confirmation is None:
        return _confirm(look, "the policy asks for no confirmation")
    quality = next((each for each in look.seen.readings if each.guard == "quality"), None)
    rows = quality.canary if quality is not None else 0
    if quality is not None and quality.verdict == "safe" and rows >= confirmation.minimum_labels:
        return _confirm(look, quality.text)
    if state.watched < confirmation.maximum_duration:
        words = quality.text if quality is not None else "no outcomes are known yet"
        needed = f"{rows:,.0f} of {confirmation.minimum_labels:,} outcomes are known"
        return look.decision("hold", f"version {state.canary.version} is to be confirmed: {needed}", words)
    why = f"outcomes have decided nothing within {format_duration(confirmation.maximum_duration)}"
    return _confirm(look, why) if confirmation.inconclusive == "confirm" else _take_back(look, why)


def _paused(look: Look) -> Decision | None:
    pause = look.state.paused
    if pause is None:
        return None
    return look.decision("hold", f"paused by {pause.who} since {pause.since:%Y-%m-%d %H:%M} UTC: {pause.why}")


def _pause_by_guard(look: Look) -> Decision | None:
    faults = [each for each in look.seen.readings if each.verdict == "harm" and each.on_harm == "pause"]
    return _stop(look, "; ".join(each.text for each in faults)) if faults else None


def _inconclusive(look: Look) -> Decision | None:
    limit = look.rollout.pace.maximum_duration
    if look.state.watched < limit or not _undecided(look):
        return None
    why = f"still undecided after {format_duration(limit)}: {'; '.join(_undecided(look))}"
    return _take_back(look, why) if look.rollout.inconclusive == "rollback" else _stop(look, why)


def _waits(look: Look) -> Decision | None:
    reasons = [*_early(look), *_undecided(look)]
    return look.decision("hold", *reasons) if reasons else None


def _early(look: Look) -> list[str]:
    state, pace = look.state, look.rollout.pace
    if state.watched >= pace.minimum_duration:
        return []
    return [f"a stage lasts {format_duration(pace.minimum_duration)} at least"]


def _undecided(look: Look) -> list[str]:
    """What keeps the evidence from carrying a step forward; nothing, if it does."""
    state, needed = look.state, look.rollout.pace.minimum_requests
    reasons = list(look.seen.problems)
    if state.requests < needed:
        reasons.append(f"the canary has taken {state.requests:,.0f} of {needed:,} requests")
    waiting = [each.text for each in look.seen.readings if each.blocking and each.verdict != "safe"]
    return [*reasons, *waiting, *look.seen.sick]


def _approval(look: Look) -> Decision | None:
    """Whether somebody must agree first, or a freeze window be over."""
    stage = following(look.rollout, look.state)
    weight = f"{stage.weight:g} %"
    window = frozen(look.rollout.freeze, look.now)
    if window is not None:
        return look.decision("hold", f"all is well, and {weight} waits: {_frozen(window.duration)}")
    if stage.weight in look.rollout.approvals and stage.weight not in look.state.approved:
        return look.decision("hold", f"all is well, and {weight} waits for `serinus rollout approve {stage.weight:g}`")
    return None


def _forward(look: Look) -> Decision:
    stage = following(look.rollout, look.state)
    after = enter(look.state, stage)
    assert after.canary is not None
    reasons = tuple(each.text for each in look.seen.readings if each.blocking) or ("it is ready",)
    if stage.phase == "provisional" and look.rollout.confirmation is None:
        return _confirm(look, *reasons)
    return look.decision("promote" if stage.phase == "provisional" else "advance", *reasons, state=after)


def _confirm(look: Look, *reasons: str) -> Decision:
    action: Action = "confirm" if look.state.phase == "provisional" else "promote"
    return look.decision(action, *reasons, state=end(look.state, look.ended("promoted", "; ".join(reasons))))


def _take_back(look: Look, *reasons: str) -> Decision:
    undo = look.state.phase == "provisional"
    ended = look.ended("undone" if undo else "rolled back", "; ".join(reasons))
    return look.decision("undo" if undo else "rollback", *reasons, state=end(look.state, ended))


def _stop(look: Look, why: str) -> Decision:
    paused = look.state.model_copy(update={"paused": Pause(who=SERINUS, why=why, since=look.now)})
    return look.decision("pause", why, state=paused)


def _frozen(duration: timedelta) -> str:
    return f"a freeze window of {format_duration(duration)} is on"


def _digest(rollout: Rollout) -> str:
    return "sha256:" + hashlib.sha256(rollout.model_dump_json().encode()).hexdigest()
