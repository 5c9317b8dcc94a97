"""Feast: definitions, point-in-time rows for training, the newest rows for serving.

Feast keeps the registry, joins offline with duckdb and writes the online store. Around it this module does what Feast
does not: sources whose files are replaced by interval, joins in chunks that fit in memory with their order restored,
an online store that is never ahead of the time it was asked for, and rows of nothing but missing values written too
(Feast skips them with a warning, and the old values stay in service).
"""

from __future__ import annotations

from serinus.engines import feast_start  # noqa: F401 - before anything of Feast

# isort: split

import json
import logging
import os
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import feast
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.provider import get_provider

from serinus.core.dataset import EVENT_TIMESTAMP
from serinus.core.errors import EngineError, InvalidData, NotFound
from serinus.core.signature import Signature, View
from serinus.core.times import Interval
from serinus.engines import feast_definitions as defined
from serinus.engines import feast_offline as offline
from serinus.engines import feast_on_demand as code
from serinus.engines.feast_join import ROW, Taken, join
from serinus.engines.feast_online import Row, Tick, empty, newest, ticks, to_rows
from serinus.engines.feast_services import Service, engine_errors
from serinus.engines.files import replacing, write_text
from serinus.engines.locks import database_lock, file_lock

if TYPE_CHECKING:
    from serinus.core.platform import Platform

log = logging.getLogger(__name__)


