"""Feature rows on their way to Feast's online store: the newest one of each key, in Feast's own types.

Turning rows into Feast's messages costs as much as writing them, and most of it once a call, however few rows there
are. A replay writes a handful of rows at each of hundreds of moments, so it has a day's rows turned in one go.
"""

from __future__ import annotations

from serinus.engines import feast_start  # noqa: F401 - before anything of Feast

# isort: split

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
from feast import FeatureStore, FeatureView
from feast.utils import _convert_arrow_to_proto

from serinus.engines.feast_definitions import BEGINNING, KNOWN_AT
from serinus.engines.feast_join import ROW

Row = tuple[Any, ...]
"""Key, values, event time and creation time, as `OnlineStore.online_write_batch` takes them."""


@dataclass(frozen=True)
class Tick:
    """What became known at one moment, by source, ready to be written; `until` is the last moment of its series."""

    moment: datetime
    until: datetime
    rows: Mapping[str, Sequence[Row]]


def newest(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """The last of the rows with the same `keys`, by `known_at` and, where that is the same, by position."""
    rows = table.select(list(dict.fromkeys((*keys, KNOWN_AT))))
    rows = rows.append_column(ROW, pa.array(range(table.num_rows), pa.int64()))
    rows = rows.sort_by([(KNOWN_AT, "ascending"), (ROW, "ascending")])
    last = rows.group_by(list(keys), use_threads=False).aggregate([(ROW, "last")])
    return table.take(last[f"{ROW}_last"])


def to_rows(view: FeatureView, table: pa.Table) -> list[Row]:
    """The table's rows as Feast writes them, in the same order."""
    if not table.num_rows:
        return []
    keys = {key.name: key.dtype.to_value_type() for key in view.entity_columns}
    # A single chunk: Feast takes the first one only.
    found: list[Row] = _convert_arrow_to_proto(table.combine_chunks(), view, keys)
    return found


def ticks(tables: Mapping[str, tuple[FeatureView, pa.Table]]) -> list[Tick]:
    """The tables' rows by the moment at which they became known, in order of time."""
    parts: dict[datetime, dict[str, list[Row]]] = {}
    for source, (view, table) in tables.items():
        keys = [key.name for key in view.entity_columns]
        rows = newest(table, [*keys, KNOWN_AT]).sort_by(KNOWN_AT)
        for moment, row in zip(rows[KNOWN_AT].to_pylist(), to_rows(view, rows), strict=True):
            parts.setdefault(moment, {}).setdefault(source, []).append(row)
    until = max(parts, default=BEGINNING)
    return [Tick(moment, until, parts[moment]) for moment in sorted(parts)]


def empty(store: FeatureStore, online: Any) -> None:
    """Take everything out of the online store and leave its tables."""
    views, entities = store.list_feature_views(allow_cache=True), store.list_entities(allow_cache=True)
    for view in views:
        online.update(
            store.config,
            tables_to_delete=[view],
            tables_to_keep=[],
            entities_to_delete=[],
            entities_to_keep=entities,
            partial=True,
        )
    online.update(
        store.config,
        tables_to_delete=[],
        tables_to_keep=views,
        entities_to_delete=[],
        entities_to_keep=entities,
        partial=True,
    )
