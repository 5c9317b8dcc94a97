"""What an operator asks about a rollout's quality, for somebody else to answer: it cannot score rows itself.

A question is asked again and again while a rollout lasts, with what Prometheus counted meanwhile. It stays the same
question: an answer to it can be told from one about another rollout by its identity.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict

from serinus.core.prediction_log import LogCounts
from serinus.core.spec.log import PredictionLog
from serinus.core.spec.rollout import Quality
from serinus.core.times import Moment

_PASSING = {"counts", "asked"}


class Question(BaseModel):
    """How two versions of a model predict what was asked since a rollout began.

    `canary` and `stable` are numbers in the registry; `quality` and `log` are the spec's. `label_delay`, `holdout`,
    `whole_cohorts` and `lag` are as in `control.quality.QualitySettings`. `counts` are the log's counters of all
    versions together when it was `asked`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    canary: int
    stable: int
    since: Moment
    quality: Quality
    log: PredictionLog
    label_delay: timedelta
    holdout: timedelta | None
    whole_cohorts: bool
    lag: timedelta
    counts: LogCounts
    asked: Moment

    @property
    def identity(self) -> str:
        """The same for as long as the same is asked, whenever that is."""
        lasting = self.model_dump(mode="json", by_alias=True, exclude=_PASSING)
        return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()

    def again(self, counts: LogCounts, asked: datetime) -> Question:
        """The same question, later."""
        return self.model_copy(update={"counts": counts, "asked": asked})
