"""A small dataset folder with a signal that a model can learn, and a project whose module learns it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from serinus.core.dataset import Dataset, Split
from serinus.core.profile import build_profile
from serinus.core.project import Project
from serinus.core.signature import Column, Signature, View
from serinus.core.times import Interval

START = datetime(2020, 1, 1, tzinfo=UTC)
DAYS = 60


def signature(categories: tuple[str, ...] = ("AA", "B6", "UA")) -> Signature:
    """Two stored numbers, a request number and a stored category that is sometimes missing."""
    return Signature(
        model="toy",
        feature_service="toy",
        join_keys={"place": "String"},
        views=(View(name="load", join_keys=("place",), ttl_seconds=7200),),
        columns=(
            Column(name="hour", kind="number", dtype="Int64"),
            Column(name="carrier", kind="category", dtype="String", categories=categories),
            Column(name="load__mean", kind="number", dtype="Float64", view="load"),
            Column(name="load__count", kind="number", dtype="Int64", view="load"),
        ),
    )


def frame(rows: int = 6000, seed: int = 0) -> pd.DataFrame:
    """Rows over `DAYS` days; the label depends on all three inputs, and every day has its own luck."""
    rng = np.random.default_rng(seed)
    minutes = np.sort(rng.integers(0, DAYS * 1440, rows))
    carrier = rng.choice(["AA", "B6", "UA"], rows)
    mean = rng.normal(size=rows) * 10
    hour = minutes // 60 % 24
    luck = rng.normal(size=DAYS)[minutes // 1440] * 0.3
    logit = 0.12 * mean + 0.08 * (hour - 12) + np.select([carrier == "B6"], [1.0], -0.3) + luck
    known = rng.random(rows) > 0.1
    count = np.where(known, rng.poisson(20, rows), np.nan)
    when = [START + timedelta(minutes=int(minute)) for minute in minutes]
    return pd.DataFrame(
        {
            "id": [f"r{position}" for position in range(rows)],
            "event_timestamp": pd.DatetimeIndex(when),
            "place": rng.choice(["north", "south"], rows),
            "hour": hour,
            "carrier": np.where(rng.random(rows) > 0.05, carrier, None),
            "load__mean": np.where(known, mean, np.nan),
            "load__count": count,
            "label": (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int64),
            "label_timestamp": pd.DatetimeIndex(when) + timedelta(hours=3),
        }
    )


def split() -> Split:
    marks = [START + timedelta(days=day) for day in (0, 30, 40, DAYS)]
    return Split(
        train=Interval(since=marks[0], until=marks[1]),
        validation=Interval(since=marks[1], until=marks[2]),
        holdout=Interval(since=marks[2], until=marks[3]),
    )


def write_dataset(folder: Path, rows: pd.DataFrame | None = None) -> Path:
    """Write rows.parquet, dataset.json, signature.json and profile.json, as the dataset step does."""
    rows = frame() if rows is None else rows
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(folder / "rows.parquet", index=False)
    manifest = Dataset(
        uri=str(folder),
        as_of=START + timedelta(days=DAYS),
        split=split(),
        rows=len(rows),
        positives=int(rows["label"].sum()),
        digest="sha256:" + "0" * 64,
    )
    agreed = signature()
    numbers, categories = agreed.encode({column.name: rows[column.name].to_numpy() for column in agreed.columns})
    (folder / "dataset.json").write_text(manifest.model_dump_json())
    (folder / "signature.json").write_text(agreed.model_dump_json())
    (folder / "profile.json").write_text(build_profile(agreed, numbers, categories).model_dump_json())
    return folder


class ToyModule(torch.nn.Module):
    """Standardised numbers with flags for missing ones, an embedding and one hidden layer."""

    def __init__(self, signature: Signature, width: int) -> None:
        super().__init__()
        self.names = [column.name for column in signature.numbers]
        self.register_buffer("mean", torch.zeros(len(self.names)))
        self.register_buffer("scale", torch.ones(len(self.names)))
        self.embedding = torch.nn.Embedding(len(signature.categories[0].categories) + 2, 3)
        self.hidden = torch.nn.Linear(2 * len(self.names) + 3, width)
        self.out = torch.nn.Linear(width, 1)

    def prepare(self, columns: Mapping[str, torch.Tensor]) -> None:
        for position, name in enumerate(self.names):
            known = columns[name][~torch.isnan(columns[name])]
            self.mean[position], self.scale[position] = known.mean(), known.std()

    def forward(self, columns: dict[str, torch.Tensor]) -> torch.Tensor:
        numbers = (torch.stack([columns[name] for name in self.names], 1) - self.mean) / self.scale
        known = ~torch.isnan(numbers)
        parts = (torch.nan_to_num(numbers), known.float(), self.embedding(columns["carrier"]))
        return self.out(torch.nn.functional.silu(self.hidden(torch.cat(parts, 1)))).squeeze(1)


class Toy(Project):
    """A project of which training only uses the module."""

    def ingest(self, since: datetime, until: datetime) -> Mapping[str, pd.DataFrame]:
        raise NotImplementedError

    def requests(self, since: datetime, until: datetime) -> pd.DataFrame:
        raise NotImplementedError

    def labels(self, until: datetime) -> pd.DataFrame:
        raise NotImplementedError

    def model(self, params: Mapping[str, Any], signature: Signature) -> torch.nn.Module:
        return ToyModule(signature, params.get("width", 16))

    def fingerprint(self, until: datetime) -> str:
        raise NotImplementedError
