"""Reads the prediction log from wherever it was shipped to, and joins predictions with their outcomes.

Shipping never makes a duplicate file, but applications repeat themselves and so may a restored bucket: rows are
reduced to one a prediction id, and outcomes to one an id.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from serinus.core.dataset import EVENT_TIMESTAMP, ID, LABEL, LABEL_TIMESTAMP
from serinus.core.errors import EngineError, InvalidData
from serinus.core.prediction import Outcome
from serinus.core.prediction_log import DATE, MODEL, PREDICTION_ID, RECEIVED_AT, SERVED_AT, VERSION, Stream
from serinus.core.times import Interval
from serinus.engines.prediction_store import PredictionStore

_TIME = pa.timestamp("us", tz="UTC")
OUTCOMES = pa.schema(
    [
        (PREDICTION_ID, pa.string()),
        (ID, pa.string()),
        (LABEL, pa.int8()),
        (LABEL_TIMESTAMP, _TIME),
        (RECEIVED_AT, _TIME),
    ]
)
"""The columns of outcomes; one of the two ids is null."""


# What takes the place of the machine's time where a log was written by a replay.
_REPLAYED = {SERVED_AT: EVENT_TIMESTAMP, RECEIVED_AT: LABEL_TIMESTAMP}


def outcome_columns(outcomes: Sequence[Outcome], received: datetime) -> pa.RecordBatch:
    """Outcomes that were received together, as `OUTCOMES`."""
    columns = [
        [each.prediction_id for each in outcomes],
        [each.id for each in outcomes],
        [each.label for each in outcomes],
        [each.known_at for each in outcomes],
        [received] * len(outcomes),
    ]
    return pa.record_batch(
        [pa.array(values, kind.type) for values, kind in zip(columns, OUTCOMES, strict=True)], schema=OUTCOMES
    )


def outcome_file(outcomes: Sequence[Outcome], received: datetime) -> bytes:
    """Outcomes that were received together, as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_batches([outcome_columns(outcomes, received)]), sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read_predictions(
    store: PredictionStore,
    model: str,
    interval: Interval,
    version: int | None = None,
    by: Literal["served_at", "event_timestamp"] = SERVED_AT,  # type: ignore[assignment]
) -> pa.Table:
    """Predictions of a stretch of time, one row a prediction id, sorted by time and id.

    Args:
        store: the log's destination.
        model: name of the served model.
        interval: of `by`.
        version: of the model; without one all of them, whose columns must then agree in type.
        by: the time of the answer, or the time that the row was asked for (in a replay, the data's).

    Returns:
        The log's columns, then `model` and `version`; no row and no column where nothing was logged.

    Raises:
        EngineError: the store cannot be read.
        InvalidData: versions disagree in the type of a column.
    """
    days = _days(interval) if by == SERVED_AT else None
    files = [
        file
        for file in _files(store, "predictions", model, days)
        if version is None or _part(file, VERSION) == str(version)
    ]
    tables = [_read(store, file, interval, by) for file in files]
    table = _together([table for table in tables if table.num_rows])
    if not table.num_rows:
        return table
    return first_of_each(table.sort_by([(by, "ascending"), (PREDICTION_ID, "ascending")]), PREDICTION_ID)


def read_outcomes(store: PredictionStore, model: str, known_by: datetime | None = None) -> pa.Table:
    """Outcomes as they stand: of each id the label that became known last, `OUTCOMES`' columns.

    Args:
        store: the log's destination.
        model: name of the served model.
        known_by: leaves out what became known, or was received, later.

    Raises:
        EngineError: the store cannot be read.
    """
    tables = [_read(store, file, None, "").select(OUTCOMES.names) for file in _files(store, "outcomes", model, None)]
    table = pa.concat_tables([OUTCOMES.empty_table(), *tables])
    if known_by is not None:
        table = table.filter(pc.less_equal(table[LABEL_TIMESTAMP], pa.scalar(known_by, _TIME)))
    return standing(table)


