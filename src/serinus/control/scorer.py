"""Answers what the operator asks about quality: the laptop's evidence, where there is room for PyTorch.

One question at a time, the one that has waited longest first. What goes wrong with one is its answer, so that people
read it in the rollout's status, and no question can keep the others from theirs.
"""

from __future__ import annotations

import logging
import shutil
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import BaseModel, ValidationError

from serinus.control.quality import QualitySettings, QualitySource, counters_file
from serinus.core.errors import EngineError, SerinusError
from serinus.core.evidence import QualityEvidence
from serinus.core.platform import Platform
from serinus.core.prediction_log import LogCounts
from serinus.core.question import Question
from serinus.engines.files import write_text
from serinus.engines.ledger_exchange import Exchange, Task
from serinus.engines.mlflow import Registry
from serinus.engines.prediction_store import PredictionStore

log = logging.getLogger(__name__)

# Their rows are in memory; what is known of others is on the disk.
_KEPT_SOURCES = 16
_TIDY = timedelta(minutes=1)
# Nobody else takes a question within this time; it goes to another scorer if this one was killed.
_CLAIM = timedelta(minutes=5)


class _Memory(BaseModel):
    """What a scorer that begins anew could not find out: the counters at a rollout's first look, as their file."""

    counters: str
    content: str


@dataclass
class _Known:
    """The source that answered a question before. What it is told of the counters changes with each question."""

    identity: str
    source: QualitySource
    question: Question


class QuestionScorer:
    """Takes questions from the exchange and answers them.

    Args:
        exchange: where questions are.
        platform: who asks for what is in a bucket, and where there is room for what may be made again.
        registry: where versions are.
        clock: tells the time.
        interval: how often the same question is answered at most.
    """

    def __init__(
        self,
        exchange: Exchange,
        platform: Platform,
        registry: Registry,
        clock: Callable[[], datetime],
        interval: timedelta,
    ) -> None:
        self._exchange = exchange
        self._platform = platform
        self._registry = registry
        self._clock = clock
        self._interval = interval
        self._folder = platform.state / "quality"
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._tidied: datetime | None = None
        self.waits_since: datetime | None = None

    def step(self) -> QualityEvidence | None:
        """Answer the question whose turn has come first, and say how; None where none waits.

        Raises:
            EngineError: the database cannot be reached.
            Conflict: another scorer was quicker.
        """
        now = self._clock()
        if self._tidied is None or now - self._tidied >= _TIDY:
            self._tidy(now)
            self._tidied = now
        self.waits_since = self._exchange.longest()
        task = self._exchange.take(now, _CLAIM)
        if task is None:
            return None
        try:
            evidence = self._evidence(task)
            self._give(task, evidence)
        except BaseException:
            # Also when this process is told to end: nobody need wait then until the question is free again.
            with suppress(SerinusError):
                self._exchange.put_back(task)
            raise
        return evidence

    def _evidence(self, task: Task) -> QualityEvidence:
        """What is known, or why nothing is."""
        try:
            question = Question.model_validate_json(task.text)
        except ValidationError as error:
            log.error("the question about %s cannot be read: %s", task.place, error)
            words = "the scorer cannot read the question: are operator and scorer of the same version?"
            return QualityEvidence(at=task.asked, metric="log_loss", missing=(words,))
        try:
            return self._scored(task, question)
        except SerinusError as error:
            log.warning("no evidence about %s: %s", task.place, error)
            words = str(error)
        except Exception as error:
            # A fault in Serinus, or rows that nobody thought of: it must not keep others from their answers.
            log.exception("no evidence about %s", task.place)
            self._known.pop(task.place, None)
            words = f"a fault in the scorer, whose log tells more: {type(error).__name__}"
        return QualityEvidence(at=task.asked, metric=question.quality.metric, missing=(words,))

    def _scored(self, task: Task, question: Question) -> QualityEvidence:
        """
        Raises:
            SerinusError: a version, its archive or the log cannot be had.
        """
        known = self._known.get(task.place)
        if known is None or known.identity != task.identity:
            known = self._begin(task, question)
        known.question = question
        self._known.move_to_end(task.place)
        canary, stable = (self._registry.get(question.model, number) for number in (question.canary, question.stable))
        return known.source.evidence(canary, stable, question.since, question.asked)

    def _begin(self, task: Task, question: Question) -> _Known:
        url = question.log.destination
        if url is None:
            raise EngineError("the log's destination is nowhere that a scorer could read")
        settings = QualitySettings(
            quality=question.quality,
            log=question.log,
            label_delay=question.label_delay,
            holdout=question.holdout,
            whole_cohorts=question.whole_cohorts,
            lag=question.lag,
            clock=self._clock,
        )
        store = PredictionStore(url, self._platform.options_for(url))
        self._remember(task)
        known: _Known

        def counts() -> LogCounts:
            return known.question.counts

        source = QualitySource(store, self._folder / task.place, self._registry.fetch, counts, settings)
        known = self._known[task.place] = _Known(task.identity, source, question)
        while len(self._known) > _KEPT_SOURCES:
            self._known.popitem(last=False)
        return known

    def _remember(self, task: Task) -> None:
        """Put back what was known of the counters, where this scorer has not been there."""
        if task.memory is None:
            return
        try:
            memory = _Memory.model_validate_json(task.memory)
        except ValidationError:
            log.warning(
                "what was known of the counters of %s cannot be read: they are watched from here on", task.place
            )
            return
        path = self._folder / task.place / memory.counters
        if not path.exists():
            write_text(path, memory.content)

    def _give(self, task: Task, evidence: QualityEvidence) -> None:
        memory, known = task.memory, self._known.get(task.place)
        if known is not None:
            file = counters_file(known.question.model, known.question.since)
            with suppress(FileNotFoundError):
                content = (self._folder / task.place / file).read_text(encoding="utf-8")
                memory = _Memory(counters=str(file), content=content).model_dump_json()
        self._exchange.give(task, evidence.model_dump_json(), memory, self._clock() + self._interval)

    def _tidy(self, now: datetime) -> None:
        """Forget what nobody asks about any more."""
        wanted = self._exchange.places(now)
        for place in set(self._known) - wanted:
            del self._known[place]
        for folder in self._folder.glob("*/*"):
            if str(folder.relative_to(self._folder)) not in wanted:
                shutil.rmtree(folder, ignore_errors=True)
