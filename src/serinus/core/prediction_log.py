"""What the prediction log looks like from outside: names of its columns and files, and whether it is complete.

A row of the log is laid out as a row of a `Dataset`: `id`, `event_timestamp`, join keys and the signature's columns
under their own names, so that `Signature.encode` reads it and any version can be scored on it. What serving adds has
names of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Literal

from pydantic import BaseModel, ConfigDict

PREDICTION_ID = "prediction_id"
SERVED_AT = "served_at"
REQUEST_ID = "request_id"
SHADOW = "shadow"
"""Whether the request was a copy for a version that nobody gets answers from."""
PROBABILITY = "probability"
RECEIVED_AT = "received_at"
KNOWN_AT = "known_at__"
"""Prefix of a feature view's event time."""
STATE = "state__"
"""Prefix of a feature view's state: one of `STATES`."""
STATES = ("present", "absent", "early", "unavailable", "stale", "expired")
"""What a view gave for a row. `stale` values were served past their age limit; `expired` ones were imputed, as were
those of the remaining states but `present`."""
MODEL = "model"
VERSION = "version"
DATE = "date"

Stream = Literal["predictions", "outcomes"]
SAMPLED = "sampled"
"""The reason of rows that were left out on purpose."""


def object_name(stream: Stream, day: date, partition: Mapping[str, str], leaf: str) -> str:
    """A file's name below the log's destination: Hive partitions by UTC date, model and version.

    Args:
        day: when the rows were served or received.
        partition: `model`, and `version` for predictions.
        leaf: a name that is the same at each attempt to ship the same rows.
    """
    inner = "".join(f"{name}={partition[name]}/" for name in (MODEL, VERSION) if name in partition)
    return f"{stream}/{DATE}={day.isoformat()}/{inner}{leaf}.parquet"


class LogCounts(BaseModel):
    """Rows of one version at each station of the log, as its metrics show them since counting began.

    `answered` rows got a probability; `logged` ones were handed to the log; `dropped` ones are known to be lost, by
    reason; `shipped` ones are at the destination, and `spooled` ones in files on the predictor's disk.
    """

    model_config = ConfigDict(frozen=True)

    answered: int
    logged: int
    dropped: dict[str, int] = {}
    shipped: int
    spooled: int

    def __sub__(self, earlier: LogCounts) -> LogCounts:
        """What happened since an earlier look; `spooled` may come out below zero."""
        reasons = sorted({*self.dropped, *earlier.dropped})
        return LogCounts(
            answered=self.answered - earlier.answered,
            logged=self.logged - earlier.logged,
            dropped={reason: self.dropped.get(reason, 0) - earlier.dropped.get(reason, 0) for reason in reasons},
            shipped=self.shipped - earlier.shipped,
            spooled=self.spooled - earlier.spooled,
        )


class Completeness(BaseModel):
    """How much of what was answered is in the log.

    `unlogged` rows never came to the log; `sampled_out` ones were left out on purpose; `dropped` ones are lost and
    counted where it happened; `gap` ones are lost and nobody counted them: a killed process had them in memory.
    """

    model_config = ConfigDict(frozen=True)

    answered: int
    kept: int
    sampled_out: int
    unlogged: int
    dropped: int
    gap: int

    @property
    def lost(self) -> int:
        """Rows that should be in the log and are not. Below zero: rows came from nowhere, which is as bad."""
        return self.unlogged + self.dropped + self.gap

    @property
    def complete(self) -> bool:
        """Whether the log can be evidence on all that it was to keep."""
        return self.unlogged == 0 and self.dropped == 0 and self.gap == 0


def completeness(counts: LogCounts) -> Completeness:
    """Balance the stations: whatever went in and is at no other station is a gap."""
    sampled_out = counts.dropped.get(SAMPLED, 0)
    dropped = sum(counts.dropped.values()) - sampled_out
    kept = counts.shipped + counts.spooled
    return Completeness(
        answered=counts.answered,
        kept=kept,
        sampled_out=sampled_out,
        unlogged=counts.answered - counts.logged,
        dropped=dropped,
        gap=counts.logged - sampled_out - dropped - kept,
    )