class FeatureStore:
    """One project's features on one platform."""

    def __init__(self, platform: Platform, project_name: str) -> None:
        self.platform = platform
        self.project_name = project_name.replace("-", "_")  # Feast allows no hyphen
        self._file_registry = "://" not in platform.feast_registry

    @classmethod
    def open(cls, platform: Platform, project_name: str) -> FeatureStore:
        """The store as it is; a new one is empty until `apply`."""
        platform.state.mkdir(parents=True, exist_ok=True)
        return cls(platform, project_name)

    def apply(self, features: ModuleType) -> None:
        """Register the module's definitions, if they are not those registered last. The registry changes in one step.

        Raises:
            InvalidInput: a definition that Serinus cannot use.
            EngineError: Feast refuses one.
        """
        objects = defined.definitions(features, str(self.offline))
        for each in objects:
            if isinstance(each, feast.OnDemandFeatureView):
                code.check(each, features.__name__)
        digest = (
            f"{feast.__version__} {json.dumps(self.platform.online_store, sort_keys=True)} {defined.digest(objects)}"
        )
        mark = self.platform.state / f"{self.project_name}.features"
        online = self._sqlite_path
        whole = all(path is None or path.exists() for path in (self._registry_path, online))
        if whole and mark.exists() and mark.read_text(encoding="utf-8") == digest:
            return
        with engine_errors("apply"), self._next_registry() as registry:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "On demand feature view is an experimental", RuntimeWarning)
                feast.FeatureStore(config=self._config(registry)).apply(objects)
            if online is not None:
                _write_ahead(online)
        write_text(mark, digest)
        self._forget()
        log.info("features: %d views registered", sum(isinstance(each, feast.FeatureView) for each in objects))

    # What is defined

    def signature(self, service: str, model: str, requests: pa.Schema) -> Signature:
        """Inputs of a model that takes the service's features, without categories (they are learned).

        Args:
            service: name of the feature service.
            model: name of the model.
            requests: fields that requests have beside id, time and join keys. Used where the service's tag `request`
                names no RequestSource; a RequestSource can also make a join key an input.

        Raises:
            NotFound: there is no such service.
        """
        taken = Service(self._store, service)
        views = [each.view for each in taken.taken(self.offline)]
        keys = {key.name: defined.type_name(key, view.name) for view in views for key in view.entity_columns}
        return Signature(
            model=model,
            feature_service=service,
            join_keys=keys,
            views=tuple(defined.view_of(view) for view in views),
            columns=(*taken.request_columns(requests), *taken.columns),
            on_demand=taken.on_demand,
        )

    def sources(self) -> tuple[str, ...]:
        """Names of all sources that views read."""
        return tuple(sorted(self._by_source))

    def view(self, source: str) -> View:
        """Join keys and TTL of the view that reads a source."""
        return defined.view_of(self._source_view(source))

    def schema(self, source: str) -> pa.Schema:
        """Columns and types of a source: join keys, features, `happened_at`, `known_at`."""
        return defined.schema(self._source_view(source))

    def bounds(self, source: str) -> dict[str, tuple[float | None, float | None]]:
        """By feature, the least and greatest allowed value, None where there is no bound."""
        return defined.bounds(self._source_view(source))

    # Offline

    def write_offline(self, source: str, frame: pd.DataFrame, interval: Interval) -> int:
        """Make the frame's rows the only ones of the source with `known_at` in the interval; returns their number.

        Raises:
            InvalidData: columns or types are not the view's, or a row lies outside the interval.
        """
        return offline.write(self._folder(source), offline.to_table(frame, self.schema(source), source), interval)

    def read_offline(self, source: str, interval: Interval | None = None) -> pa.Table:
        """Rows of a source known in the interval, or all of them; empty when there are none."""
        table = offline.read(self._folder(source), interval)
        return self.schema(source).empty_table() if table is None else table

    def clear_offline(self) -> None:
        """Remove the rows of every source, for ingesting from the beginning."""
        for source in self.sources():
            offline.clear(self._folder(source))

    def historical(self, service: str, entities: pd.DataFrame) -> pa.Table:
        """Feast's point-in-time join of the service's features, one calendar month of entity rows at a time.

        Args:
            service: name of the feature service.
            entities: `event_timestamp` and join keys, and whatever else shall be carried along, such as `id`.

        Returns:
            The entities' columns and a column `view__feature` for each feature, in the order of `entities`. What was
            not known at the time, or was older than its TTL, is missing.

        Raises:
            NotFound: there is no such service.
            InvalidData: a join key is absent, or a source has no rows at all.
        """
        asked = Service(self._store, service)
        taken = [each for each in asked.taken(self.offline) if self._has_rows(each)]
        keys = sorted({key.name for each in taken for key in each.view.entity_columns})
        absent = [name for name in (EVENT_TIMESTAMP, *keys) if name not in entities.columns]
        if absent:
            raise InvalidData(f"entity rows lack {', '.join(absent)}", hint="requests give all join keys")
        spine = entities[[EVENT_TIMESTAMP, *keys]].reset_index(drop=True)
        spine[ROW] = range(len(spine))
        with engine_errors("join features"):
            joined = join(self._store, taken, spine, self.platform.state).sort_by(ROW)
        if joined[ROW].to_pylist() != list(range(len(spine))):
            raise EngineError(f"feast lost or repeated rows: {joined.num_rows} for {len(spine)}")
        table = pa.Table.from_pandas(entities, preserve_index=False)
        for name in (name for each in taken for name in each.columns):
            table = table.append_column(name, joined[name])
        names = [*entities.columns, *(column.name for column in asked.columns)]
        return code.transform(asked.on_demand, table).select(names)

    def _has_rows(self, taken: Taken) -> bool:
        if not any(taken.folder.glob("*.parquet")):
            raise InvalidData(f"source {taken.folder.name} has no rows", hint="ingest before building a dataset")
        return True

    # Online

    def write_online(self, frames: Mapping[str, pd.DataFrame]) -> int:
        """Write the newest row of each key of each source to the online store; returns the number of rows written.

        Give rows in order of time from call to call: what a key had is replaced.
        """
        tables = {
            name: offline.to_table(frame, self.schema(name), name) for name, frame in frames.items() if len(frame)
        }
        if tables:
            self._advance(max(pc.max(table[defined.KNOWN_AT]).as_py() for table in tables.values()))
        return sum(self._write_view(name, self._newest(name, table)) for name, table in tables.items())

    def ticks(self, interval: Interval) -> list[Tick]:
        """What became known in the interval, moment by moment, for `write_tick`."""
        with engine_errors("read rows for the online store"):
            return ticks(
                {name: (self._source_view(name), self.read_offline(name, interval)) for name in self.sources()}
            )

    def write_tick(self, tick: Tick) -> int:
        """Write what became known at one moment to the online store, moments in order; returns the number of rows."""
        self._advance(tick.until)
        return sum(self._write_rows(name, rows) for name, rows in tick.rows.items())

    def materialize(self, until: datetime) -> int:
        """Fill the online store with the newest offline row of each key known at `until`; returns the number of rows.

        A store that is already ahead of `until` is emptied first: it must not know the future.
        """
        before = self._online_until()
        if before is not None and before > until:
            self._empty_online()
        self._mark_online(until)
        written = 0
        for source in self.sources():
            table = offline.read(self._folder(source))
            if table is not None:
                known = table.filter(pc.field(defined.KNOWN_AT) <= pa.scalar(until, defined.MOMENT))
                written += self._write_view(source, self._newest(source, known))
        log.info("online store: %d rows as of %s", written, until.isoformat())
        return written

    def online_views(self, names: Sequence[str]) -> tuple[dict[str, Any], Any, Any]:
        """What `OnlineStore.online_read` needs: Feast's views by name, its configuration, and the online store.

        Raises:
            NotFound: a view is not registered.
        """
        views = {}
        for name in names:
            with engine_errors(f"view {name}"):
                views[name] = self._store.get_feature_view(name, allow_registry_cache=True)
        return views, self._store.config, self._provider.online_store

    def _write_view(self, source: str, table: pa.Table) -> int:
        with engine_errors(f"write {source} online"):
            rows = to_rows(self._source_view(source), table)
        return self._write_rows(source, rows)

    def _write_rows(self, source: str, rows: Sequence[Row]) -> int:
        if rows:
            view = self._source_view(source)
            with engine_errors(f"write {view.name} online"):
                self._provider.online_write_batch(self._store.config, view, rows, progress=None)
        return len(rows)

    def _newest(self, source: str, table: pa.Table) -> pa.Table:
        return newest(table, self.view(source).join_keys)

    def _empty_online(self) -> None:
        with engine_errors("empty the online store"):
            empty(self._store, self._provider.online_store)

    @property
    def _online_mark(self) -> Path:
        return self.platform.state / f"{self.project_name}.online"

    def _online_until(self) -> datetime | None:
        return datetime.fromisoformat(self._online_mark.read_text()) if self._online_mark.exists() else None

    def _advance(self, until: datetime) -> None:
        """Let the online store be as far as `until`, if it is not further already."""
        before = self._online_until()
        if before is None or until > before:
            self._mark_online(until)

    def _mark_online(self, until: datetime) -> None:
        """Say how far the online store may be. Before rows are written, and whole, but without waiting for the disk:
        after a crash of the machine the store is filled anew."""
        part = self._online_mark.with_suffix(f".online.{os.getpid()}")
        part.write_text(until.isoformat(), encoding="utf-8")
        part.replace(self._online_mark)

    # Feast's own objects

    def _config(self, registry: str) -> feast.RepoConfig:
        kind = {} if self._file_registry else {"registry_type": "sql"}
        return feast.RepoConfig(
            project=self.project_name,
            provider="local",
            registry={**kind, "path": registry},
            online_store=self.platform.online_store,
            offline_store={"type": "duckdb"},
            entity_key_serialization_version=3,
        )

    @cached_property
    def _store(self) -> feast.FeatureStore:
        if self._registry_path is not None and not self._registry_path.exists():
            raise NotFound(f"no features are registered in {self._registry_path}", hint="run the pipeline first")
        return feast.FeatureStore(config=self._config(self.platform.feast_registry))

    @cached_property
    def _provider(self) -> Any:
        provider = get_provider(self._store.config)
        if self._sqlite_path is not None:
            # Commits need not reach the disk one by one: what a crash of the machine loses is materialized again.
            provider.online_store._get_conn(self._store.config).execute("PRAGMA synchronous = NORMAL")
        return provider

    @cached_property
    def _by_source(self) -> dict[str, feast.FeatureView]:
        return {view.batch_source.name: view for view in self._store.list_feature_views(allow_cache=True)}

    def _forget(self) -> None:
        for name in ("_store", "_provider", "_by_source"):
            self.__dict__.pop(name, None)

    def _source_view(self, source: str) -> feast.FeatureView:
        if source not in self._by_source:
            known = ", ".join(self.sources())
            raise InvalidData(f"no feature view reads source {source!r}", hint=f"views read: {known}")
        return self._by_source[source]

    @cached_property
    def offline(self) -> Path:
        """The folder of the project's sources, and of marks about them; others have theirs beside it."""
        return offline.place(self.platform.offline_uri, self.platform.storage_options) / self.project_name

    @contextmanager
    def ingesting(self) -> Iterator[None]:
        """Only one process at a time, of any machine, may bring the sources up to date; others wait for it.

        Raises:
            EngineError: the database that says whose turn it is cannot be asked.
        """
        if self._registry_path is None:
            with database_lock(self.platform.feast_registry, f"serinus ingest {self.project_name}"):
                yield
        else:
            with file_lock(self.platform.state / f"{self.project_name}.lock"):
                yield

    def _folder(self, source: str) -> Path:
        return self.offline / source

    @property
    def _registry_path(self) -> Path | None:
        return Path(self.platform.feast_registry) if self._file_registry else None

    @property
    def _sqlite_path(self) -> Path | None:
        store = self.platform.online_store
        return Path(str(store["path"])) if store.get("type") == "sqlite" else None

    @contextmanager
    def _next_registry(self) -> Iterator[str]:
        """A registry file to change, which then replaces the present one: readers see one or the other, whole."""
        path = self._registry_path
        if path is None:
            yield self.platform.feast_registry
            return
        with replacing(path) as part:
            if path.exists():
                part.write_bytes(path.read_bytes())
            yield str(part)


def _write_ahead(path: Path) -> None:
    """Let readers of the SQLite file go on while a writer commits; the file remembers the mode."""
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
