"""When a cluster starts a run: tables for the rules, and what a run's name promises."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.core.spec import ContinuousTrainingSpec
from serinus.core.status import ContinuousTrainingStatus, Run
from serinus.core.times import utc
from serinus.core.training_runs import Situation, next_start, outdated, overdue, start

CREATED = datetime(2026, 3, 1, 8, 30, tzinfo=UTC)
DAY = timedelta(days=1)
SPEC = ContinuousTrainingSpec.model_validate(
    {
        "project": {"entryPoint": "project:Tiny"},
        "featureService": "tiny",
        "windows": {"length": "60d"},
        "triggers": {"schedule": {"cron": "0 12 2 * *"}},
        "limits": {"minimumInterval": "6h", "maximumDuration": "2h", "keptRuns": 2},
        "deployment": "tiny",
    },
    by_alias=True,
    by_name=False,
)


def situation(
    last: Run | None = None, request: str | None = None, requested: str | None = None, empty: bool = False
) -> Situation:
    status = ContinuousTrainingStatus(last_run=last, requested=requested)
    return Situation("tiny", SPEC, CREATED, status, request, empty)


def run(as_of: datetime, result: str = "registered", started: datetime | None = None) -> Run:
    return Run(id="1", reason="a test", as_of=as_of, started=started or as_of, result=result)


def test_a_model_without_a_version_gets_one_and_a_name_that_follows_from_its_resource():
    found = start(situation(empty=True), CREATED + timedelta(minutes=1))
    assert found == start(situation(empty=True), CREATED + timedelta(minutes=7))
    assert found.name == "tiny-20260301-080000"
    assert found.as_of == datetime(2026, 3, 1, 8, tzinfo=UTC)


def test_nothing_starts_while_a_run_is_under_way():
    busy = situation(run(CREATED, "running"), request="2013-08-02T12:00:00Z", empty=True)
    assert start(busy, CREATED + 400 * DAY) is None


def test_a_first_run_that_failed_is_not_tried_again_and_again():
    failed = situation(run(CREATED, "failed"), empty=True)
    assert start(failed, CREATED + timedelta(hours=20)) is None
    assert start(failed, datetime(2026, 3, 2, 12, tzinfo=UTC)).as_of == datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("last", "now", "expected"),
    [
        (None, utc("2026-03-02T11:59:00Z"), None),
        (None, utc("2026-03-02T12:05:00Z"), utc("2026-03-02T12:00:00Z")),
        (None, utc("2026-06-30T00:00:00Z"), utc("2026-06-02T12:00:00Z")),
        (run(utc("2026-04-02T12:00:00Z")), utc("2026-04-20T00:00:00Z"), None),
        (run(utc("2026-04-02T09:00:00Z")), utc("2026-04-02T12:00:00Z"), None),
        (run(utc("2026-04-02T09:00:00Z")), utc("2026-04-02T15:00:00Z"), utc("2026-04-02T12:00:00Z")),
    ],
    ids=["not yet", "due", "several missed make one", "handled", "too soon after another", "when that has passed"],
)
def test_the_schedule_counts_from_the_resources_creation(last, now, expected):
    found = start(situation(last), now)
    assert (found.as_of if found else None) == expected


def test_a_request_is_answered_once_and_may_look_back_any_time():
    asked = situation(run(CREATED), request="2013-08-02T12:00:00Z")
    found = start(asked, CREATED + timedelta(minutes=1))
    assert (found.name, found.requested) == ("tiny-20130802-120000", "2013-08-02T12:00:00Z")
    answered = situation(run(found.as_of, started=CREATED), found.requested, found.requested)
    assert start(answered, CREATED + timedelta(minutes=2)) is None
    again = situation(run(found.as_of, started=CREATED), "2013-08-02T12:00:00Z#2", found.requested)
    assert start(again, CREATED + timedelta(minutes=2)).name == "tiny-20130802-120000-2"


def test_a_request_that_looks_back_does_not_repeat_the_past_of_the_schedule():
    answered = situation(run(datetime(2013, 8, 2, 12, tzinfo=UTC), started=CREATED))
    assert start(answered, CREATED + timedelta(hours=8)) is None
    assert next_start(answered) == datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize("request_", ["soon", "2013-13-01T00:00:00Z", "#2"])
def test_a_request_that_is_no_time_is_told(request_):
    with pytest.raises(ValueError, match=r".*"):
        start(situation(request=request_), CREATED)


def test_the_next_start_keeps_the_minimum_interval():
    assert next_start(situation(run(datetime(2026, 4, 2, 9, tzinfo=UTC)))) == datetime(2026, 4, 2, 15, tzinfo=UTC)


def test_a_run_may_take_its_time_and_no_longer():
    assert not overdue(SPEC, CREATED, CREATED + timedelta(hours=2))
    assert overdue(SPEC, CREATED, CREATED + timedelta(hours=2, seconds=1))


def test_the_newest_runs_are_remembered():
    assert outdated(SPEC, ["d", "c", "b", "a"]) == ["b", "a"]
    assert outdated(SPEC, ["d"]) == []


@given(st.lists(st.timedeltas(timedelta(0), timedelta(days=40)), max_size=30))
def test_no_time_of_the_schedule_is_handled_twice_and_never_two_within_the_interval(steps):
    now, last, seen = CREATED, None, []
    for step in steps:
        now += step
        found = start(situation(last), now)
        if found is not None:
            seen.append((found.as_of, now))
            last = run(found.as_of, started=now)
    assert len({as_of for as_of, _ in seen}) == len(seen)
    assert all(b[1] - a[1] >= timedelta(hours=6) for a, b in pairwise(seen))