def standing(outcomes: pa.Table) -> pa.Table:
    """One row an id: the label that became known last, and of those known at one time the one received last. Of a
    label that was reported several times, the first report."""
    order = [("key", "ascending"), (LABEL_TIMESTAMP, "ascending"), (RECEIVED_AT, "ascending")]
    table = outcomes.append_column("key", _keys(outcomes)).sort_by(order)
    if not table.num_rows:
        return outcomes
    keys = table["key"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    labels = table[LABEL].to_numpy()
    other_key = np.append(keys[1:] != keys[:-1], True)  # each row against the next; the last one is a key's last
    starts = np.append(True, other_key[:-1] | (labels[1:] != labels[:-1]))
    # The row at which the last report of each id began to be what it is.
    began = np.maximum.accumulate(np.where(starts, np.arange(len(keys)), 0))
    return table.take(pa.array(began[other_key])).select(OUTCOMES.names)


def join(predictions: pa.Table, outcomes: pa.Table) -> pa.Table:
    """Predictions whose outcome is known, with `label` and `label_timestamp`.

    An outcome may name the prediction or the caller's own `id`; where both are there, the one known later holds.

    Args:
        predictions: from `read_predictions`.
        outcomes: from `read_outcomes`.
    """
    if not predictions.num_rows:
        return predictions
    outcomes = standing(outcomes)
    by_prediction = _place(predictions, outcomes, PREDICTION_ID)
    by_caller = _place(predictions, outcomes, ID)
    times = outcomes[LABEL_TIMESTAMP].combine_chunks()
    later = pc.fill_null(pc.greater(times.take(by_caller), times.take(by_prediction)), False)
    chosen = pc.if_else(later, by_caller, pc.coalesce(by_prediction, by_caller))
    known = pc.is_valid(chosen)
    found = outcomes.take(chosen.filter(known))
    labelled = predictions.filter(known)
    for name in (LABEL, LABEL_TIMESTAMP):
        labelled = labelled.append_column(name, found[name])
    return labelled


def named(table: pa.Table, others: pa.Table) -> NDArray[np.bool_]:
    """Whether each row has an id, of the prediction or of the caller, that one of the other rows has too."""
    kinds = (
        pc.is_in(table[name], value_set=others[name].combine_chunks(), skip_nulls=True).to_numpy()
        for name in (PREDICTION_ID, ID)
    )
    found: NDArray[np.bool_] = np.logical_or(*kinds)
    return found


def segment_files(store: PredictionStore, stream: Stream, model: str, interval: Interval) -> list[str]:
    """Paths of a stream's files of all UTC days that an interval touches, one for each segment, sorted; those of all
    days, where the store holds what a replay wrote.

    A segment's name holds a digest of its rows, so a name that was read once need not be read again, and a copy that
    somebody restored to another folder is the same segment.

    Raises:
        EngineError: the store cannot be read.
    """
    days = None if store.replayed else _days(interval)
    found = {file.rpartition("/")[2]: file for file in _files(store, stream, model, days)}
    return sorted(found.values())


def read_segment(store: PredictionStore, file: str, wanted: Collection[str]) -> pa.Table:
    """Those of the wanted columns that a segment has, and its partition's `model` and `version`.

    Raises:
        EngineError: it cannot be read.
    """
    try:
        with store.filesystem.open_input_file(file) as source, pq.ParquetFile(source) as opened:
            names = opened.schema_arrow.names
            instead = {name: other for name, other in _REPLAYED.items() if store.replayed and name in names}
            read = {*wanted, *(instead[name] for name in wanted if name in instead)}
            table = opened.read(columns=[name for name in names if name in read])
            for name, other in instead.items():
                if name in wanted:
                    table = table.set_column(table.column_names.index(name), name, table[other])
            return _partitioned(table.select([name for name in names if name in wanted]), file)
    except (OSError, pa.ArrowException) as error:
        raise EngineError(f"cannot read {file} of the prediction log: {error}") from error


def segment_extent(store: PredictionStore, file: str) -> tuple[int, datetime | None]:
    """How many rows of predictions a segment has, and when the last one was served (in a replay, asked for), read from
    its end alone.

    Raises:
        EngineError: it cannot be read.
    """
    try:
        with store.filesystem.open_input_file(file) as source, pq.ParquetFile(source) as opened:
            place = opened.schema_arrow.names.index(_REPLAYED[SERVED_AT] if store.replayed else SERVED_AT)
            groups = [opened.metadata.row_group(at) for at in range(opened.num_row_groups)]
            known = [group.column(place).statistics for group in groups]
            last = [each.max for each in known if each is not None and each.has_min_max]
            return opened.metadata.num_rows, max(last) if len(last) == len(groups) and last else None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise EngineError(f"cannot read {file} of the prediction log: {error}") from error


def _keys(outcomes: pa.Table) -> Any:
    """Which of the two ids it is, and the id."""
    named = pc.binary_join_element_wise("p", outcomes[PREDICTION_ID], "")
    return pc.coalesce(named, pc.binary_join_element_wise("i", outcomes[ID], ""))


def _place(predictions: pa.Table, outcomes: pa.Table, name: str) -> pa.Array:
    """The outcome's row for each prediction, null where there is none."""
    known = outcomes[name].combine_chunks()
    found = pc.index_in(predictions[name].combine_chunks(), value_set=known)
    return pc.if_else(pc.is_valid(predictions[name].combine_chunks()), found, pa.scalar(None, pa.int32()))


def _days(interval: Interval) -> tuple[str, str]:
    last = interval.until.astimezone(UTC) - timedelta(microseconds=1)
    return interval.since.astimezone(UTC).date().isoformat(), last.date().isoformat()


def _files(store: PredictionStore, stream: Stream, model: str, days: tuple[str, str] | None) -> list[str]:
    found = []
    for folder in store.folders(stream):
        day = folder.removeprefix(f"{DATE}=")
        if folder.startswith(f"{DATE}=") and (days is None or days[0] <= day <= days[1]):
            found += store.files(f"{stream}/{folder}/{MODEL}={model}")
    return found


def _part(file: str, name: str) -> str | None:
    """A partition's value in a file's path."""
    return next((part[len(name) + 1 :] for part in file.split("/") if part.startswith(f"{name}=")), None)


def _read(store: PredictionStore, file: str, interval: Interval | None, by: str) -> pa.Table:
    filters = None
    if interval is not None:
        since, until = (pa.scalar(each, _TIME) for each in (interval.since, interval.until))
        filters = (pc.field(by) >= since) & (pc.field(by) < until)
    try:
        # Each file by itself: partitions are read from its path here, and types are compared below.
        table = pq.read_table(file, filesystem=store.filesystem, filters=filters, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise EngineError(f"cannot read {file} of the prediction log: {error}") from error
    return _partitioned(table, file)


def _partitioned(table: pa.Table, file: str) -> pa.Table:
    """A file's rows with what its path says of them."""
    for name in (MODEL, VERSION):
        value = _part(file, name)
        if value is not None:
            column: Any = int(value) if name == VERSION else value
            table = table.append_column(name, pa.repeat(column, table.num_rows))
    return table.replace_schema_metadata(None)


def _together(tables: Sequence[pa.Table]) -> pa.Table:
    try:
        return pa.concat_tables(tables, promote_options="default") if tables else pa.table({})
    except pa.ArrowInvalid as error:
        raise InvalidData(
            f"versions of the model log a column in different types, read one version: {error}"
        ) from error


def first_of_each(table: pa.Table, name: str) -> pa.Table:
    """The first row of each value of a column, in order."""
    numbered = pa.table({"key": table[name], "row": pa.array(range(table.num_rows), pa.int64())})
    first = numbered.group_by("key").aggregate([("row", "min")])["row_min"]
    return table.take(first.take(pc.sort_indices(first)))
