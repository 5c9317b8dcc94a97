"""A cluster's part of the evidence on quality: what the operator asks a scorer, and what it makes of the answer.

Rows are scored with PyTorch, which the operator's image has no room for. So it writes down what it wants to know, with
the log's counters as Prometheus has them, and reads what the scorer (`control.scorer`) answered meanwhile. An answer
that is not there, or is about something else, or old, is no evidence: the rollout holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from pydantic import ValidationError

from serinus.control.log_balance import counts_of
from serinus.core.errors import EngineError, IntegrityError, SerinusError
from serinus.core.evidence import QualityEvidence
from serinus.core.prediction_log import LogCounts
from serinus.core.question import Question
from serinus.core.rollout import RolloutState
from serinus.core.spec.deployment import ModelDeploymentSpec
from serinus.core.spec.rollout import Rollout
from serinus.core.spec.training import ContinuousTraining, Windows
from serinus.core.times import format_duration
from serinus.engines.kubernetes import CONTINUOUS_TRAINING, Kind, Object
from serinus.engines.ledger_exchange import Asked, Exchange, Standing
from serinus.engines.prometheus import Prometheus, Value, quoted

_COUNTERS = (
    "serinus_rows_total",
    "serinus_log_rows_total",
    "serinus_log_dropped_rows_total",
    "serinus_log_discarded_rows_total",
    "serinus_log_shipped_rows_total",
    "serinus_log_spool_rows",
)
_WAITING, _SHIPPED = "serinus_log_spool_rows", "serinus_log_shipped_rows_total"
# Pods that have ended meanwhile have logged rows too.
_MEMORY = "1d"
_PATIENCE, _WORTH = timedelta(minutes=10), timedelta(minutes=30)
_HINT = "Deployment serinus-scorer, beside the operator, answers: does it run, and what does its log say?"


class Trainings(Protocol):
    """The cluster's part."""

    def all(self, kind: Kind, namespace: str) -> list[Object]:
        """All objects of a kind in a namespace."""
        ...


@dataclass(frozen=True)
class ClusterQuality:
    """How well the versions of one ModelDeployment predict.

    Attributes:
        trainings: where its training's windows are: the cluster.
        place: namespace and name of the ModelDeployment.
        exchange: where questions are asked.
        server: Prometheus.
        scrape_interval: how often that scrapes: what it knows is as old.
        ask_again: how old a question is before it is asked again. A hundred rollouts that are looked at each second are
            no hundred queries a second.
        ended_after: how long a pod is not scraped until it has ended for sure.
    """

    trainings: Trainings
    place: tuple[str, str]
    exchange: Exchange
    server: Prometheus
    scrape_interval: timedelta
    ask_again: timedelta = timedelta(seconds=10)
    ended_after: timedelta = timedelta(minutes=1)

    def evidence(self, spec: ModelDeploymentSpec, state: RolloutState, now: datetime) -> QualityEvidence | None:
        """How canary and stable version predict; None where nobody wants to know, or there is no log."""
        rollout = spec.rollout
        if rollout is None or not rollout.guards.quality.enabled or not spec.log.enabled:
            return None
        if state.canary is None or state.started is None:
            return None
        try:
            return self._answer(rollout, self._asked(spec, rollout, state, now), now)
        except SerinusError as error:
            return QualityEvidence(at=now, metric=rollout.guards.quality.metric, missing=(str(error),))

    def _asked(
        self, spec: ModelDeploymentSpec, rollout: Rollout, state: RolloutState, now: datetime
    ) -> Standing | None:
        """How the question stands, which is asked again now and then; None where it is asked for the first time.

        Raises:
            SerinusError: it cannot be asked, and why.
        """
        if spec.log.destination is None:
            raise EngineError(
                "spec.log.destination names no object store, and a pod's own folder is seen by nobody else"
            )
        question, place = self._question(spec, rollout, state, now), "/".join(self.place)
        standing = self.exchange.standing(place)
        same = standing is not None and standing.identity == question.identity
        if standing is None or not same or now - standing.asked >= self.ask_again:
            question = question.again(self._counts(spec.model.name, now), now)
            expires = now + max(_WORTH, 3 * rollout.interval)
            self.exchange.ask(place, Asked(question.model_dump_json(by_alias=True), question.identity, now, expires))
        return standing if same else None

    def _question(self, spec: ModelDeploymentSpec, rollout: Rollout, state: RolloutState, now: datetime) -> Question:
        assert state.canary is not None
        assert state.started is not None
        windows, quality = self._windows(), rollout.guards.quality
        return Question(
            model=spec.model.name,
            canary=state.canary.version,
            stable=state.stable,
            since=state.started,
            quality=quality,
            log=spec.log,
            label_delay=windows.label_delay if windows is not None else timedelta(0),
            holdout=windows.holdout if windows is not None else None,
            whole_cohorts=not quality.early_outcomes,
            lag=2 * self.scrape_interval,
            counts=LogCounts(answered=0, logged=0, shipped=0, spooled=0),
            asked=now,
        )

    def _answer(self, rollout: Rollout, standing: Standing | None, now: datetime) -> QualityEvidence:
        """
        Raises:
            EngineError: there is no answer, or none that is young enough.
            IntegrityError: it cannot be read.
        """
        bound = max(_PATIENCE, 3 * rollout.interval)
        if standing is None or standing.answer is None or standing.about is None:
            late = standing is not None and now - standing.first > bound
            raise EngineError("the scorer has not answered yet", hint=_HINT if late else None)
        if now - standing.about > bound:
            minutes = bound.total_seconds() / 60
            raise EngineError(f"the scorer's answer is older than {minutes:g} minutes", hint=_HINT)
        try:
            return QualityEvidence.model_validate_json(standing.answer)
        except ValidationError as error:
            raise IntegrityError(
                "the scorer's answer cannot be read", hint="are operator and scorer of the same version?"
            ) from error

    def _counts(self, model: str, now: datetime) -> LogCounts:
        """
        Raises:
            EngineError: Prometheus does not answer, or knows nothing of the log.
        """
        matchers = f"model={quoted(model)},namespace={quoted(self.place[0])}"
        query = f'last_over_time({{__name__=~"{"|".join(_COUNTERS)}",{matchers}}}[{_MEMORY}])'
        found = self.server.instant(query, now)
        if not found:
            raise EngineError(f"Prometheus knows nothing of the prediction log of {model}")
        recent = format_duration(max(self.ended_after, 4 * self.scrape_interval))
        there = self.server.instant(f"last_over_time({_WAITING}{{{matchers}}}[{recent}])", now)
        alive = {_series(each) for each in there}
        return counts_of([(_station(each, alive), frozenset(each.labels.items()), each.value) for each in found])

    def _windows(self) -> Windows | None:
        """The windows of the training that feeds the deployment; None where there is none."""
        namespace, name = self.place
        for each in self.trainings.all(CONTINUOUS_TRAINING, namespace):
            if each["spec"].get("deployment") == name:
                document = {key: each[key] for key in ("apiVersion", "kind", "metadata", "spec")}
                try:
                    return ContinuousTraining.model_validate(document, by_alias=True, by_name=False).spec.windows
                except ValidationError:
                    return None
        return None


def _series(sample: Value) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in sample.labels.items() if name != "__name__")


def _station(sample: Value, alive: set[frozenset[tuple[str, str]]]) -> str:
    """What a sample counts. What waited on a pod that has ended is at the destination by now, or is missed there."""
    name = sample.labels["__name__"]
    return _SHIPPED if name == _WAITING and _series(sample) not in alive else name
