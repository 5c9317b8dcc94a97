"""The labelled rows a model is trained and judged on, and how time splits them."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from serinus.core.times import Interval

ID = "id"
EVENT_TIMESTAMP = "event_timestamp"
LABEL = "label"
LABEL_TIMESTAMP = "label_timestamp"


class Split(BaseModel):
    """Three stretches of time, oldest first. Training may use only labels known before `holdout` begins."""

    model_config = ConfigDict(frozen=True)

    train: Interval
    validation: Interval
    holdout: Interval

    @property
    def whole(self) -> Interval:
        return Interval(since=self.train.since, until=self.holdout.until)


class Dataset(BaseModel):
    """A manifest of labelled rows: columns `id`, `event_timestamp`, join keys, the signature's columns, `label`,
    `label_timestamp`, one row an id, sorted by (event_timestamp, id). `digest` is over content, not over files."""

    model_config = ConfigDict(frozen=True)

    uri: str
    as_of: datetime
    split: Split
    rows: int
    positives: int
    digest: str
