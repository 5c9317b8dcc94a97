"""The balance of the log while a rollout lasts: what is lost or late is said, what is under way is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serinus.control.log_watch import Lag, LogWatch
from serinus.core.prediction_log import LogCounts

START = datetime(2024, 5, 1, tzinfo=UTC)
SETTLE = timedelta(minutes=1)


class Station:
    """Counters that a test sets."""

    def __init__(self, path: Path, tolerated: float = 0.0) -> None:
        self.path = path / "counters.json"
        self.tolerated = tolerated
        self.counts = LogCounts(answered=1000, logged=1000, shipped=1000, spooled=0)
        self.rows = 5000
        self.restart()
        assert self.look(0) == []

    def restart(self) -> None:
        self.watch = LogWatch(self.path, lambda: self.counts, SETTLE, self.tolerated)

    def look(self, minutes: float) -> list[str]:
        return self.watch.problems(START + timedelta(minutes=minutes), lambda: self.rows)

    def change(self, rows: int = 0, **more: int) -> None:
        values = self.counts.model_dump() | {name: getattr(self.counts, name) + by for name, by in more.items()}
        self.counts = LogCounts(**values)
        self.rows += rows

    def drop(self, reason: str, rows: int) -> None:
        dropped = self.counts.dropped | {reason: self.counts.dropped.get(reason, 0) + rows}
        self.counts = self.counts.model_copy(update={"dropped": dropped})


@pytest.fixture
def station(tmp_path: Path) -> Station:
    return Station(tmp_path)


def test_a_whole_log_has_no_problem_and_survives_restarts(station: Station) -> None:
    for minute in range(1, 6):
        station.change(answered=600, logged=600, shipped=600, rows=600)
        station.restart()
        assert station.look(minute) == []


def test_rows_in_memory_are_under_way_and_rows_that_stay_away_are_lost(station: Station) -> None:
    station.change(answered=6000, logged=6000, shipped=5950, rows=5950)
    assert station.look(1) == []
    station.change(answered=60_000, logged=60_000, shipped=58_000, rows=58_000)
    assert station.look(2) == ["2050 of 66000 answered rows never came to the prediction log"]


@pytest.mark.parametrize("reason", ["queue_full", "disk_full", "spool_full"])
def test_what_is_known_to_be_dropped_is_lost_and_sampling_is_not(station: Station, reason: str) -> None:
    station.change(answered=1000, logged=1000, shipped=500, rows=500)
    station.drop("sampled", 500)
    assert station.look(5) == []
    station.drop(reason, 3)
    station.change(answered=1000, logged=1000, shipped=997, rows=997)
    assert station.look(10) == ["3 of 2000 rows of the prediction log were lost"]
    assert station.look(11) == ["3 of 2000 rows of the prediction log were lost"]


def test_a_tolerated_share_is_tolerated(tmp_path: Path) -> None:
    station = Station(tmp_path, tolerated=0.01)
    station.drop("queue_full", 9)
    station.change(answered=1000, logged=1000, shipped=991, rows=991)
    assert station.look(60) == []
    station.drop("queue_full", 9)
    assert station.look(61) == ["18 of 1000 rows of the prediction log were lost"]


def test_a_segment_that_vanished_from_the_destination_is_missed(station: Station) -> None:
    station.change(answered=1000, logged=1000, shipped=1000, rows=900)
    assert station.look(5) == ["100 rows that were shipped are not at the prediction log's destination"]


def test_rows_from_nowhere_are_no_better(station: Station) -> None:
    station.change(answered=1000, logged=1000, shipped=1500, rows=1500)
    assert station.look(60) == ["the prediction log has 500 rows more than were answered"]


def test_rows_that_wait_too_long_are_late_until_they_are_shipped(station: Station) -> None:
    station.change(answered=100, logged=100, spooled=100)
    assert station.look(1) == []
    station.change(answered=300, logged=300, spooled=300)
    assert station.look(2) == ["100 rows have waited for more than 60 s to be shipped"]
    station.change(shipped=100, spooled=-100, rows=100)
    assert station.look(2.5) == []
    assert station.look(3.5) == ["300 rows have waited for more than 60 s to be shipped"]
    station.restart()
    station.change(shipped=300, spooled=-300, rows=300)
    assert station.look(4) == []


def test_rows_given_up_are_lost_and_no_longer_late(station: Station) -> None:
    station.change(answered=100, logged=100, spooled=100)
    assert station.look(1) == []
    station.drop("spool_full", 100)
    station.change(spooled=-100)
    assert station.look(2) == ["100 of 100 rows of the prediction log were lost"]


def test_counting_that_begins_anew_is_no_loss_and_forgets_none(station: Station) -> None:
    station.drop("queue_full", 7)
    station.change(answered=1000, logged=1000, shipped=993, rows=993)
    assert station.look(10) == ["7 of 1000 rows of the prediction log were lost"]
    station.counts = LogCounts(answered=10, logged=10, shipped=0, spooled=10)
    assert station.look(11) == ["7 rows of the prediction log were lost"]
    station.change(answered=5000, logged=5000, shipped=5010, spooled=-10, rows=5010)
    assert station.look(20) == ["7 of 5000 rows of the prediction log were lost"]


def test_counting_that_begins_anew_in_a_whole_log_goes_on(station: Station) -> None:
    station.counts = LogCounts(answered=10, logged=10, shipped=0, spooled=10)
    assert station.look(11) == []
    station.change(answered=500, logged=500, shipped=510, spooled=-10, rows=510)
    assert station.look(20) == []


def test_a_damaged_file_is_begun_anew(station: Station) -> None:
    station.path.write_text("{")
    station.restart()
    assert station.look(5) == []
    assert station.look(6) == []


class LateStation(Station):
    """Counters that somebody else has gathered: they know less than the destination has at each look."""

    def __init__(self, path: Path) -> None:
        self.listed = START + timedelta(seconds=20)
        super().__init__(path)

    def restart(self) -> None:
        self.watch = LogWatch(self.path, lambda: self.counts, SETTLE, 0.0, Lag(timedelta(seconds=30), self._clock))

    def _clock(self) -> datetime:
        return self.listed

    def look(self, minutes: float) -> list[str]:
        found = super().look(minutes)
        return [] if minutes == 0 and found == [NOT_YET] else found


NOT_YET = "the prediction log's counters are older than its files: it is watched from the next ones on"


def test_counters_that_are_older_than_the_files_do_not_count_yet(tmp_path: Path) -> None:
    station = LateStation(tmp_path)
    # At the first look 400 rows were at the destination of which the counters knew nothing.
    station.change(answered=400, logged=400, shipped=400)
    assert station.look(0.8) == [NOT_YET]
    station.restart()
    assert station.look(0.9) == []
    station.change(answered=600, logged=600, shipped=600, rows=600)
    assert station.look(2) == []
    station.change(answered=600, logged=600, shipped=600, rows=500)
    assert station.look(3) == ["100 rows that were shipped are not at the prediction log's destination"]


def test_gathered_counters_that_begin_anew_are_waited_for_again(tmp_path: Path) -> None:
    station = LateStation(tmp_path)
    assert station.look(1) == []
    station.drop("queue_full", 7)
    station.change(answered=1000, logged=1000, shipped=993, rows=993)
    assert station.look(2) == ["7 of 1000 rows of the prediction log were lost"]
    station.counts, station.listed = LogCounts(answered=0, logged=0, shipped=0, spooled=0), START + timedelta(minutes=3)
    assert station.look(3) == [NOT_YET]
    assert station.look(4) == ["7 rows of the prediction log were lost"]
