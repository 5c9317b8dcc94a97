"""Whether the prediction log is whole and up to date while a rollout lasts, from counters on both of its ends.

Rows that vanish do not vanish at random: a crash takes those of one version, a full disk those of a busy hour. So
evidence from a log that lost rows is refused, and so is evidence from a log that lags. The counters run since a
predictor began to count; what matters is what happened since the first look, which is written down beside the cache.

A predictor's own counters are read after the files were counted, so that what is at the destination is counted, too.
Those that somebody else has gathered are older than the files: watching begins with the first ones that are younger.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from serinus.core.prediction_log import LogCounts, completeness
from serinus.engines.files import write_text
from serinus.engines.waiting import wait_until

log = logging.getLogger(__name__)

# Rows are in memory for a tenth of a second before they are in a file, and counters are not read all at once.
_UNDER_WAY_SECONDS = 2.0
_PATIENCE_SECONDS = 2.0
_NOT_YET = "the prediction log's counters are older than its files: it is watched from the next ones on"


class Lag(NamedTuple):
    """Counters are up to so old at a look (`by`), where they do not come from the predictor itself."""

    by: timedelta
    clock: Callable[[], datetime]


class _Kept(BaseModel):
    """How many rows the log had, shipped or waiting, or had given up, at a moment."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    rows: int


class Watched(BaseModel):
    """What was counted at the first look, and what must have been shipped by a later one.

    `rows` were at the destination then. `lost` rows are known to be lost from before counting began anew. With `listed`
    there was no first look yet: that is when the rows at the destination were counted.
    """

    model_config = ConfigDict(frozen=True)

    at: datetime
    first: LogCounts
    rows: int
    last: LogCounts
    lost: int = 0
    kept: tuple[_Kept, ...] = ()
    listed: datetime | None = None


class LogWatch:
    """The balance of one log since the first look.

    Args:
        path: where it is kept between looks.
        read: the counters of all versions, as `log_balance.read_counts`.
        settle: rows older than this ought to be at the destination.
        tolerated: share of the answered rows that may be lost.
        lag: of the counters; none where they are read when they are asked for.
    """

    def __init__(
        self,
        path: Path,
        read: Callable[[], LogCounts],
        settle: timedelta,
        tolerated: float,
        lag: Lag | None = None,
    ) -> None:
        self._path = path
        self._read = read
        self._settle = settle
        self._tolerated = tolerated
        self._lag = lag
        self._watched = self._load()

    def problems(self, now: datetime, rows: Callable[[], int]) -> list[str]:
        """What is wrong with the log, in words.

        Args:
            now: the time of the look.
            rows: counts all rows at the destination. It is called after the counters were read, but before at the first
                look: files are there before they are counted, so that a whole log never seems to lack rows.

        Raises:
            EngineError: the counters or the destination cannot be read.
        """
        watched = self._watched
        if watched is None:
            return self._begin(now, rows(), lost=0)
        if watched.listed is not None and self._lag is not None:
            rows()  # they are taken in meanwhile
            if now - self._lag.by <= watched.listed:
                return [_NOT_YET]
            return self._count(now, watched.rows, watched.lost)
        counts = self._settled(watched, now)
        there = rows()
        if _fell(counts, watched.last):
            log.info("the prediction log's counters began anew")
            return self._begin(now, there, lost=max(0, _gone(watched.last - watched.first)) + watched.lost)
        found = self._judge(watched, counts, there, now)
        kept = _Kept(at=now, rows=_kept(counts))
        due = [each for each in watched.kept if each.at <= now - self._settle]
        waiting = [each for each in watched.kept if each.at > now - self._settle]
        self._store(watched.model_copy(update={"last": counts, "kept": (*due[-1:], *waiting, kept)}))
        return found

    def _begin(self, now: datetime, rows: int, lost: int) -> list[str]:
        if self._lag is None:
            return self._count(now, rows, lost)
        counts, listed = self._read(), self._lag.clock()
        self._store(Watched(at=now, first=counts, rows=rows, last=counts, lost=lost, listed=listed))
        return [_NOT_YET]

    def _count(self, now: datetime, rows: int, lost: int) -> list[str]:
        counts = self._read()
        kept = _Kept(at=now, rows=_kept(counts))
        self._store(Watched(at=now, first=counts, rows=rows, last=counts, lost=lost, kept=(kept,)))
        return [f"{lost} rows of the prediction log were lost"] if lost else []

    def _settled(self, watched: Watched, now: datetime) -> LogCounts:
        """The counters, read again for a while if rows seem to be missing that may be under way."""
        counts = self._read()

        def balanced() -> bool:
            nonlocal counts
            counts = self._read()
            return not self._unbalanced(watched, counts, now)

        if self._lag is None and self._unbalanced(watched, counts, now):
            wait_until(balanced, _PATIENCE_SECONDS, every=0.2)
        return counts

    def _unbalanced(self, watched: Watched, counts: LogCounts, now: datetime) -> int:
        """Rows that were answered and are at no station, more than can be under way; below zero, from nowhere."""
        change = completeness(counts - watched.first)
        seconds = max((now - watched.at).total_seconds(), 1.0)
        allowed = change.answered * (self._tolerated + min(1.0, _UNDER_WAY_SECONDS / seconds))
        missing = change.unlogged + change.gap
        return missing if abs(missing) > allowed else 0

    def _judge(self, watched: Watched, counts: LogCounts, rows: int, now: datetime) -> list[str]:
        change = counts - watched.first
        found = []
        dropped = completeness(change).dropped + watched.lost
        if dropped > self._tolerated * change.answered:
            found.append(f"{dropped} of {change.answered} rows of the prediction log were lost")
        unbalanced = self._unbalanced(watched, counts, now)
        if unbalanced > 0:
            found.append(f"{unbalanced} of {change.answered} answered rows never came to the prediction log")
        if unbalanced < 0:
            found.append(f"the prediction log has {-unbalanced} rows more than were answered")
        absent = change.shipped - (rows - watched.rows)
        if absent > self._tolerated * change.answered:
            found.append(f"{absent} rows that were shipped are not at the prediction log's destination")
        due = [each for each in watched.kept if each.at <= now - self._settle]
        late = due[-1].rows - counts.shipped - _given_up(counts) if due else 0
        if late > 0:
            seconds = self._settle.total_seconds()
            found.append(f"{late} rows have waited for more than {seconds:g} s to be shipped")
        return found

    def _load(self) -> Watched | None:
        try:
            return Watched.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            log.warning("%s is damaged, the log is watched from here on: %s", self._path, error)
            return None

    def _store(self, watched: Watched) -> None:
        write_text(self._path, watched.model_dump_json())
        self._watched = watched


def _given_up(counts: LogCounts) -> int:
    """Rows that will never be shipped, and are no longer waiting."""
    return counts.dropped.get("spool_full", 0)


def _kept(counts: LogCounts) -> int:
    return counts.shipped + counts.spooled + _given_up(counts)


def _gone(change: LogCounts) -> int:
    """Rows that are known to be lost."""
    return completeness(change).dropped


def _fell(counts: LogCounts, before: LogCounts) -> bool:
    """Whether counting began anew."""
    return any(getattr(counts, name) < getattr(before, name) for name in ("answered", "logged", "shipped"))
