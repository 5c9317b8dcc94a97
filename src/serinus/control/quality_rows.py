"""The scored rows of one rollout in memory, and what became known of their outcomes.

New rows and new outcomes are taken in as they come; what each row adds to the sums is worked out once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serinus.control.quality_score import CANARY, SCORED, STABLE
from serinus.core.dataset import ID, LABEL, LABEL_TIMESTAMP
from serinus.core.evidence import ArmLosses, LossSums
from serinus.core.prediction_log import PREDICTION_ID, PROBABILITY, RECEIVED_AT, SERVED_AT, VERSION
from serinus.core.quality import Calibrations, Metric, expected_differences, losses, sum_up
from serinus.core.times import Interval
from serinus.engines.prediction_log import OUTCOMES, first_of_each, join

_TIME = pa.timestamp("us", tz="UTC")
_ROW = "row"
UNKNOWN = -1

Mask = NDArray[np.bool_]
Hashes = NDArray[np.int64]


class _Keys(NamedTuple):
    """Hashes of rows' ids: of the prediction, of the caller (0 without one), and of whichever names the row.

    They find candidates among millions of rows; what is then compared are the ids themselves.
    """

    prediction: Hashes
    caller: Hashes
    name: Hashes

    def __add__(self, others: _Keys) -> _Keys:  # type: ignore[override]
        return _Keys(*(np.concatenate(pair) for pair in zip(self, others, strict=True)))

    def take(self, rows: NDArray[np.int64]) -> _Keys:
        return _Keys(*(each[rows] for each in self))

    def among(self, others: _Keys) -> Mask:
        """Whether each row has an id of either kind that is among the others', or seems to."""
        return _among(self.prediction, others.prediction) | _among(self.caller, others.caller)


