"""What one feature service gives to a model, and what has to be read and computed for it."""

from __future__ import annotations

from serinus.engines import feast_start  # noqa: F401 - before anything of Feast

# isort: split

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import feast
import pyarrow as pa
from feast.errors import FeastError, FeastObjectNotFoundException

from serinus.core.errors import EngineError, NotFound
from serinus.core.signature import Column, OnDemand
from serinus.engines import feast_definitions as defined
from serinus.engines import feast_on_demand as code
from serinus.engines.feast_join import Taken


class Service:
    """A registered feature service."""

    def __init__(self, store: feast.FeatureStore, name: str) -> None:
        """Raises NotFound where there is none of that name."""
        self._store = store
        with engine_errors(f"feature service {name}"):
            self._service = store.get_feature_service(name, allow_cache=True)

    @property
    def columns(self) -> list[Column]:
        """A column `view__feature` for each feature, in the service's order."""
        projections = self._service.feature_view_projections
        return [column for each in projections for column in defined.projected_columns(each)]

    @cached_property
    def on_demand(self) -> tuple[OnDemand, ...]:
        """Its on-demand views. Their pickles are left alone: the source of their code is in the registry too."""
        wanted = [each.name for each in self._service.feature_view_projections]
        registry = self._store.registry
        found = registry.list_on_demand_feature_views(self._store.project, allow_cache=True, skip_udf=True)
        views = {view.name: view for view in found}
        return tuple(code.on_demand(views[name]) for name in wanted if name in views)

    def taken(self, offline: Path) -> list[Taken]:
        """The feature views to read: its own, and what its on-demand views read.

        Args:
            offline: the folder of the sources' folders.
        """
        computed = {each.name for each in self.on_demand}
        features: dict[str, list[str]] = {}
        for column in (*self.columns, *(column for spec in self.on_demand for column in spec.inputs)):
            if column.view is not None and column.view not in computed:
                own = features.setdefault(column.view, [])
                own += [column.feature] * (column.feature not in own)
        taken = []
        for name, wanted in features.items():
            view = self._store.get_feature_view(name, allow_registry_cache=True)
            taken.append(Taken(view=view, features=tuple(wanted), folder=offline / view.batch_source.name))
        return taken

    def request_columns(self, requests: pa.Schema) -> list[Column]:
        """The fields of requests that the model takes: those of the request source that its tag names, or all."""
        source = self._service.tags.get(defined.REQUEST_TAG)
        if source is None:
            return defined.inferred_columns(requests)
        with engine_errors(f"request source {source}"):
            return defined.request_columns(self._store.get_data_source(source))


@contextmanager
def engine_errors(doing: str) -> Iterator[None]:
    """Feast's errors as ours."""
    try:
        yield
    except FeastObjectNotFoundException as error:
        raise NotFound(f"feast: {error}", hint="register the definitions first: run the pipeline") from error
    except (FeastError, sqlite3.Error, OSError, ValueError) as error:
        raise EngineError(f"feast failed to {doing}: {error}") from error
