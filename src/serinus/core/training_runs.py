"""When a cluster starts a run of a ContinuousTraining, as of which time and under which name. Pure.

The name of a run follows from what started it, so that whoever dies between starting a run and noting it finds the
run again instead of starting another.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from serinus.core.spec.training import ContinuousTrainingSpec
from serinus.core.status import ContinuousTrainingStatus
from serinus.core.times import utc
from serinus.core.triggers import TriggerState, due, next_run


class Start(NamedTuple):
    """A run that should start now. `requested` is the request that it answers, if it answers one."""

    name: str
    as_of: datetime
    reason: str
    requested: str | None = None


class Situation(NamedTuple):
    """What a decision to start is made on.

    Attributes:
        name: of the ContinuousTraining.
        spec: what it wants.
        created: when it was; nothing is due before.
        status: what has happened.
        request: what somebody asks for: a time, or `TIME#WORD` for another run as of the same time.
        empty: whether the model has no version yet.
    """

    name: str
    spec: ContinuousTrainingSpec
    created: datetime
    status: ContinuousTrainingStatus
    request: str | None
    empty: bool


def start(found: Situation, now: datetime) -> Start | None:
    """The run to start at `now`, if any: what somebody asked for, the first one, or what the schedule asks for.

    Raises:
        ValueError: the request is no time.
    """
    last = found.status.last_run
    if last is not None and last.result == "running":
        return None
    if found.request and found.request != found.status.requested:
        moment, _, word = found.request.partition("#")
        as_of = utc(moment)
        name = _name(found.name, as_of) + (f"-{word}" if word else "")
        return Start(name, as_of, f"asked for: {found.request}", found.request)
    if last is None and found.empty:
        as_of = found.created.replace(minute=0, second=0, microsecond=0)
        return Start(_name(found.name, as_of), as_of, "the model has no version yet")
    wanted = due(found.spec.triggers, found.spec.limits, _triggers(found), now)
    if wanted is None:
        return None
    return Start(_name(found.name, wanted.scheduled_for), wanted.scheduled_for, wanted.reason)


def next_start(found: Situation) -> datetime | None:
    """The next time that the schedule asks for; None without one."""
    state = _triggers(found)
    moment = next_run(found.spec.triggers, state.handled_until)
    if moment is None or state.last_started is None:
        return moment
    return max(moment, state.last_started + found.spec.limits.minimum_interval)


def overdue(spec: ContinuousTrainingSpec, started: datetime, now: datetime) -> bool:
    """Whether a run that is under way has taken too long."""
    return now - started > spec.limits.maximum_duration


def outdated(spec: ContinuousTrainingSpec, runs: Sequence[str]) -> Sequence[str]:
    """Of runs that are over, the newest first, those that need not be remembered."""
    return runs[spec.limits.kept_runs :]


def _triggers(found: Situation) -> TriggerState:
    last = found.status.last_run
    if last is None:
        return TriggerState(handled_until=found.created)
    # A request may look at any time; it does not use up what the schedule asks for later.
    return TriggerState(handled_until=max(found.created, min(last.as_of, last.started)), last_started=last.started)


def _name(training: str, as_of: datetime) -> str:
    return f"{training}-{as_of:%Y%m%d-%H%M%S}"
