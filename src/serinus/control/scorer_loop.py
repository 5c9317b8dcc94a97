"""A scorer at work: step after step, counted, until it is told to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serinus.core.errors import SerinusError
from serinus.core.evidence import QualityEvidence

log = logging.getLogger(__name__)

Step = Callable[[], QualityEvidence | None]
"""Answers one question and says how; None where none waits."""


class MeasuredScorer:
    """A scorer that counts what it does in a registry of its own.

    Args:
        step: what is measured.
        waits_since: since when the question has waited whose turn came first; None where none waits.
        clock: tells the time.
        stuck: how long one step may take before it is taken for hanging.
    """

    def __init__(
        self,
        step: Step,
        waits_since: Callable[[], datetime | None],
        clock: Callable[[], datetime],
        stuck: timedelta,
    ) -> None:
        self._step = step
        self._waits_since = waits_since
        self._clock = clock
        self._stuck = stuck
        self._stepped = clock()
        self.busy = False
        own = self.registry = CollectorRegistry()
        oldest = Gauge(
            "serinus_scorer_oldest_seconds",
            "How long the question has waited whose turn came first; 0 where none waits.",
            registry=own,
        )
        oldest.set_function(self._oldest)
        self._passes = Counter("serinus_scorer_passes", "Looks for a question that waits.", registry=own)
        self._failed = Counter(
            "serinus_scorer_failures", "Looks that failed, for the database could not be reached.", registry=own
        )
        self._answers = Counter(
            "serinus_scorer_answers", "Answers: evidence, or why there is none.", ["result"], registry=own
        )
        for result in ("evidence", "missing"):
            self._answers.labels(result)
        self._seconds = Histogram(
            "serinus_scorer_answer_seconds",
            "Time that one answer takes.",
            buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
            registry=own,
        )

    def step(self) -> bool:
        """One step; whether there was a question.

        Raises:
            SerinusError: it failed, and is counted.
        """
        began, self.busy = self._clock(), True
        try:
            with self._failed.count_exceptions():
                found = self._step()
        finally:
            self.busy = False
            self._stepped = self._clock()
        self._passes.inc()
        if found is not None:
            self._seconds.observe((self._stepped - began).total_seconds())
            self._answers.labels("missing" if found.missing else "evidence").inc()
        return found is not None

    def alive(self) -> bool:
        """Whether steps are made."""
        return self._clock() - self._stepped < self._stuck

    def _oldest(self) -> float:
        since = self._waits_since()
        return max(0.0, (self._clock() - since).total_seconds()) if since is not None else 0.0


def run(scorer: MeasuredScorer, every: float, stop: threading.Event) -> None:
    """Step until `stop` is set, at once after an answer and else each `every` seconds. A step that fails is logged and
    made up for by the next one."""
    while not stop.is_set():
        busy = False
        try:
            busy = scorer.step()
        except SerinusError as error:
            log.error("%s", error)
        if not busy:
            stop.wait(every)
