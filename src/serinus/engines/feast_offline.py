"""The offline store's files: one Parquet file a source and month of `known_at`, replaced whole, here or in a bucket.

Writing an interval replaces what was known in it, so that doing it again, after a crash or on purpose, changes nothing.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serinus.core.errors import InvalidData
from serinus.core.times import Interval
from serinus.engines.feast_definitions import KNOWN_AT
from serinus.engines.files import write_bytes

log = logging.getLogger(__name__)


def place(uri: str, options: Mapping[str, Any]) -> Path:
    """A folder on this machine, or one of a bucket that is used like it.

    Args:
        uri: a path, or a URL of any file system that fsspec knows.
        options: that file system's, such as who asks.
    """
    if "://" not in uri:
        return Path(uri)
    from upath import UPath

    # Other processes write there too: a list of files is never remembered.
    return cast("Path", UPath(uri, use_listings_cache=False, **options))


def to_table(frame: pd.DataFrame, schema: pa.Schema, source: str) -> pa.Table:
    """The frame with the columns and types of the source; NaN becomes missing.

    Raises:
        InvalidData: a column is missing or unknown, or its values do not fit its type.
    """
    absent = [name for name in schema.names if name not in frame.columns]
    unknown = [str(name) for name in frame.columns if name not in schema.names]
    if absent or unknown:
        found = [f"lacks {', '.join(absent)}"] * bool(absent) + [f"has unknown {', '.join(unknown)}"] * bool(unknown)
        raise InvalidData(
            f"source {source} {' and '.join(found)}", hint="let ingest and the view's schema name the same columns"
        )
    try:
        return pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InvalidData(
            f"source {source} has values that do not fit: {error}", hint="the view's schema says the types"
        ) from error


def write(folder: Path, table: pa.Table, interval: Interval) -> int:
    """Make the table's rows the only ones with `known_at` in the interval; returns their number.

    Raises:
        InvalidData: a row lies outside the interval.
    """
    if table.num_rows and table.num_rows != table.filter(_within(interval)).num_rows:
        raise InvalidData(
            f"{folder.name} has rows known outside {interval}",
            hint="ingest(since, until) gives what became known in it",
        )
    known = pc.strftime(table[KNOWN_AT], format="%Y-%m")
    months = {str(month) for month in pc.unique(known).to_pylist()} | set(_existing(folder, interval))
    for month in sorted(months):
        path = folder / f"{month}.parquet"
        rows = table.filter(pc.equal(known, month)) if table.num_rows else table
        if path.exists():
            kept = _load(path)
            rows = pa.concat_tables([_cast(kept, table.schema, path).filter(~_within(interval)), rows])
        _replace(path, rows)
    return int(table.num_rows)


def read(folder: Path, interval: Interval | None = None) -> pa.Table | None:
    """Rows of a source known in the interval, or all; None when nothing was ever written."""
    paths = [folder / f"{month}.parquet" for month in _existing(folder, interval)]
    if not paths:
        return None
    table = pa.concat_tables([_load(path) for path in paths])
    return table.filter(_within(interval)) if interval else table


def clear(folder: Path) -> None:
    """Remove a source's files."""
    for path in folder.glob("*.parquet"):
        path.unlink()


def _existing(folder: Path, interval: Interval | None) -> Iterator[str]:
    """Months that have a file and overlap the interval."""
    for path in sorted(folder.glob("????-??.parquet")):
        month = path.stem
        if interval is None or _month(interval.since) <= month <= _month(interval.until):
            yield month


def _month(moment: datetime) -> str:
    return f"{moment:%Y-%m}"


def _within(interval: Interval) -> pc.Expression:
    field = pc.field(KNOWN_AT)
    return (field >= pa.scalar(interval.since, pa.timestamp("us", tz="UTC"))) & (
        field < pa.scalar(interval.until, pa.timestamp("us", tz="UTC"))
    )


def _cast(table: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    if table.schema.names != schema.names:
        raise InvalidData(
            f"{path} has other columns than the feature view now has", hint="remove the folder and ingest again"
        )
    return table.cast(schema)


def _replace(path: Path, rows: pa.Table) -> None:
    if rows.num_rows == 0:
        path.unlink(missing_ok=True)
        return
    content = io.BytesIO()
    pq.write_table(rows.sort_by(KNOWN_AT).combine_chunks(), content)
    write_bytes(path, content.getvalue())


def _load(path: Path) -> pa.Table:
    return pq.read_table(io.BytesIO(path.read_bytes()))