class ScoredRows:
    """Rows with both versions' probabilities: a few hundred bytes each, with its outcome, while a rollout lasts. A busy
    service samples its log.

    Requests that an application repeats under its own `id` share one outcome and tell nothing new: the first that was
    served counts, whichever segment comes first.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._calibrations: Calibrations | None = None
        self._table = SCORED.empty_table()
        self._outcomes = OUTCOMES.empty_table()
        self._keys = _keys(self._table)
        self._outcome_keys = _keys(self._outcomes)
        self._served = np.empty(0, dtype=np.int64)
        self._counts = np.empty(0, dtype=np.bool_)
        self._labels = np.empty(0, dtype=np.int8)
        self._effects = np.empty((0, 3))  # the difference if the outcome is 0, if it is 1, and the one to expect

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, tables: Sequence[pa.Table], outcomes: pa.Table) -> None:
        """Take in new rows, as `SCORED`, and new reports of outcomes, as `OUTCOMES`, in any order."""
        before = len(self)
        new = pa.concat_tables([SCORED.empty_table(), *tables])
        self._table = pa.concat_tables([self._table, new])
        self._served = np.concatenate([self._served, _microseconds(new[SERVED_AT])])
        self._counts = np.concatenate([self._counts, np.ones(new.num_rows, dtype=np.bool_)])
        self._labels = np.concatenate([self._labels, np.full(new.num_rows, UNKNOWN, dtype=np.int8)])
        self._effects = np.concatenate([self._effects, self._work_out(new)])
        self._outcomes = pa.concat_tables([self._outcomes, outcomes])
        keys, reported = _keys(new), _keys(outcomes)
        self._keys, self._outcome_keys = self._keys + keys, self._outcome_keys + reported
        if new.num_rows:
            self._count_once(keys)
        touched = self._keys.among(reported)
        touched[before:] = True
        self._label(np.flatnonzero(touched))

    def calibrate(self, calibrations: Calibrations | None) -> None:
        """Expect differences by these curves from here on, of the rows that are there too."""
        self._calibrations = calibrations
        self._effects = self._work_out(self._table)

    def labelled(self, until: datetime) -> LossSums:
        """Sums of the differences of rows with known outcomes that were served before a time."""
        held = self._usable(until) & (self._labels != UNKNOWN)
        return sum_up(self._effects[held, self._labels[held]])

    def estimated(self, until: datetime) -> LossSums:
        """Sums of the differences that are to be expected, of all rows served before a time; none uncalibrated."""
        return sum_up(self._effects[self._usable(until), 2]) if self._calibrations else LossSums()

    def arms(self, stretch: Interval, roles: tuple[int, int], known_by: datetime) -> ArmLosses:
        """Losses of what each version answered itself in a stretch of serving time.

        By outcomes that were known and received by a time: whoever asks later, when labels were corrected, gets the
        same answer.
        """
        reported = self._outcomes
        for name in (LABEL_TIMESTAMP, RECEIVED_AT):
            reported = reported.filter(pc.less_equal(reported[name], pa.scalar(known_by, _TIME)))
        since, until = (_instant(each) for each in (stretch.since, stretch.until))
        held = self._counts & (self._served >= since) & (self._served < until)
        rows = join(self._table.filter(pa.array(held)), reported)
        if not rows.num_rows:
            return ArmLosses(since=stretch.since, until=stretch.until, canary=LossSums(), stable=LossSums())
        version = rows[VERSION].to_numpy()
        lost = losses(rows[LABEL].to_numpy(), rows[PROBABILITY].to_numpy(), self._metric)
        canary, stable = (sum_up(lost[version == each]) for each in roles)
        return ArmLosses(since=stretch.since, until=stretch.until, canary=canary, stable=stable)

    def _usable(self, until: datetime) -> Mask:
        found: Mask = self._counts & (self._served < _instant(until)) & ~np.isnan(self._effects[:, 0])
        return found

    def _work_out(self, rows: pa.Table) -> NDArray[np.float64]:
        """Three columns of `_effects`; NaN where a version could not score the row."""
        canary, stable = rows[CANARY].to_numpy(), rows[STABLE].to_numpy()
        known = [losses(label, canary, self._metric) - losses(label, stable, self._metric) for label in (0, 1)]
        if self._calibrations is None:
            return np.column_stack([*known, np.full(rows.num_rows, np.nan)])
        return np.column_stack([*known, expected_differences(self._calibrations, canary, stable, self._metric)])

    def _count_once(self, new: _Keys) -> None:
        """Let the first served row of each id count, now that rows with these keys came in."""
        rows = np.flatnonzero(_among(self._keys.name, new.name) & self._counts)
        asked = self._table.select([PREDICTION_ID, ID]).take(rows)
        found = pa.table(
            {
                "name": pc.coalesce(asked[ID], asked[PREDICTION_ID]),
                _ROW: rows,
                SERVED_AT: self._served[rows],
                PREDICTION_ID: asked[PREDICTION_ID],
            }
        ).sort_by([(SERVED_AT, "ascending"), (PREDICTION_ID, "ascending")])
        self._counts[rows] = False
        self._counts[first_of_each(found, "name")[_ROW].to_numpy()] = True

    def _label(self, rows: NDArray[np.int64]) -> None:
        """Look up the outcomes of some rows again."""
        if not len(rows) or not self._outcomes.num_rows:
            return
        asked = self._table.select([PREDICTION_ID, ID]).take(rows).append_column(_ROW, pa.array(rows))
        found = join(asked, self._outcomes.filter(pa.array(self._outcome_keys.among(self._keys.take(rows)))))
        self._labels[found[_ROW].to_numpy()] = found[LABEL].to_numpy()


def _keys(table: pa.Table) -> _Keys:
    prediction, caller = (_hashes(table[name]) for name in (PREDICTION_ID, ID))
    return _Keys(prediction, caller, np.where(caller != 0, caller, prediction))


def _hashes(ids: pa.ChunkedArray) -> Hashes:
    values = (0 if each is None else hash(each) or 1 for each in ids.to_pylist())
    return np.fromiter(values, dtype=np.int64, count=len(ids))


def _among(hashes: Hashes, others: Hashes) -> Mask:
    found: Mask = pc.is_in(pa.array(hashes), value_set=pa.array(others[others != 0])).to_numpy(zero_copy_only=False)
    return found


def _microseconds(times: pa.ChunkedArray) -> NDArray[np.int64]:
    found: NDArray[np.int64] = times.cast(pa.int64()).to_numpy()
    return found


def _instant(moment: datetime) -> int:
    return int(pa.scalar(moment, _TIME).value)
