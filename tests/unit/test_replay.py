"""What a replay sends, and in which order: what became known at a moment is there for what is asked at it."""

import asyncio
from datetime import UTC, datetime
from itertools import pairwise

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.control import replay
from serinus.control.replay import days, request_rows, v2_types
from serinus.core.signature import Column, Signature
from serinus.core.times import Interval
from serinus.engines.feast_online import Tick

SIGNATURE = Signature(
    model="delays",
    feature_service="delays",
    join_keys={"origin": "String", "plane": "Int64"},
    views=(),
    columns=(
        Column(name="distance", kind="number", dtype="Float64"),
        Column(name="origin", kind="category", dtype="String"),
    ),
)
MIDNIGHT = datetime(2013, 8, 1, tzinfo=UTC)


def at(minutes):
    return pd.Timestamp(MIDNIGHT) + pd.to_timedelta(minutes, unit="min")


def asked(minutes):
    frame = pd.DataFrame({"id": [str(n) for n in range(len(minutes))], "origin": "JFK", "plane": 1, "distance": 2.5})
    return frame.assign(
        event_timestamp=pd.DatetimeIndex([at(minute) for minute in minutes], dtype="datetime64[us, UTC]")
    )


def test_a_key_without_a_value_is_null_and_another_field_is_left_out():
    frame = asked([0]).assign(origin=[None], distance=[float("nan")])
    (row,) = request_rows(frame, SIGNATURE)
    assert row == {"origin": None, "plane": 1, "id": "0", "event_timestamp": "2013-08-01T00:00:00+00:00"}


def test_datatypes_follow_the_signature():
    types = v2_types(SIGNATURE)
    assert types["origin"] == types["id"] == types["event_timestamp"] == "BYTES"
    assert (types["plane"], types["distance"]) == ("INT64", "FP64")


def test_days_cut_at_midnight_and_add_up():
    interval = Interval(since=MIDNIGHT.replace(hour=12), until=datetime(2013, 8, 3, 6, tzinfo=UTC))
    parts = list(days(interval))
    assert [part.since.hour for part in parts] == [12, 0, 0]
    assert (parts[0].since, parts[-1].until) == (interval.since, interval.until)
    assert all(earlier.until == later.since for earlier, later in pairwise(parts))


class World:
    """A store and an endpoint that only note what comes, in order; a rollout that ends at the look of a time."""

    def __init__(self, ends=None):
        self.known = []
        self.seen = []
        self.looks = []
        self.ends = ends
        self.store = self

    def look(self, now):
        self.looks.append((pd.Timestamp(now), len(self.known), len(self.seen)))
        return self.ends is not None and now >= self.ends

    def write_tick(self, tick):
        self.known += [pd.Timestamp(tick.moment)] * len(tick.rows["source"])

    async def send(self, rows):
        for row in rows:
            self.seen.append((pd.Timestamp(row["event_timestamp"]), tuple(self.known)))
        return list(rows)


minutes = st.lists(st.integers(0, 200), min_size=1, max_size=12)


def ticks_at(known):
    return [
        Tick(at(minute).to_pydatetime(), at(max(known)).to_pydatetime(), {"source": [()] * known.count(minute)})
        for minute in sorted(set(known))
    ]


@given(known=minutes, questions=minutes, end=st.integers(0, 210))
def test_a_rollout_is_looked_at_once_all_before_was_answered_and_ends_the_replay(known, questions, end):
    world = World(ends=at(end))
    tally = replay._Tally()
    asyncio.run(replay._replay_day(world, (world, SIGNATURE), ticks_at(known), asked(questions), tally))
    for moment, rows, answers in world.looks:
        assert rows == sum(at(minute) < moment for minute in known)
        assert answers == sum(at(minute) < moment for minute in questions)
    late = sorted(minute for minute in known if minute >= end)
    assert tally.ended == (at(late[0]) if late else None)
    asked_by_then = [minute for minute in questions if not late or minute < late[0]]
    assert len(tally.answers) == len(asked_by_then) == sum(map(len, tally.requests))


@given(known=minutes, questions=minutes)
def test_a_question_sees_exactly_what_was_known_at_its_time(known, questions):
    world = World()
    tally = replay._Tally()
    asyncio.run(replay._replay_day(world, (world, SIGNATURE), ticks_at(known), asked(questions), tally))
    assert len(world.seen) == len(questions) == len(tally.answers)
    for moment, seen in world.seen:
        assert sorted(seen) == sorted(at(minute) for minute in known if at(minute) <= moment)
    assert world.known == sorted(at(minute) for minute in known)
    assert tally.ticks == len(set(known))


@pytest.mark.parametrize("hours", [0, 1])
def test_an_interval_must_end_after_it_starts(hours):
    with pytest.raises(ValueError, match="must end after it starts"):
        Interval(since=MIDNIGHT.replace(hour=1), until=MIDNIGHT.replace(hour=hours))
