"""How a rollout stands, for people and programs: read off the ledger, newest entries first, as far as is needed.

The view is of the rollout that is under way, or else of the last one. A look a minute makes ten thousand entries a
week, nearly all of which only say that nothing has changed: decisions are told here when something did.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from serinus.core.guards.reading import Reading
from serinus.core.ledger import Entry, Head
from serinus.core.rollout import SERINUS, Action, Ended, Pause, Phase, RolloutState, Shares, shares
from serinus.core.rollout.stages import following
from serinus.core.spec.rollout import Rollout
from serinus.core.times import format_duration
from serinus.engines.ledger import Ledger

_DECISIONS = 20
_ENDED = 10
# Entries, a week of looks a minute: beyond, only a page goes back to the beginning.
_LOOKED_BACK = 10_000
_NUMBER = re.compile(r"[0-9][0-9.,]*")


class Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class Glance(Value):
    """What one line says of a rollout; `headline` is that line."""

    phase: Phase
    stable: int
    canary: int | None
    shares: Shares
    paused: Pause | None
    headline: str


class Change(Value):
    """A decision that changed something, or whose reasons are other ones than before. `brief` are the reasons with
    guards that found no harm by name only."""

    number: int
    at: datetime
    action: Action
    who: str
    reasons: tuple[str, ...]
    brief: str
    shares: Shares


class Stage(Value):
    """How far the present stage is. `watched` is in seconds, like the limits; `following` the percent of the requests
    that the canary answers in the next one."""

    watched: float
    minimum_duration: float
    maximum_duration: float
    requests: float
    minimum_requests: int
    following: float | None


class RolloutView(Glance):
    """The rollout that is under way, or the last one.

    `looked` is when the last decision was made, and `interval` how many seconds later the next one is due. `guards`
    were read at `guards_at`, when the canary had `guards_shares`; `current` says whether that is the present stage.
    Decisions (the last twenty within ten thousand entries) and ends are the newest first. `waits` says what keeps the
    rollout from going on. `number` and `digest` are the ledger's last entry's.
    """

    model: str
    started: datetime | None
    looked: datetime
    interval: float
    steps: tuple[float, ...]
    stage: Stage | None
    guards: tuple[Reading, ...]
    guards_at: datetime | None
    guards_shares: Shares | None
    current: bool
    waits: tuple[str, ...]
    decisions: tuple[Change, ...]
    ended: tuple[Ended, ...]
    number: int
    digest: str


def glance(ledger: Ledger) -> Glance | None:
    """One line on the rollout, from the ledger's head alone; None before any decision.

    Raises:
        IntegrityError: the ledger is broken.
    """
    head = ledger.seen()
    if head.state is None or head.policy is None:
        return None
    return Glance.model_validate(_glance(head.policy, head.state))


def view(ledger: Ledger) -> RolloutView | None:
    """How the rollout stands; None before any decision. Changes nothing.

    Raises:
        IntegrityError: the ledger is broken.
    """
    head = ledger.seen()
    state, policy = head.state, head.policy
    if state is None or policy is None:
        return None
    decisions, newest, read, before = _told(ledger, head)
    assert newest is not None
    return RolloutView.model_validate(
        {
            **_glance(policy, state),
            "model": newest.model,
            "started": state.started or _start(decisions),
            "looked": newest.at,
            "interval": policy.interval.total_seconds(),
            "steps": policy.steps,
            "stage": _stage(policy, state) if state.canary is not None else None,
            "guards": read.readings if read is not None else (),
            "guards_at": read.at if read is not None else None,
            "guards_shares": before,
            "current": bool(state.readings),
            "waits": _waits(policy, state, newest),
            "decisions": decisions,
            "ended": state.ended[: -_ENDED - 1 : -1],
            "number": head.number,
            "digest": head.digest,
        }
    )


def rollout_entries(ledger: Ledger, number: int) -> Iterator[Entry]:
    """The entries up to `number` of the rollout that was the last one then, newest first, down to its start."""
    for entry in ledger.newest_first():
        if entry.number <= number:
            yield entry
            if entry.action == "start":
                return


def _told(ledger: Ledger, head: Head) -> tuple[tuple[Change, ...], Entry | None, Entry | None, Shares | None]:
    """The last decisions that told something new; the newest entry; the newest with readings, and the shares that
    were in force when they were taken."""
    changes: list[Change] = []
    newest = newer = read = None
    before: Shares | None = None
    for entry in rollout_entries(ledger, head.number):
        newest = newest or entry
        if read is not None and before is None:
            before = entry.shares
        if read is None and entry.readings:
            read = entry
        if newer is not None and tells(newer, entry):
            changes.append(change(newer))
        newer = entry
        if (len(changes) == _DECISIONS and before is not None) or head.number - entry.number == _LOOKED_BACK:
            break
    else:
        if newer is not None:
            changes.append(change(newer))
    return tuple(changes[:_DECISIONS]), newest, read, before


def tells(entry: Entry, before: Entry) -> bool:
    """Whether an entry changed something, or gives other reasons than the one before it."""
    return entry.action != "hold" or _said(entry) != _said(before)


def _said(entry: Entry) -> tuple[str, ...]:
    """What an entry's reasons say but for figures, which change with every look."""
    words = {each.text: f"{each.guard} {each.verdict}" for each in entry.readings}
    return (entry.action, entry.who, *(words.get(each) or _NUMBER.sub("0", each) for each in entry.reasons))


