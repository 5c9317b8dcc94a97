"""What a scorer is asked about: a log with two versions, a registry, and where questions are left."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from serinus.control.scorer import QuestionScorer
from serinus.core.evidence import QualityEvidence
from serinus.core.platform import Platform
from serinus.core.question import Question
from serinus.core.spec.log import PredictionLog
from serinus.core.spec.rollout import Quality
from serinus.core.version import RunRecord
from serinus.engines.ledger_exchange import Asked, Exchange
from serinus.engines.ledger_sql import LedgerDatabase
from serinus.engines.mlflow import Registry
from tests.support_quality import CANARY, NAME, STABLE, LogSite, draw

PLACE = ("demo", "tiny")
WHERE = "/".join(PLACE)
ROWS = 2000
MINUTE = timedelta(minutes=1)


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Parts:
    """A log with two versions in a registry, and a rollout that began some minutes ago."""

    folder: Path
    log: LogSite = field(init=False)
    began: datetime = field(default_factory=lambda: utc_now() - 30 * MINUTE)

    def __post_init__(self) -> None:
        self.log = LogSite(self.folder)
        local = Platform.local(self.folder / "state")
        self.platform = local.model_copy(update={"ledger_uri": f"sqlite:///{self.folder / 'ledger.db'}"})
        self.registry = Registry(self.platform.tracking_uri, self.platform.artifact_uri)
        for number, version in self.log.versions.items():
            record = RunRecord(name=NAME, lineage=version.lineage, accepted=True, metrics={}, card="# tiny\n")
            path = self.log.registry / version.archive
            assert self.registry.register(record, path, version.digest).version == number
        self.exchange = self.opened()

    def opened(self) -> Exchange:
        assert self.platform.ledger_uri is not None
        return Exchange(LedgerDatabase(self.platform.ledger_uri))

    def scorer(self, **changes: Any) -> QuestionScorer:
        """A new one, as after a restart; with another platform it is another pod."""
        platform = self.platform.model_copy(update=changes)
        return QuestionScorer(self.opened(), platform, self.registry, utc_now, timedelta(0))

    def traffic(self, rows: int = ROWS, seed: int = 1) -> None:
        """Answered requests, one in a hundred by the canary, and what became of them."""
        columns, labels = draw(rows, seed)
        callers = [f"{seed}-{row}" for row in range(rows)]
        canary = np.arange(rows) % 100 == 0
        for version, own in ((CANARY, canary), (STABLE, ~canary)):
            asked = {name: values[own] for name, values in columns.items()}
            self.log.serve(self.began + MINUTE, version, (asked, [callers[row] for row in np.flatnonzero(own)]))
        self.log.report(self.began + 2 * MINUTE, list(zip(callers, labels.tolist(), strict=True)))
        self.log.ship()

    def question(self, **changes: object) -> Question:
        """What the operator would ask, with the counters as they are."""
        now = utc_now()
        question = Question(
            model=NAME,
            canary=CANARY,
            stable=STABLE,
            since=self.began,
            quality=Quality(),
            log=PredictionLog(destination=self.log.log["destination"]),
            label_delay=timedelta(0),
            holdout=None,
            whole_cohorts=False,
            lag=timedelta(0),
            counts=self.log.counts(),
            asked=now,
        )
        return question.model_copy(update=changes)

    def ask(self, place: str = WHERE, **changes: object) -> Question:
        question = self.question(**changes)
        until = question.asked + 30 * MINUTE
        self.exchange.ask(
            place, Asked(question.model_dump_json(by_alias=True), question.identity, question.asked, until)
        )
        return question

    def answer(self, place: str = WHERE) -> QualityEvidence | None:
        standing = self.exchange.standing(place)
        if standing is None or standing.answer is None:
            return None
        return QualityEvidence.model_validate_json(standing.answer)


def answered(evidence: QualityEvidence | None) -> QualityEvidence:
    assert evidence is not None
    return evidence


def sure(evidence: QualityEvidence) -> float:
    """The mean difference in standard errors."""
    sums = evidence.labelled
    mean = sums.total / sums.rows
    return float(mean / np.sqrt((sums.squares / sums.rows - mean**2) / sums.rows))
