"""A small project for tests: will this order be returned? Everything is drawn in memory, from one seed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from serinus import Project

from . import world

if TYPE_CHECKING:
    import torch

    from serinus.core.signature import Signature


class Tiny(Project):
    """Orders of eight shops in two cities, January to March 2020."""

    @cached_property
    def _world(self) -> world.World:
        return world.draw()

    def ingest(self, since: datetime, until: datetime) -> Mapping[str, pd.DataFrame]:
        sources = {"shop_hourly": self._world.shops, "city_daily": self._world.cities}
        return {name: _between(frame, "known_at", since, until) for name, frame in sources.items()}

    def requests(self, since: datetime, until: datetime) -> pd.DataFrame:
        asked = _between(self._world.orders, "event_timestamp", since, until)
        return asked.drop(columns=["label", "label_timestamp"])

    def labels(self, until: datetime) -> pd.DataFrame:
        orders = self._world.orders
        known = orders[orders["label_timestamp"] < until]
        return known[["id", "label", "label_timestamp"]].reset_index(drop=True)

    def model(self, params: Mapping[str, Any], signature: Signature) -> torch.nn.Module:
        from .model import Network

        return Network(signature, hidden=int(params.get("hidden", 8)))

    def fingerprint(self, until: datetime) -> str:
        return "sha256:" + hashlib.sha256(f"{world.SEED} {until.isoformat()}".encode()).hexdigest()


def _between(frame: pd.DataFrame, column: str, since: datetime, until: datetime) -> pd.DataFrame:
    return frame[(frame[column] >= since) & (frame[column] < until)].reset_index(drop=True)
