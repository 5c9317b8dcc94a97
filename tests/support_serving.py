"""A small served model: a Feast store with four views on SQLite, an exported module, and the files of its archive."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from serinus.core.platform import Platform
from serinus.core.profile import build_profile, profile_predictions
from serinus.core.serving import ServingConfig
from serinus.core.signature import Signature
from serinus.core.spec import ModelDeploymentSpec

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
PROJECT = "served"
MODEL = "delays"


def definitions() -> ModuleType:
    """Views with one, two and no expiring keys, strings and integers, and every type of value that models take."""
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
    from feast.types import Bool, Float32, Float64, Int64, String

    origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
    carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING)
    plane = Entity(name="plane", join_keys=["plane"], value_type=ValueType.INT64)

    def view(name: str, entities: list[Entity], fields: dict[str, Any], ttl: timedelta) -> FeatureView:
        keys = {"origin": String, "carrier": String, "plane": Int64}
        schema = [Field(name=entity.join_key, dtype=keys[entity.join_key]) for entity in entities]
        schema += [Field(name=field, dtype=dtype) for field, dtype in fields.items()]
        source = FileSource(name=name, path=name, timestamp_field="known_at")
        return FeatureView(name=name, entities=entities, schema=schema, source=source, ttl=ttl)

    module = ModuleType("features")
    module.origin, module.carrier, module.plane = origin, carrier, plane  # type: ignore[attr-defined]
    views = [
        view("hourly", [origin], {"delay": Float64, "flights": Int64}, 2 * HOUR),
        view("daily", [carrier], {"rate": Float32, "tier": String}, timedelta(0)),
        view("route", [origin, carrier], {"delay": Float64}, 24 * HOUR),
        view("planes", [plane], {"seats": Int64, "jet": Bool, "maker": String}, timedelta(0)),
    ]
    for each in views:
        setattr(module, each.name, each)
    module.service = FeatureService(name="delays", features=views)  # type: ignore[attr-defined]
    return module


def rows() -> dict[str, pd.DataFrame]:
    """What the online store holds at NOW. `LGA` was last seen just inside the TTL, `EWR` just outside, `JFK` now."""

    def frame(known_at: list[datetime], **columns: list[Any]) -> pd.DataFrame:
        times = pd.DatetimeIndex(pd.to_datetime(known_at, utc=True)).as_unit("us")
        return pd.DataFrame({**columns, "happened_at": times, "known_at": times})

    second = timedelta(seconds=1)
    return {
        "hourly": frame(
            [NOW - HOUR, NOW - 2 * HOUR, NOW - 2 * HOUR - second, NOW + second],
            origin=["JFK", "LGA", "EWR", "BOS"], delay=[1.5, -2.0, 9.0, 4.0], flights=[11, 12, 13, 14],
        ),
        "daily": frame(
            [NOW - 30 * HOUR] * 3,
            carrier=["AA", "B6", "UA"], rate=np.array([0.1, 0.25, np.nan], dtype=np.float32).tolist(),
            tier=["full", "low", None],
        ),
        "route": frame([NOW - HOUR, NOW], origin=["JFK", "LGA"], carrier=["AA", "B6"], delay=[3.25, float("nan")]),
        "planes": frame(
            [NOW - 1000 * HOUR] * 2,
            plane=[1, 2**40], seats=[180, 20], jet=[True, False], maker=["AIRBUS", "CESSNA"],
        ),
    }  # fmt: skip


REQUESTS = pa.schema(
    [("distance", pa.float64()), ("hour", pa.int64()), ("night", pa.bool_()), ("terminal", pa.string())]
)


class Toy(torch.nn.Module):
    """Numbers and categories through one hidden layer, missing values as zero."""

    def __init__(self, signature: Signature) -> None:
        super().__init__()
        self.numbers = [column.name for column in signature.numbers]
        self.categories = [column.name for column in signature.categories]
        width = len(self.numbers) + len(self.categories)
        self.layers = torch.nn.Sequential(torch.nn.Linear(width, 48), torch.nn.ReLU(), torch.nn.Linear(48, 1))

    def forward(self, columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
        values = [torch.nan_to_num(columns[name]).div(100).clamp(-3, 3) for name in self.numbers]
        values += [columns[name].float() for name in self.categories]
        logits: torch.Tensor = self.layers(torch.stack(values, 1)).squeeze(1)
        return logits


def platform(state: Path) -> Platform:
    """A laptop's platform whose online store holds `rows()`."""
    from serinus.engines.feast import FeatureStore

    where = Platform.local(state)
    FeatureStore.open(where, PROJECT).apply(definitions())
    write_online(where, rows())
    return where


