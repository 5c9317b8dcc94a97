"""Feast and the model in one Python process, as Feast's documentation shows it: `get_online_features`, the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.serving.given import Ground
from serinus.core.signature import Signature
from serinus.engines import feast_start  # noqa: F401 - imports Feast quickly
from serinus.engines.exported import load_exported


class Scorer:
    """The features of rows from the online store, and their probabilities."""

    def __init__(self, ground: Ground) -> None:
        import feast

        torch.set_num_threads(1)
        self.signature = Signature.model_validate_json((Path(ground.model) / "signature.json").read_bytes())
        self._model = load_exported(Path(ground.model) / "model.pt2")
        self._store = feast.FeatureStore(repo_path=ground.repo)
        self._service = self._store.get_feature_service(ground.service)

    def __call__(self, rows: list[dict[str, Any]]) -> list[float]:
        keys = [{name: row[name] for name in self.signature.join_keys} for row in rows]
        columns = self._store.get_online_features(self._service, keys, full_feature_names=True).to_dict()
        columns |= {each.name: [row.get(each.name) for row in rows] for each in self.signature.request_columns}
        numbers, categories = self.signature.encode(columns)
        return self._model.probabilities(numbers, categories).tolist()
