"""Both versions of a rollout calibrated on the log of the time before it, once and for all.

The curves follow from what was known when the rollout began and stay as they are while it lasts: if each look fitted
them anew, every row's estimate would change under the test that adds them up.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, ValidationError

from serinus.control.quality_score import PairScorer
from serinus.core.dataset import EVENT_TIMESTAMP, LABEL, LABEL_TIMESTAMP
from serinus.core.prediction_log import RECEIVED_AT, SERVED_AT, SHADOW
from serinus.core.quality import MINIMUM_OF_EACH, MINIMUM_ROWS, Calibrations, calibrate, enough
from serinus.core.times import Interval
from serinus.engines.files import write_text
from serinus.engines.prediction_log import OUTCOMES, join, named, read_segment, segment_files
from serinus.engines.prediction_store import PredictionStore

log = logging.getLogger(__name__)

ROWS = 20_000
"""Labelled rows are enough; older ones are then left alone."""
_SEGMENTS = 5_000
_TIME = pa.timestamp("us", tz="UTC")


class Past(BaseModel):
    """Which rows may calibrate: served in `served`, asked from `unseen_since` on, outcomes received by `known_by`."""

    model_config = ConfigDict(frozen=True)

    model: str
    served: Interval
    unseen_since: datetime
    known_by: datetime


class _Kept(BaseModel):
    calibrations: Calibrations | None


def calibrations(scorer: PairScorer, store: PredictionStore, past: Past, folder: Path) -> Calibrations | None:
    """Both versions' calibration; None where too few outcomes were known.

    Args:
        scorer: both versions.
        store: the log's destination.
        past: the rows that may be used.
        folder: where the curves are kept.

    Raises:
        EngineError: the log cannot be read.
        InvalidData: logged rows are not what a version takes.
    """
    path = folder / f"calibration-{past.known_by:%Y%m%dT%H%M%S%f}.json"
    try:
        return _Kept.model_validate_json(path.read_bytes()).calibrations
    except (FileNotFoundError, ValidationError):
        pass
    found = _fit(scorer, store, past)
    write_text(path, _Kept(calibrations=found).model_dump_json())
    return found


def _fit(scorer: PairScorer, store: PredictionStore, past: Past) -> Calibrations | None:
    parts = list(_scored(scorer, store, past))
    labels, canary, stable = (np.concatenate([part[at] for part in parts] or [np.empty(0)]) for at in range(3))
    labels = labels.astype(np.int64)
    if not enough(labels):
        log.info(
            "no estimate of quality before outcomes are known: %d rows of before the rollout have outcomes; "
            "%d are needed, and %d of each outcome", len(labels), MINIMUM_ROWS, MINIMUM_OF_EACH,
        )  # fmt: skip
        return None
    return Calibrations(canary=calibrate(canary, labels), stable=calibrate(stable, labels))


def _scored(scorer: PairScorer, store: PredictionStore, past: Past) -> Iterator[tuple[np.ndarray, ...]]:
    """Labels and both versions' probabilities, newest days first, until there are enough."""
    rows = segments = 0
    outcomes = OUTCOMES.empty_table()
    for day in [past.served] if store.replayed else _days(past):
        outcomes = pa.concat_tables([outcomes, *_reported(store, past, day)])
        some = day.since < past.served.until  # before it, there are outcomes only
        for file in segment_files(store, "predictions", past.model, day) if some else []:
            if rows >= ROWS or segments >= _SEGMENTS:
                return
            segments += 1
            table = _labelled(read_segment(store, file, scorer.wanted), outcomes, past)
            if table.num_rows and not any(scorer.lacking(table).values()):
                found = (table[LABEL].to_numpy(), scorer.canary.score(table), scorer.stable.score(table))
                good = ~np.isnan(found[1] + found[2])
                rows += int(good.sum())
                yield tuple(each[good] for each in found)


def _reported(store: PredictionStore, past: Past, day: Interval) -> Iterator[pa.Table]:
    """A day's reports of outcomes, as far as they were there when the rollout began."""
    for file in segment_files(store, "outcomes", past.model, day):
        table = read_segment(store, file, OUTCOMES.names).select(OUTCOMES.names)
        for name in (LABEL_TIMESTAMP, RECEIVED_AT):
            table = table.filter(pc.less_equal(table[name], pa.scalar(past.known_by, _TIME)))
        yield table


def _labelled(table: pa.Table, outcomes: pa.Table, past: Past) -> pa.Table:
    """The rows of a segment that may be used, with their labels."""
    bounds = (past.served.since, past.served.until, past.unseen_since)
    since, until, unseen = (pa.scalar(each, _TIME) for each in bounds)
    live = ~pc.field(SHADOW) & (pc.field(EVENT_TIMESTAMP) >= unseen)
    table = table.filter(live & (pc.field(SERVED_AT) >= since) & (pc.field(SERVED_AT) < until))
    return join(table, outcomes.filter(pa.array(named(outcomes, table)))) if table.num_rows else table


def _days(past: Past) -> Iterator[Interval]:
    """UTC days of rows that may be used and of reports of their outcomes, the last one first."""
    day = past.known_by.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    while day + timedelta(days=1) > past.served.since:
        yield Interval(since=day, until=day + timedelta(days=1))
        day -= timedelta(days=1)
