"""Reads Feast definitions: which objects a module defines, where its sources are, what a service gives to a model."""

from __future__ import annotations

from serinus.engines import feast_start  # noqa: F401 - before anything of Feast

# isort: split

import copy
import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pyarrow as pa
from feast import Entity, FeatureService, FeatureView, FileSource, OnDemandFeatureView, RequestSource
from feast.data_format import ParquetFormat
from feast.types import Bool, Float32, Float64, Int32, Int64, String

from serinus.core.errors import InvalidData, InvalidInput
from serinus.core.signature import Column, View

KNOWN_AT = "known_at"
HAPPENED_AT = "happened_at"
MOMENT = pa.timestamp("us", tz="UTC")
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)  # older than any row

# Tag of a feature service that names the RequestSource whose fields the model takes beside features.
REQUEST_TAG = "request"

_ARROW = {
    "Bool": pa.bool_(),
    "Float32": pa.float32(),
    "Float64": pa.float64(),
    "Int32": pa.int32(),
    "Int64": pa.int64(),
    "String": pa.string(),
}
_NAMES = {Bool: "Bool", Float32: "Float32", Float64: "Float64", Int32: "Int32", Int64: "Int64", String: "String"}
_TYPES = {name: kind for kind, name in _NAMES.items()}


def definitions(module: ModuleType, offline_uri: str) -> list[Any]:
    """Copies of the module's entities, views, services and request sources, with sources below `offline_uri`.

    What on-demand views say about their code is left to `feast_on_demand`.

    The path is a pattern: duckdb and pyarrow both read all files that match as one table. The file format is named,
    as Feast guesses it from the path's end and otherwise fails on None.

    Raises:
        InvalidInput: a view cannot be joined as Serinus does.
    """
    kinds = (Entity, FeatureView, OnDemandFeatureView, FeatureService, RequestSource)
    found = {id(each): each for each in vars(module).values() if isinstance(each, kinds)}
    objects = copy.deepcopy(list(found.values()))  # the module stays as it is, for a second store in one process
    views = [each for each in objects if isinstance(each, FeatureView)]
    if not views or not any(isinstance(each, FeatureService) for each in objects):
        raise InvalidInput(
            f"{module.__name__} defines no feature view or no feature service", hint="assign them to module variables"
        )
    for view in views:
        _check(view, module.__name__)
        view.batch_source = _placed(view.batch_source, offline_uri)
    sources = {view.name: view.batch_source for view in views}
    for projection in (each for one in objects for each in _projections(one)):
        projection.batch_source = sources.get(projection.name, projection.batch_source)
    return objects


def _projections(item: Any) -> list[Any]:
    if isinstance(item, FeatureService):
        return list(item.feature_view_projections)
    return list(item.source_feature_view_projections.values()) if isinstance(item, OnDemandFeatureView) else []


def digest(objects: Iterable[Any]) -> str:
    """SHA-256 over what the objects say, in any order."""
    written = sorted(hashlib.sha256(_spec(each)).digest() for each in objects)
    return hashlib.sha256(b"".join(written)).hexdigest()


def _spec(item: Any) -> bytes:
    """An object as bytes, without the times at which it was made."""
    proto = item.to_proto()
    proto.ClearField("meta")
    if isinstance(item, FeatureView):
        proto.spec.batch_source.ClearField("meta")
    if isinstance(item, FeatureService):
        for projection in proto.spec.features:
            projection.batch_source.ClearField("meta")
    if isinstance(item, OnDemandFeatureView):
        for source in proto.spec.sources.values():
            source.feature_view_projection.batch_source.ClearField("meta")
        # The pickle of a function differs with the lines above it in its file; its source is there too.
        proto.spec.feature_transformation.user_defined_function.ClearField("body")
    return type(item).__name__.encode() + bytes(proto.SerializeToString(deterministic=True))


def source_path(offline_uri: str, source: str) -> str:
    """The pattern of a source's files."""
    return f"{offline_uri.rstrip('/')}/{source}/*.parquet"