def write_online(where: Platform, frames: Mapping[str, pd.DataFrame]) -> None:
    """Put rows into the online store by Feast's own means."""
    import feast

    from serinus.engines.feast import FeatureStore

    _, feast_config, _ = FeatureStore.open(where, PROJECT).online_views(list(frames))
    store = feast.FeatureStore(config=feast_config)
    for name, frame in frames.items():
        store.write_to_online_store(name, frame.drop(columns="happened_at"))


def signature(where: Platform) -> Signature:
    """The signature of a model over all views, with categories as if learned."""
    from serinus.engines.feast import FeatureStore

    found = FeatureStore.open(where, PROJECT).signature("delays", MODEL, REQUESTS)
    known = {"daily__tier": ("full", "low"), "planes__maker": ("AIRBUS", "BOEING"), "terminal": ("A", "B")}
    columns = [
        column.model_copy(update={"categories": known[column.name]}) if column.kind == "category" else column
        for column in found.columns
    ]
    return Signature.model_validate(found.model_dump() | {"columns": columns})


def write_model(folder: Path, inputs: Signature) -> None:
    """The members of an archive: model, signature, profile."""
    from serinus.engines.exported import NamedColumns, export_module, save_exported

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    save_exported(export_module(NamedColumns(Toy(inputs), inputs)), folder / "model.pt2")
    (folder / "signature.json").write_text(inputs.model_dump_json())
    random = np.random.default_rng(0)
    numbers = random.normal(10, 5, (500, len(inputs.numbers))).astype(np.float32)
    codes = random.integers(0, 3, (500, len(inputs.categories)))
    profile = profile_predictions(build_profile(inputs, numbers, codes), random.random(500))
    (folder / "profile.json").write_text(profile.model_dump_json())


def config(where: Platform, features: Mapping[str, Any] | None = None, **fields: Any) -> ServingConfig:
    """A serving configuration that replays the past: ages are measured against `event_timestamp`."""
    spec = {"model": {"name": MODEL, "version": 3}, "features": dict(features or {})}
    usual = {
        "version": 3,
        "digest": "sha256:0",
        "deployment": ModelDeploymentSpec.model_validate(spec),
        "platform": where,
        "feature_project": PROJECT,
        "clock": "request",
        "metrics_dir": where.state / "metrics",
    }
    return ServingConfig.model_validate(usual | fields)


def row(**changes: Any) -> dict[str, Any]:
    """A request row for which every view has a value."""
    full = {
        "event_timestamp": NOW.isoformat(), "origin": "JFK", "carrier": "AA", "plane": 1,
        "distance": 1000.5, "hour": 9, "night": False, "terminal": "A",
    }  # fmt: skip
    return {name: value for name, value in (full | changes).items() if value is not ...}


DATATYPES = {"distance": "FP64", "hour": "INT64", "plane": "INT64", "night": "BOOL"}


def predictor(serving: ServingConfig, model_dir: Path, counts: Any = None) -> Any:
    """A predictor in this process, uncounted unless told otherwise."""
    from serinus.engines.exported import load_exported
    from serinus.serve.handler import Predictor, online_source
    from serinus.serve.lookup import Lookup

    inputs = Signature.model_validate_json((model_dir / "signature.json").read_bytes())
    lookup = Lookup(inputs, serving, online_source(serving, inputs))
    return Predictor(serving, inputs, load_exported(model_dir / "model.pt2"), lookup, counts)


def infer(of: list[dict[str, Any]], *outputs: str) -> bytes:
    """An Open Inference Protocol request with the rows' columns as tensors."""
    tensors = [
        {
            "name": name,
            "shape": [len(of)],
            "datatype": DATATYPES.get(name, "BYTES"),
            "data": [each.get(name) for each in of],
        }
        for name in dict.fromkeys(name for each in of for name in each)
    ]
    content: dict[str, Any] = {"id": "r1", "inputs": tensors}
    if outputs:
        content["outputs"] = [{"name": name} for name in outputs]
    return json.dumps(content).encode()
