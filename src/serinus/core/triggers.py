"""When the pipeline runs again: pure arithmetic on times, idempotent and limited.

The semantics are those of a Kubernetes CronJob: a time that was missed while nothing ran is made up for once, however
many were missed, and a time that was handled is never handled again.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from croniter import croniter
from pydantic import BaseModel, ConfigDict

from serinus.core.spec.training import Limits, Triggers


class TriggerState(BaseModel):
    """What the triggers remember: the last scheduled time that was handled, and when the last run started."""

    model_config = ConfigDict(frozen=True)

    handled_until: datetime
    last_started: datetime | None = None


class Due(BaseModel):
    """A run that should start now, as of `scheduled_for`."""

    model_config = ConfigDict(frozen=True)

    scheduled_for: datetime
    reason: str


def next_run(triggers: Triggers, after: datetime) -> datetime | None:
    """The next scheduled time after `after`, or None without a schedule."""
    if triggers.schedule is None:
        return None
    moment: datetime = croniter(triggers.schedule.cron, after).get_next(datetime)
    return moment


def due(triggers: Triggers, limits: Limits, state: TriggerState, now: datetime) -> Due | None:
    """The run to start at `now`, if any.

    Never due: a time at or before `state.handled_until` (so a clock that jumps back starts nothing), and anything
    within `limits.minimum_interval` of the last start (it becomes due when the interval has passed).
    """
    if triggers.schedule is None:
        return None
    latest: datetime = croniter(triggers.schedule.cron, now + timedelta(microseconds=1)).get_prev(datetime)
    if latest <= state.handled_until:
        return None
    if state.last_started is not None and now - state.last_started < limits.minimum_interval:
        return None
    return Due(scheduled_for=latest, reason=f"schedule {triggers.schedule.cron!r} at {latest:%Y-%m-%d %H:%M} UTC")
