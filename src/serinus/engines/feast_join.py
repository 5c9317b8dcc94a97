"""Feast's own point-in-time join, a month of entity rows at a time.

Feast's duckdb engine first pairs each entity row with every row of its key and then looks at times: over a year of
hourly rows that is thousands of pairs a row. So each chunk is given only the feature rows that can match it, those
known from one TTL before its first row to its last. The join and its answer are Feast's; only its input is smaller.
"""

from __future__ import annotations

from serinus.engines import feast_start  # noqa: F401 - before anything of Feast

# isort: split

import copy
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import feast
import ibis
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_format import ParquetFormat
from feast.infra.provider import get_provider

from serinus.core.dataset import EVENT_TIMESTAMP
from serinus.core.times import Interval
from serinus.engines import feast_definitions as defined
from serinus.engines import feast_offline as offline

DUCKDB_MEMORY = "2GB"
ROW = "__row"


@dataclass(frozen=True)
class Taken:
    """A feature view, its features that a service takes, and the folder of its source."""

    view: feast.FeatureView
    features: tuple[str, ...]
    folder: Path

    @property
    def columns(self) -> list[str]:
        return [f"{self.view.name}__{name}" for name in self.features]

    @property
    def references(self) -> list[str]:
        return [f"{self.view.name}:{name}" for name in self.features]


def join(store: feast.FeatureStore, taken: Sequence[Taken], spine: pd.DataFrame, state: Path) -> pa.Table:
    """Features of entity rows as they were known at each row's time.

    Args:
        store: where the views are registered.
        taken: what to join.
        spine: `event_timestamp`, join keys, and `ROW`, which comes back.
        state: a folder to spill to.

    Returns:
        `ROW` and a column `view__feature` for each feature, in no particular order.
    """
    columns = [ROW, *(name for each in taken for name in each.columns)]
    parts = []
    with _scratch(state) as scratch, _duckdb(scratch):
        for _, chunk in spine.groupby(spine[EVENT_TIMESTAMP].dt.strftime("%Y-%m")):
            views = [_near(each, chunk, scratch) for each in taken]
            job = get_provider(store.config).get_historical_features(
                config=store.config,
                feature_views=views,
                feature_refs=[name for each in taken for name in each.references],
                entity_df=chunk.reset_index(drop=True),
                registry=store.registry,
                project=store.project,
                full_feature_names=True,
            )
            parts.append(job.to_arrow().select(columns))
    return pa.concat_tables(parts)


def _near(taken: Taken, chunk: pd.DataFrame, scratch: Path) -> feast.FeatureView:
    """The view over only those rows of its source that can match the chunk."""
    last = chunk[EVENT_TIMESTAMP].max().to_pydatetime() + timedelta(microseconds=1)
    first = chunk[EVENT_TIMESTAMP].min().to_pydatetime() - taken.view.ttl if taken.view.ttl else defined.BEGINNING
    rows = offline.read(taken.folder, Interval(since=first, until=last))
    rows = defined.schema(taken.view).empty_table() if rows is None else rows
    source = taken.view.batch_source.name
    path = scratch / f"{source}.parquet"
    pq.write_table(rows, path, compression="none")
    view = copy.copy(taken.view)
    view.batch_source = feast.FileSource(
        name=source, path=str(path), timestamp_field=defined.KNOWN_AT, file_format=ParquetFormat()
    )
    return view


@contextmanager
def _scratch(state: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=state, prefix=".join."))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _duckdb(scratch: Path) -> Iterator[None]:
    """Feast joins in ibis's default duckdb; for the while of a join it is one of ours, bounded and closed at the end.

    (Left open, it makes the process complain of leaks at its end, and it would spill to the working directory.)
    """
    before = ibis.options.default_backend
    backend = ibis.duckdb.connect(memory_limit=DUCKDB_MEMORY, temp_directory=str(scratch / "spill"))
    ibis.set_backend(backend)
    try:
        with warnings.catch_warnings():
            # ibis calls a method that duckdb 2 calls by another name
            warnings.filterwarnings("ignore", message=r"fetch_arrow_table\(\)", category=DeprecationWarning)
            yield
    finally:
        ibis.options.default_backend = before
        backend.disconnect()
