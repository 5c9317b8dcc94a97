"""Versions of the tiny project's model that each have one fault of their own, or none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from serinus.core.signature import Signature
from serinus.core.version import CHALLENGER, ModelVersion, RunRecord
from serinus.engines.archive import HANDLER, MODEL, PROFILE, SIGNATURE, read_archive
from serinus.engines.mlflow import Registry
from serinus.training.package import Parts, package

SLOW = """
import time

from serinus.serve import handler
from serinus.serve.handler import Predictor

_predict = Predictor._predict


def _slowly(self, batch):
    time.sleep(0.25)
    return _predict(self, batch)


Predictor._predict = _slowly
"""
"""Put before the handler: every batch takes a quarter of a second longer."""

ERRING = """
from serinus.serve.handler import Predictor

_predict = Predictor._predict


def _or_fail(self, batch):
    if any(amount is not None and amount > 80 for amount in batch.columns.get("amount", ())):
        raise ZeroDivisionError("nobody tried an order of more than 80")
    return _predict(self, batch)


Predictor._predict = _or_fail
"""
"""Put before the handler: it cannot answer the one order in seven that costs more than 80."""

IN_SECONDS = """
from serinus.serve.handler import Predictor

_columns = Predictor._columns


def _in_seconds(self, batch, checked, rows):
    columns = _columns(self, batch, checked, rows)
    columns["shop_hourly__queue"] = columns["shop_hourly__queue"] * 60
    return columns


Predictor._columns = _in_seconds
"""
"""Put before the handler: a feature in another unit than the model was trained on."""

IN_CAPITALS = """
from serinus.serve.lookup import ViewLookup

_proto = ViewLookup._proto


def _in_capitals(self, key):
    return _proto(self, tuple(each.upper() for each in key) if self.name == "city_daily" else key)


ViewLookup._proto = _in_capitals
"""
"""Put before the handler: it asks for keys of one of its two views that the store does not have."""

Change = Callable[[Path], None]
"""Changes a version's unpacked archive."""


def harmless(parts: Path) -> None:
    """A version that predicts as the one it is made of."""
    handler = parts / HANDLER
    handler.write_text(handler.read_text() + f"\n# made in {parts.name}\n")


def handled_by(code: str) -> Change:
    """With code before the handler's own."""

    def change(parts: Path) -> None:
        handler = parts / HANDLER
        handler.write_text(code + handler.read_text())
        harmless(parts)

    return change


def short_lived(parts: Path) -> None:
    """Its author took a feature's time to live for a few seconds: hardly a value is young enough."""
    _resign(parts, lambda view: view | {"ttl_seconds": 5.0}, lambda column: column)


def mixed_up(parts: Path) -> None:
    """Two channels, equally frequent, are taken for each other: the same predictions, of the wrong orders."""

    def swapped(column: dict[str, Any]) -> dict[str, Any]:
        other = {"web": "desk", "desk": "web"}
        return column | {"categories": [other.get(each, each) for each in column["categories"]]}

    _resign(parts, lambda view: view, swapped)


def _resign(parts: Path, view: Callable[[dict[str, Any]], Any], column: Callable[[dict[str, Any]], Any]) -> None:
    path = parts / SIGNATURE
    found = Signature.model_validate_json(path.read_bytes()).model_dump(mode="json")
    found["views"] = [view(each) for each in found["views"]]
    found["columns"] = [column(each) for each in found["columns"]]
    path.write_text(Signature.model_validate(found).model_dump_json())
    harmless(parts)


def challenger(registry: Registry, first: ModelVersion, folder: Path, variant: tuple[str, Change]) -> ModelVersion:
    """Register a variant of a version and make it the challenger."""
    version = register(registry, first, folder, variant)
    registry.set_alias(first.name, CHALLENGER, version.version)
    return version


def register(registry: Registry, first: ModelVersion, folder: Path, variant: tuple[str, Change]) -> ModelVersion:
    """Register a variant of a version, packaged as the pipeline does it."""
    name, change = variant
    scratch = folder / name
    scratch.mkdir(parents=True)
    with read_archive(registry.fetch(first, folder), first.digest) as archive:
        archive.extract(scratch)
    change(scratch)
    parts = Parts(scratch / MODEL, scratch / SIGNATURE, scratch / PROFILE, scratch / HANDLER)
    packaged = package(first.name, parts, scratch / "out")
    lineage = first.lineage.model_copy(update={"pipeline_run": name})
    record = RunRecord(name=first.name, lineage=lineage, accepted=True, metrics={}, card=f"# {name}\n")
    return registry.register(record, packaged.path, packaged.digest)
