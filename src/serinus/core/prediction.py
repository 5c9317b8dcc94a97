"""A prediction as it was served, and the outcome that is later reported under its id."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

_VERSION = 0x7000
_VARIANT = 0x8000
RANDOM_BYTES = 8
"""Random bytes that each prediction id needs."""

Traffic = Literal["live", "shadow"]
"""Whose requests: somebody's, or copies of them for a version whose answers nobody gets."""
LIVE: Traffic = "live"
SHADOW: Traffic = "shadow"
TRAFFIC: tuple[Traffic, ...] = (LIVE, SHADOW)
T = TypeVar("T")


class Prediction(BaseModel):
    """One answered row: enough to compare it with the point-in-time features and to score any version on it.

    `values` holds each column as the model saw it (None where missing), `known_at` the event time of each feature
    view's row (None where there was none), `stale` the views that were served past their age limit.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    model: str
    version: int
    time: datetime
    keys: dict[str, Any]
    values: dict[str, Any]
    known_at: dict[str, datetime | None]
    stale: tuple[str, ...] = ()
    probability: float = Field(ge=0, le=1)


class Outcome(BaseModel):
    """What really happened, and when it became known.

    It belongs to the prediction of that id, or to every prediction that was asked for under the caller's own `id`.
    """

    model_config = ConfigDict(frozen=True)

    prediction_id: str | None = None
    id: str | None = None
    label: int = Field(ge=0, le=1)
    known_at: datetime

    @model_validator(mode="after")
    def _named(self) -> Outcome:
        if (self.prediction_id is None) == (self.id is None):
            raise ValueError("either a prediction_id or the caller's id")
        return self


def prediction_ids(milliseconds: int, random: bytes) -> list[str]:
    """One UUID of version 7 for each `RANDOM_BYTES` of `random`: they sort by time, then by position.

    Args:
        milliseconds: Unix time.
        random: as many times `RANDOM_BYTES` as ids are wanted.
    """
    stamp = f"{milliseconds & 0xFFFFFFFFFFFF:012x}"
    prefix = f"{stamp[:8]}-{stamp[8:]}-"
    digits = random.hex()
    ids = []
    for position in range(len(random) // RANDOM_BYTES):
        start = position * 2 * RANDOM_BYTES
        clock = _VARIANT | (int(digits[start : start + 4], 16) & 0x3FFF)
        ids.append(f"{prefix}{_VERSION | (position & 0xFFF):04x}-{clock:04x}-{digits[start + 4 : start + 16]}")
    return ids


def by_traffic(values: Sequence[T], copies: Sequence[bool] | None) -> list[tuple[Traffic, Sequence[T]]]:
    """The values of each kind of traffic that there is.

    Args:
        values: one a request.
        copies: which requests were copies for a shadow; None: none of them.
    """
    if copies is None:
        return [(LIVE, values)]
    parts: dict[Traffic, list[T]] = {LIVE: [], SHADOW: []}
    for value, copy in zip(values, copies, strict=True):
        parts[SHADOW if copy else LIVE].append(value)
    return [(traffic, part) for traffic, part in parts.items() if part]
