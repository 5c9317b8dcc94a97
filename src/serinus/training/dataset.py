"""Builds the labelled rows a model is trained and judged on, with their signature and profile.

What was asked, joined by Feast with what was known at the time, and with what came of it as far as it is known at the
run's as-of time. Training and validation rows must have been labelled before the held-out period begins.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serinus.core.dataset import EVENT_TIMESTAMP, ID, LABEL, LABEL_TIMESTAMP, Dataset, Split
from serinus.core.errors import InvalidData, NotFound
from serinus.core.profile import build_profile
from serinus.core.signature import Column, Signature
from serinus.engines.files import replacing, write_text
from serinus.training.rows import DATASET_FILE, PROFILE_FILE, ROWS_FILE, SIGNATURE_FILE, Rows

if TYPE_CHECKING:
    from serinus.core.project import Project
    from serinus.engines.feast import FeatureStore
    from serinus.training.project import LoadedProject

CATEGORY_ROWS = 20  # rarer values are not learned: they are unknown to the model, as those yet to come will be

log = logging.getLogger(__name__)


def build_dataset(loaded: LoadedProject, store: FeatureStore, as_of: datetime, folder: Path) -> Dataset:
    """Write rows.parquet, signature.json, profile.json and dataset.json (last) to `folder`.

    Raises:
        InvalidData: requests or labels break their contract, such as a label known before its request; or the training
            window is empty at `as_of`.
        NotFound: the feature service does not exist.
    """
    spec = loaded.training.spec
    try:
        split = spec.windows.split(as_of)
    except ValueError as error:
        raise InvalidData(str(error), hint="choose a later as-of time or shorter windows") from error
    asked = labelled_requests(loaded.project, split, as_of)
    empty = store.signature(spec.feature_service, loaded.model_name, pa.schema([]))
    fields = _request_fields(asked, empty)
    plain = store.signature(spec.feature_service, loaded.model_name, fields)
    absent = [column.name for column in plain.request_fields if column.name not in asked.columns]
    if absent:
        raise InvalidData(
            f"requests lack {', '.join(absent)}", hint="the request source of the feature service names it"
        )
    table = canonical(store.historical(spec.feature_service, asked), plain)
    trained = Rows(table).between(split.train)
    signature = with_categories(plain, trained.table)
    dataset = Dataset(
        uri=str(folder),
        as_of=as_of,
        split=split,
        rows=table.num_rows,
        positives=int(pc.sum(table[LABEL]).as_py() or 0),
        digest=content_digest(table),
    )
    _write(folder, table, signature, dataset, trained)
    log.info("dataset: %d rows, %.1f%% positive, %s", dataset.rows, 100 * dataset.positives / dataset.rows, folder)
    return dataset


def labelled_requests(project: Project, split: Split, as_of: datetime) -> pd.DataFrame:
    """Requests of the split with their labels, sorted by time and id.

    Raises:
        InvalidData: a column is absent, an id occurs twice, a time lies outside, a label is not 0 or 1, is not yet
            known at `as_of`, or was known before it was asked for; or no row is left.
    """
    whole = split.whole
    asked = project.requests(whole.since, whole.until)
    _require(asked, (ID, EVENT_TIMESTAMP), "requests")
    _unique(asked, "requests")
    outside = asked[(asked[EVENT_TIMESTAMP] < whole.since) | (asked[EVENT_TIMESTAMP] >= whole.until)]
    _none(outside, f"were asked outside {whole}", "requests(since, until) gives only what was asked in it")
    labels = project.labels(as_of)
    _require(labels, (ID, LABEL, LABEL_TIMESTAMP), "labels")
    _unique(labels, "labels")
    _none(labels[~labels[LABEL].isin([0, 1])], "have labels other than 0 and 1", "labels are 0 or 1")
    late = labels[~(labels[LABEL_TIMESTAMP] < as_of)]
    _none(late, f"have labels not known before {as_of}", "labels(until) gives only what was known by then")
    rows = asked.merge(labels[[ID, LABEL, LABEL_TIMESTAMP]], on=ID, how="inner", validate="one_to_one")
    early = rows[rows[LABEL_TIMESTAMP] <= rows[EVENT_TIMESTAMP]]
    _none(early, "have labels that were known before the request", "label_timestamp is when the outcome became known")
    judged_from = split.holdout.since
    rows = rows[(rows[EVENT_TIMESTAMP] >= judged_from) | (rows[LABEL_TIMESTAMP] < judged_from)]
    if rows.empty:
        raise InvalidData(f"no request of {whole} has a label known at {as_of}", hint="check requests and labels")
    return rows.sort_values([EVENT_TIMESTAMP, ID], ignore_index=True)


def canonical(table: pa.Table, signature: Signature) -> pa.Table:
    """The dataset's columns in their order and types: keys as text, numbers wide, NaN as missing.

    Raises:
        InvalidData: a column's values are not of the type that the signature says.
    """
    stamp = pa.timestamp("us", tz="UTC")
    inputs = {
        column.name: pa.string() if column.kind == "category" else _number(column) for column in signature.columns
    }
    types = {
        ID: pa.string(),
        EVENT_TIMESTAMP: stamp,
        **{name: pa.string() if dtype == "String" else pa.int64() for name, dtype in signature.join_keys.items()},
        **inputs,
        LABEL: pa.int8(),
        LABEL_TIMESTAMP: stamp,
    }
    columns = {}
    for name, wanted in types.items():
        try:
            values = table[name].cast(wanted)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InvalidData(f"column {name} holds {table[name].type}, not {wanted}: {error}") from error
        if pa.types.is_floating(wanted):
            values = pc.if_else(pc.is_nan(values), pa.scalar(None, wanted), values)
        columns[name] = values.combine_chunks()
    return pa.table(columns)


def content_digest(table: pa.Table) -> str:
    """SHA-256 over names, types and values, the same however the table is cut into chunks, files and row groups."""
    total = hashlib.sha256(str(table.num_rows).encode())
    for field in table.schema:
        values = pa.chunked_array(table[field.name].chunks, type=field.type).combine_chunks()
        total.update(f"\n{field.name} {field.type}\n".encode())
        total.update(pc.is_valid(values).to_numpy(zero_copy_only=False).tobytes())
        if pa.types.is_string(field.type):
            filled = pc.fill_null(values, "")
            total.update(pc.binary_length(filled).to_numpy(zero_copy_only=False).tobytes())
            total.update("".join(filled.to_pylist()).encode())
        else:
            total.update(pc.fill_null(values, _zero(field.type)).to_numpy(zero_copy_only=False).tobytes())
    return "sha256:" + total.hexdigest()


def with_categories(signature: Signature, rows: pa.Table) -> Signature:
    """The signature with the values of its category columns that occur in at least `CATEGORY_ROWS` rows, sorted."""
    columns = []
    for column in signature.columns:
        if column.kind == "category":
            found = pc.value_counts(rows[column.name].combine_chunks().drop_null())
            counts = zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)
            known = tuple(sorted(value for value, count in counts if count >= CATEGORY_ROWS))
            column = column.model_copy(update={"categories": known})
        columns.append(column)
    return Signature(**{**dict(signature), "columns": tuple(columns)})


def read_rows(folder: Path) -> pa.Table:
    """The rows that `build_dataset` wrote.

    Raises:
        NotFound: there are none.
        InvalidData: the file is damaged.
    """
    path = folder / ROWS_FILE
    try:
        return pq.read_table(path)
    except FileNotFoundError as error:
        raise NotFound(f"there is no {path}", hint="build the dataset first") from error
    except (pa.ArrowException, OSError) as error:
        raise InvalidData(f"{path} cannot be read: {error}", hint="build the dataset again") from error


def _write(folder: Path, table: pa.Table, signature: Signature, dataset: Dataset, trained: Rows) -> None:
    numbers, categories = trained.encode(signature)
    profile = build_profile(signature, numbers, categories)
    with replacing(folder / ROWS_FILE) as part:
        pq.write_table(table, part)
    for name, value in ((SIGNATURE_FILE, signature), (PROFILE_FILE, profile), (DATASET_FILE, dataset)):
        write_text(folder / name, value.model_dump_json(indent=1))


def _request_fields(asked: pd.DataFrame, signature: Signature) -> pa.Schema:
    """Fields of the requests beside id, times, label and join keys, with the types of their values."""
    known = {ID, EVENT_TIMESTAMP, LABEL, LABEL_TIMESTAMP, *signature.join_keys}
    fields = asked[[name for name in asked.columns if name not in known]]
    return pa.Table.from_pandas(fields, preserve_index=False).schema.remove_metadata()


def _number(column: Column) -> pa.DataType:
    return pa.int64() if column.dtype.startswith("Int") else pa.float64()


def _zero(kind: pa.DataType) -> pa.Scalar:
    return pa.scalar(0, pa.int64()).cast(kind)


def _require(frame: pd.DataFrame, columns: tuple[str, ...], what: str) -> None:
    absent = [name for name in columns if name not in frame.columns]
    if absent:
        raise InvalidData(f"{what} lack the column {', '.join(absent)}", hint=f"they need {', '.join(columns)}")
    for name in columns:
        if frame[name].isna().any():
            raise InvalidData(f"{what} have {int(frame[name].isna().sum())} rows without {name}")
        if name.endswith("timestamp") and not isinstance(frame[name].dtype, pd.DatetimeTZDtype):
            raise InvalidData(
                f"{what}: {name} is {frame[name].dtype}", hint="use times with a zone: datetime64[us, UTC]"
            )


def _unique(frame: pd.DataFrame, what: str) -> None:
    twice = frame[ID][frame[ID].duplicated()]
    if len(twice):
        raise InvalidData(f"{what} have {len(twice)} ids again, such as {twice.iloc[0]}", hint="one row an id")


def _none(frame: pd.DataFrame, wrong: str, hint: str) -> None:
    if len(frame):
        examples = ", ".join(str(each) for each in np.asarray(frame[ID].head(3)))
        raise InvalidData(f"{len(frame)} rows {wrong}, such as {examples}", hint=hint)
