"""Balancing the log's stations, names of its files, and reading one reported outcome."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.core.errors import InvalidInput
from serinus.core.outcomes import parse_outcome
from serinus.core.prediction import Outcome
from serinus.core.prediction_log import SAMPLED, LogCounts, completeness, object_name

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
COUNT = st.integers(0, 10**9)


@given(COUNT, COUNT, COUNT, COUNT, COUNT, COUNT)
def test_every_row_is_at_exactly_one_station(
    shipped: int, spooled: int, full: int, sampled: int, killed: int, unlogged: int
) -> None:
    logged = shipped + spooled + full + sampled + killed
    found = completeness(
        LogCounts(
            answered=logged + unlogged,
            logged=logged,
            dropped={"disk_full": full, SAMPLED: sampled},
            shipped=shipped,
            spooled=spooled,
        )
    )
    assert (found.kept, found.sampled_out, found.dropped) == (shipped + spooled, sampled, full)
    assert (found.gap, found.unlogged) == (killed, unlogged)
    assert found.lost == killed + unlogged + full
    assert found.complete == (found.lost == 0)
    assert found.kept + found.sampled_out + found.lost == found.answered


def test_losses_that_cancel_out_are_still_losses() -> None:
    found = completeness(LogCounts(answered=10, logged=12, shipped=10, spooled=0))
    assert (found.lost, found.complete) == (0, False)


def test_a_window_is_the_difference_of_two_looks() -> None:
    before = LogCounts(answered=10, logged=10, dropped={"disk_full": 1}, shipped=4, spooled=5)
    after = LogCounts(answered=30, logged=30, dropped={"disk_full": 1, "queue_full": 2}, shipped=25, spooled=2)
    window = after - before
    assert window.dropped == {"disk_full": 0, "queue_full": 2}
    assert window.spooled == -3
    assert completeness(window).kept == 18
    assert completeness(window).gap == 0


def test_files_are_partitioned_by_day_model_and_version() -> None:
    day = date(2024, 5, 1)
    partition = {"model": "m", "version": "3"}
    assert object_name("predictions", day, partition, "w-1") == (
        "predictions/date=2024-05-01/model=m/version=3/w-1.parquet"
    )
    assert object_name("outcomes", day, {"model": "m"}, "w-1") == "outcomes/date=2024-05-01/model=m/w-1.parquet"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prediction_id": "p1", "label": 1}, Outcome(prediction_id="p1", label=1, known_at=NOW)),
        ({"id": 17, "label": False}, Outcome(id="17", label=0, known_at=NOW)),
        (
            {"id": "x", "label": 0, "label_timestamp": "2024-04-30T14:00:00+02:00"},
            Outcome(id="x", label=0, known_at=datetime(2024, 4, 30, 12, tzinfo=UTC)),
        ),
    ],
)
def test_outcomes_are_read(row: dict[str, Any], expected: Outcome) -> None:
    assert parse_outcome(row, "[0]", NOW) == expected


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("p1", r"\[0\]: found 'p1', allowed: an object"),
        ({"label": 1}, "neither of prediction_id and id"),
        ({"id": "a", "prediction_id": "b", "label": 1}, "both of prediction_id and id"),
        ({"id": "a"}, r"\[0\]\.label: found nothing, allowed: 0 or 1"),
        ({"id": "a", "label": 2}, "found 2"),
        ({"id": "a", "label": 0.5}, "found 0.5"),
        ({"id": "a", "label": "1"}, "found '1'"),
        ({"id": True, "label": 1}, "found True"),
        ({"id": "", "label": 1}, "1 to 512 characters"),
        ({"id": "a" * 513, "label": 1}, "1 to 512 characters"),
        ({"id": "a", "label": 1, "label_timestamp": "soon"}, "found 'soon', allowed: a time in ISO 8601"),
        ({"id": "a", "label": 1, "label_timestamp": 17}, "found 17"),
        ({"id": "a", "label": 1, "lable": 1}, "lable: found an unknown field"),
    ],
)
def test_wrong_outcomes_are_refused_in_words(row: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse_outcome(row, "[0]", NOW)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_nothing_that_is_sent_breaks_the_reading(value: Any) -> None:
    for row in (
        value,
        {"id": value, "label": 1},
        {"id": "a", "label": value},
        {"id": "a", "label": 1, "label_timestamp": value},
    ):
        try:
            found = parse_outcome(row, "[0]", NOW)
        except InvalidInput:
            continue
        assert found.label in (0, 1)
        assert found.known_at.tzinfo is not None