def change(entry: Entry) -> Change:
    """An entry as it is told."""
    kept = entry.model_dump(include={"number", "at", "action", "who", "reasons", "shares"})
    return Change.model_validate({**kept, "brief": _brief(entry)})


def _brief(entry: Entry) -> str:
    quiet = {each.text: each for each in entry.readings if each.verdict != "harm"}
    words = [each for each in entry.reasons if each not in quiet]
    for verdict in ("undecided", "safe"):
        names = [quiet[each].guard for each in entry.reasons if each in quiet and quiet[each].verdict == verdict]
        words += [f"{verdict}: {', '.join(names)}"] if names else []
    return "; ".join(words)


def _start(decisions: tuple[Change, ...]) -> datetime | None:
    """When a rollout that has ended began, if its decisions reach so far back."""
    return next((each.at for each in decisions if each.action == "start"), None)


def _stage(policy: Rollout, state: RolloutState) -> Stage:
    provisional = state.phase == "provisional"
    confirmation = policy.confirmation if provisional else None
    longest = policy.pace.maximum_duration if confirmation is None else confirmation.maximum_duration
    return Stage(
        watched=state.watched.total_seconds(),
        minimum_duration=0 if provisional else policy.pace.minimum_duration.total_seconds(),
        maximum_duration=longest.total_seconds(),
        requests=state.requests,
        minimum_requests=policy.pace.minimum_requests,
        following=None if provisional else following(policy, state).weight,
    )


def _waits(policy: Rollout, state: RolloutState, newest: Entry) -> tuple[str, ...]:
    if state.canary is None:
        return ()
    if newest.action == "hold" and newest.who == SERINUS:
        return newest.reasons
    return (f"the next look, within {format_duration(policy.interval)}",)


def _glance(policy: Rollout, state: RolloutState) -> dict[str, object]:
    headline = _headline(policy, state)
    if state.paused is not None:
        headline += f"; paused by {state.paused.who} since {_time(state.paused.since)}: {state.paused.why}"
    return {
        "phase": state.phase,
        "stable": state.stable,
        "canary": state.canary.version if state.canary is not None else None,
        "shares": shares(policy, state),
        "paused": state.paused,
        "headline": headline,
    }


def _headline(policy: Rollout, state: RolloutState) -> str:
    stable = f"version {state.stable}"
    if state.canary is None:
        return f"{stable} is stable{_afterwards(state)}"
    canary, given = f"version {state.canary.version}", shares(policy, state)
    if state.phase == "starting":
        return f"{canary} is being started beside {stable}"
    if state.phase == "shadow":
        return f"{canary} gets a copy of {given.shadow:g} % of the requests, {stable} answers all"
    if state.phase == "step":
        step = f"step {state.step + 1} of {len(policy.steps)}"
        return f"{canary} answers {given.weight:g} % of the requests ({step}), {stable} the others"
    return f"{canary} answers all requests until outcomes confirm it, {stable} is kept warm"


def _afterwards(state: RolloutState) -> str:
    last = state.last
    if last is None:
        return ", and there was no rollout yet"
    if last.result == "promoted" and last.version == state.stable:
        return f" since {_time(last.at)}"
    return f", version {last.version} was {last.result} {_time(last.at)}"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
