"""Durations, moments and intervals."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from serinus.core.times import (
    DURATION_PATTERN,
    Duration,
    Interval,
    Moment,
    PositiveDuration,
    format_duration,
    parse_duration,
    utc,
)


class Times(BaseModel):
    any: Duration = timedelta(0)
    some: PositiveDuration = timedelta(1)
    at: Moment | None = None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("36h", timedelta(hours=36)),
        ("31d", timedelta(days=31)),
        ("1h30m", timedelta(minutes=90)),
        ("1d2h3m4s5ms", timedelta(days=1, hours=2, minutes=3, seconds=4, milliseconds=5)),
        ("500ms", timedelta(milliseconds=500)),
        ("0s", timedelta(0)),
    ],
)
def test_durations_are_read(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "36", "h", "-1h", "1.5h", "1m1h", "1h 30m", "1w", "36h\n", "99999999999d", "٣h"])
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="a duration such as 36h"):
        parse_duration(text)


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=100_000)))
def test_a_duration_survives_being_written_to_the_millisecond(value: timedelta) -> None:
    text = format_duration(value)
    assert re.fullmatch(DURATION_PATTERN, text)
    assert abs(parse_duration(text) - value) <= timedelta(microseconds=500)
    assert format_duration(parse_duration(text)) == text


def test_a_negative_duration_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="not negative"):
        format_duration(timedelta(seconds=-1))


@given(st.from_regex(DURATION_PATTERN.replace("+", "{1,4}"), fullmatch=True).filter(bool))
def test_whatever_the_pattern_takes_is_read(text: str) -> None:
    assert parse_duration(text) >= timedelta(0)


@pytest.mark.parametrize("value", [36, 1.5, None, True, timedelta(hours=-1), ["1h"]])
def test_fields_take_only_durations(value: object) -> None:
    with pytest.raises(ValidationError, match="a duration such as"):
        Times.model_validate({"any": value})


def test_a_positive_duration_is_longer_than_nothing() -> None:
    assert Times(any=timedelta(0)).any == timedelta(0)
    with pytest.raises(ValidationError, match="longer than nothing"):
        Times.model_validate({"some": "0h0s"})


@pytest.mark.parametrize("value", ["2013-01-01T00:00:00", "2013-01-01", "soon", 1356998400, datetime(2013, 1, 1)])
def test_a_moment_needs_a_zone(value: object) -> None:
    with pytest.raises(ValidationError, match="a time with a time zone"):
        Times.model_validate({"at": value})


def test_moments_are_kept_in_utc_and_survive_json() -> None:
    times = Times(at=datetime(2013, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), any=timedelta(hours=36))
    assert times.at == datetime(2013, 1, 1, tzinfo=UTC)
    assert times.model_dump(mode="json")["at"] == "2013-01-01T00:00:00Z"
    assert Times.model_validate_json(times.model_dump_json()) == times


def test_an_interval_is_half_open() -> None:
    since, until = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 2, 1, tzinfo=UTC)
    interval = Interval(since=since, until=until)
    assert since in interval
    assert until not in interval
    assert str(interval) == "2013-01-01 00:00 to 2013-02-01 00:00 UTC"


@pytest.mark.parametrize(
    ("since", "until"),
    [
        (datetime(2013, 2, 1, tzinfo=UTC), datetime(2013, 1, 1, tzinfo=UTC)),
        (datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 1, tzinfo=UTC)),
        (datetime(2013, 1, 1), datetime(2013, 2, 1)),
    ],
)
def test_an_interval_that_makes_no_sense_is_refused(since: datetime, until: datetime) -> None:
    with pytest.raises(ValidationError):
        Interval(since=since, until=until)


def test_utc_takes_text_and_times() -> None:
    assert utc("2013-01-01") == utc("2013-01-01T02:00:00+02:00") == utc(datetime(2013, 1, 1))