def schema(view: FeatureView) -> pa.Schema:
    """Columns of a view's source: join keys, features, `happened_at`, `known_at`."""
    fields = [pa.field(each.name, arrow_type(each, view.name)) for each in (*view.entity_columns, *view.features)]
    return pa.schema([*fields, pa.field(HAPPENED_AT, MOMENT), pa.field(KNOWN_AT, MOMENT)])


def arrow_type(field: Any, owner: str) -> pa.DataType:
    """The Arrow type of a Feast field."""
    return _ARROW[type_name(field, owner)]


def arrow_of(name: str) -> pa.DataType:
    """The Arrow type of one of Feast's types, by its name."""
    return _ARROW[name]


def feast_type(name: str) -> Any:
    """One of Feast's types by its name."""
    return _TYPES[name]


def type_name(field: Any, owner: str) -> str:
    """Feast's name of a field's type.

    Raises:
        InvalidInput: a type that a model cannot take.
    """
    name = _NAMES.get(field.dtype)
    if name is None:
        raise InvalidInput(f"{owner}: {field.name} has type {field.dtype}", hint=f"use one of {', '.join(_ARROW)}")
    return name


def bounds(view: FeatureView) -> dict[str, tuple[float | None, float | None]]:
    """By feature, the least and greatest value that its tags `min` and `max` allow."""

    def bound(tags: Mapping[str, str], name: str) -> float | None:
        return float(tags[name]) if name in tags else None

    return {each.name: (bound(each.tags, "min"), bound(each.tags, "max")) for each in view.features}


def view_of(view: FeatureView) -> View:
    """Our value for a feature view."""
    keys = tuple(each.name for each in view.entity_columns)
    return View(name=view.name, join_keys=keys, ttl_seconds=view.ttl.total_seconds() if view.ttl else None)


def on_demand_columns(view: OnDemandFeatureView) -> list[Column]:
    """Columns `view__feature` of all that an on-demand view gives."""
    return [_column(f"{view.name}__{each.name}", type_name(each, view.name), view.name) for each in view.features]


def projected_columns(projection: Any) -> list[Column]:
    """Columns `view__feature` of a feature view that an on-demand view reads."""
    name = projection.name
    return [_column(f"{name}__{each.name}", type_name(each, name), name) for each in projection.features]


def request_columns(source: RequestSource) -> list[Column]:
    """Columns of the request's own fields."""
    return [_column(each.name, type_name(each, source.name)) for each in source.schema]


def inferred_columns(types: pa.Schema) -> list[Column]:
    """Columns of request fields that no RequestSource declares, from the types of their values.

    Raises:
        InvalidData: values that a model cannot take.
    """
    names = {
        pa.types.is_boolean: "Bool",
        pa.types.is_integer: "Int64",
        pa.types.is_floating: "Float64",
        pa.types.is_string: "String",
        pa.types.is_large_string: "String",
    }
    columns = []
    for field in types:
        name = next((name for test, name in names.items() if test(field.type)), None)
        if name is None:
            raise InvalidData(f"request field {field.name} has values of type {field.type}", hint="drop or convert it")
        columns.append(_column(field.name, name))
    return columns


def _column(name: str, dtype: str, view: str | None = None) -> Column:
    return Column(name=name, kind="category" if dtype == "String" else "number", dtype=dtype, view=view)


def _check(view: FeatureView, module: str) -> None:
    if not isinstance(view.batch_source, FileSource):
        raise InvalidInput(f"{module}: view {view.name} has no FileSource", hint="FileSource(name=..., path=...)")
    if view.batch_source.timestamp_field != KNOWN_AT:
        found = view.batch_source.timestamp_field
        raise InvalidInput(
            f"{module}: view {view.name} joins on {found!r}", hint=f'its source needs timestamp_field="{KNOWN_AT}"'
        )
    if not view.features:
        raise InvalidInput(f"{module}: view {view.name} has no schema", hint="list its features as Fields")


def _placed(source: FileSource, offline_uri: str) -> FileSource:
    return FileSource(
        name=source.name,
        path=source_path(offline_uri, source.name),
        timestamp_field=KNOWN_AT,
        file_format=ParquetFormat(),
        description=source.description,
        tags=source.tags,
    )
