"""When runs become due: tables for the rules, properties for never twice and never too often."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.core.spec.training import Limits, Schedule, Triggers
from serinus.core.triggers import TriggerState, due, next_run

MONTHLY = Triggers(schedule=Schedule(cron="0 12 2 * *"))
START = datetime(2013, 8, 2, 12, tzinfo=UTC)
NO_LIMIT = Limits(minimum_interval=timedelta(0))


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (START, None),
        (START + timedelta(days=30), None),
        (datetime(2013, 9, 2, 11, 59, 59, tzinfo=UTC), None),
        (datetime(2013, 9, 2, 12, tzinfo=UTC), datetime(2013, 9, 2, 12, tzinfo=UTC)),
        (datetime(2013, 9, 3, tzinfo=UTC), datetime(2013, 9, 2, 12, tzinfo=UTC)),
        (datetime(2013, 12, 25, tzinfo=UTC), datetime(2013, 12, 2, 12, tzinfo=UTC)),
        (START - timedelta(days=90), None),
    ],
    ids=["already handled", "not yet", "a second early", "on time", "late", "several missed make one", "clock back"],
)
def test_schedule(now, expected):
    found = due(MONTHLY, NO_LIMIT, TriggerState(handled_until=START), now)
    assert (found.scheduled_for if found else None) == expected


def test_without_a_schedule_nothing_is_due():
    assert due(Triggers(), NO_LIMIT, TriggerState(handled_until=START), START + timedelta(days=999)) is None
    assert next_run(Triggers(), START) is None


def test_minimum_interval_postpones_but_does_not_drop():
    hourly = Triggers(schedule=Schedule(cron="0 * * * *"))
    limits = Limits(minimum_interval=timedelta(hours=3))
    state = TriggerState(handled_until=START, last_started=START)
    assert due(hourly, limits, state, START + timedelta(hours=2)) is None
    found = due(hourly, limits, state, START + timedelta(hours=3))
    assert found is not None
    assert found.scheduled_for == START + timedelta(hours=3)


def test_next_run_is_the_first_after():
    assert next_run(MONTHLY, START) == datetime(2013, 9, 2, 12, tzinfo=UTC)


@given(st.lists(st.integers(0, 60 * 24 * 40), max_size=60), st.integers(0, 600))
def test_any_sequence_of_looks_runs_each_time_once_and_never_too_often(minutes, interval):
    triggers = Triggers(schedule=Schedule(cron="30 */2 * * *"))
    limits = Limits(minimum_interval=timedelta(minutes=interval))
    state, handled, starts = TriggerState(handled_until=START), [], []
    for minute in minutes:  # in any order: the clock may jump back
        now = START + timedelta(minutes=minute)
        found = due(triggers, limits, state, now)
        if found:
            assert found.scheduled_for <= now
            handled.append(found.scheduled_for)
            starts.append(now)
            state = TriggerState(handled_until=found.scheduled_for, last_started=now)
    assert handled == sorted(set(handled))
    assert all(later - earlier >= timedelta(minutes=interval) for earlier, later in pairwise(starts))
