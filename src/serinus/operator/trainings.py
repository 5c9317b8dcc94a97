"""One look at a ContinuousTraining: features kept up to date, runs started when they are due, and what came of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from pydantic import ValidationError

from serinus.control.rollout_cluster import holds
from serinus.core.errors import NotFound, SerinusError
from serinus.core.spec import ContinuousTraining, ContinuousTrainingSpec
from serinus.core.status import ContinuousTrainingStatus, Run
from serinus.core.training_runs import Situation, Start, next_start, outdated, overdue, start
from serinus.core.version import ModelVersion
from serinus.engines import kubernetes_features as features
from serinus.engines.kfp_cluster import Asked, ClusterRun, Pipelines
from serinus.engines.kubernetes import CONTINUOUS_TRAINING, DEPLOYMENT, MODEL_DEPLOYMENT, Object, event
from serinus.engines.kubernetes_cache import CachedCluster
from serinus.engines.mlflow import Registry
from serinus.operator.conditions import ACCEPTED, PROGRESSING, Finding
from serinus.operator.report import report
from serinus.training.plan import resources

log = logging.getLogger(__name__)

RUN_ANNOTATION = "serinus.dev/run"
"""Asks for a run as of the time that is its value."""
PAUSE_ANNOTATION = "serinus.dev/paused"
FRESH = "FeaturesFresh"
"""Whether the pod that keeps features up to date runs."""
SUCCEEDED = "LastRunSucceeded"
"""Whether the newest run got to a verdict; a refused candidate is one."""

_RUNNING, _RETRY = 5.0, 15.0
_REASONS = {"registered": "Registered", "refused": "Refused", "failed": "RunFailed", "running": "RunStarted"}


class Events(Protocol):
    """Where events are written."""

    def create(self, wanted: Object) -> None: ...


class TrainingParts(NamedTuple):
    """What a look asks beside the API server.

    Attributes:
        pipelines: Kubeflow Pipelines, for the runs of a namespace; None where the operator was told of none.
        registry: where versions are registered.
        compiled: the pipeline whose steps run in an image, as a file.
        events: where events are written.
        secret: that says where the engines are, in the namespace of whatever reads it.
        account: service account of the runs' pods.
        resync: seconds between two looks while nothing happens.
    """

    pipelines: Callable[[str], Pipelines] | None
    registry: Registry
    compiled: Callable[[str], Path]
    events: Events
    secret: str
    account: str | None
    resync: float


class Look(NamedTuple):
    """What a look found, and in how many seconds the next one is due. `news` is a run that began or ended."""

    status: ContinuousTrainingStatus
    findings: list[Finding]
    again: float
    news: Run | None = None


class Subject(NamedTuple):
    """A ContinuousTraining that can be acted on, and the ModelDeployment that it feeds."""

    found: Object
    spec: ContinuousTrainingSpec
    model: str
    resources: str

    @property
    def namespace(self) -> str:
        return str(self.found["metadata"]["namespace"])

    @property
    def name(self) -> str:
        return str(self.found["metadata"]["name"])


@dataclass
class Trainings:
    """Looks after ContinuousTrainings. It remembers nothing: all it needs is in `status` and in the engines."""

    cluster: CachedCluster
    parts: TrainingParts
    counted: Callable[[Run], None]

    def look(self, namespace: str, name: str, now: datetime) -> float | None:
        """One look; in how many seconds the next one is due, or None where there is no such resource any more.

        Raises:
            SerinusError: the API server cannot be asked.
        """
        found = self.cluster.get(CONTINUOUS_TRAINING, namespace, name)
        if found is None or "deletionTimestamp" in found["metadata"]:
            return None
        look = self._look(found, _status(found), now)
        again = report(self.cluster, CONTINUOUS_TRAINING, found, look, now)
        if again is not None and look.news is not None:
            self._tell(found, look.news, now)
        return again

    def _look(self, found: Object, before: ContinuousTrainingStatus, now: datetime) -> Look:
        try:
            subject = self._subject(found)
        except (ValidationError, NotFound) as error:
            reason = "Invalid" if isinstance(error, ValidationError) else "NoDeployment"
            return Look(before, [Finding(ACCEPTED, "False", reason, _words(error))], self.parts.resync)
        accepted = Finding(ACCEPTED, "True", "Valid", f"versions of {subject.model} are trained by it")
        if found["metadata"].get("annotations", {}).get(PAUSE_ANNOTATION) == "true":
            words = f"nothing is done while the annotation {PAUSE_ANNOTATION} is true"
            return Look(before, [accepted, Finding(PROGRESSING, "False", "Paused", words)], self.parts.resync)
        fresh = self._features(subject)
        try:
            look = self._runs(subject, before, now)
        except SerinusError as error:
            log.warning("%s/%s: %s", subject.namespace, subject.name, error)
            look = Look(before, [Finding(PROGRESSING, "False", type(error).__name__, str(error))], _RETRY)
        return look._replace(findings=[accepted, *fresh, *look.findings])

    def _subject(self, found: Object) -> Subject:
        """Raises NotFound: there is no such ModelDeployment; ValidationError: the spec is of another version."""
        keep = ("apiVersion", "kind", "metadata", "spec")
        document = {name: value for name, value in found.items() if name in keep}
        spec = ContinuousTraining.model_validate(document, by_alias=True, by_name=False).spec
        deployment = self.cluster.get(MODEL_DEPLOYMENT, found["metadata"]["namespace"], spec.deployment)
        if deployment is None:
            raise NotFound(f"there is no ModelDeployment {spec.deployment} in this namespace")
        return Subject(found, spec, deployment["spec"]["model"]["name"], resources(found, deployment))

    def _features(self, subject: Subject) -> Iterator[Finding]:
        """Let the pod run that keeps features up to date."""
        namespace, name = subject.namespace, features.features_name(subject.name)
        if not subject.spec.freshness.enabled:
            for kind in features.KINDS:
                if self.cluster.get(kind, namespace, name) is not None:
                    self.cluster.delete(kind, namespace, name)
            yield Finding(FRESH, "Unknown", "Disabled", "something else keeps them up to date")
            return
        fed = features.Fed(subject.found, subject.spec.project.image, subject.resources, self.parts.secret)
        for kind, wanted in features.objects(fed):
            there = self.cluster.get(kind, namespace, wanted["metadata"]["name"])
            if there is None or not holds(wanted, there):
                self.cluster.apply(wanted, kind)
        why = features.available(self.cluster.get(DEPLOYMENT, namespace, name))
        if why is None:
            yield Finding(FRESH, "True", "Running", f"the pod of {name} brings them up to date")
        else:
            yield Finding(FRESH, "False", "NotRunning", why)

    def _runs(self, subject: Subject, before: ContinuousTrainingStatus, now: datetime) -> Look:
        if self.parts.pipelines is None:
            words = "the operator was not told where Kubeflow Pipelines is"
            return Look(before, [Finding(PROGRESSING, "False", "NoPipelines", words)], self.parts.resync)
        engine = self.parts.pipelines(subject.namespace)
        if before.last_run is not None and before.last_run.result == "running":
            return self._follow(engine, subject, before, before.last_run, now)
        situation = self._situation(subject, before)
        try:
            due = start(situation, now)
        except ValueError:
            words = (
                f"the annotation {RUN_ANNOTATION} is {situation.request!r}, which is no time like 2013-08-02T12:00:00Z"
            )
            return Look(before, [Finding(PROGRESSING, "False", "NoTime", words)], self.parts.resync)
        if due is not None:
            return self._start(engine, subject, before, due)
        upcoming = next_start(situation)
        status = before.model_copy(update={"next_run": upcoming})
        words = f"the next run is due at {upcoming:%Y-%m-%d %H:%M} UTC" if upcoming else "no run is scheduled"
        left = (upcoming - now).total_seconds() if upcoming else self.parts.resync
        again = min(max(1.0, left), self.parts.resync)
        return Look(status, [Finding(PROGRESSING, "False", "Waiting", words)], again)

    def _situation(self, subject: Subject, before: ContinuousTrainingStatus) -> Situation:
        metadata = subject.found["metadata"]
        return Situation(
            name=subject.name,
            spec=subject.spec,
            created=datetime.fromisoformat(metadata["creationTimestamp"]),
            status=before,
            request=metadata.get("annotations", {}).get(RUN_ANNOTATION),
            empty=before.last_run is None and not self.parts.registry.versions(subject.model),
        )

    def _start(self, engine: Pipelines, subject: Subject, before: ContinuousTrainingStatus, due: Start) -> Look:
        asked = Asked(
            experiment=f"{subject.namespace}.{subject.name}",
            name=due.name,
            pipeline=self.parts.compiled(subject.spec.project.image),
            parameters={"resources": subject.resources, "as_of": due.as_of.isoformat(), "run": due.name},
            account=self.parts.account,
        )
        begun = engine.start(asked)
        run = Run(id=begun.id, reason=due.reason, as_of=due.as_of, started=begun.created, result="running")
        requested = due.requested or before.requested
        status = before.model_copy(update={"last_run": run, "requested": requested, "next_run": None})
        return Look(status, [Finding(PROGRESSING, "True", "Running", f"{due.name}: {due.reason}")], _RUNNING, run)

    def _follow(
        self, engine: Pipelines, subject: Subject, before: ContinuousTrainingStatus, last: Run, now: datetime
    ) -> Look:
        try:
            found = engine.get(last.id)
        except NotFound:
            ended = last.model_copy(update={"ended": now, "result": "failed", "message": "Kubeflow lost the run"})
            return self._ended(before, ended)
        if not found.over:
            words = f"{found.name}: {last.reason}"
            if overdue(subject.spec, last.started, now):
                engine.terminate(last.id)
                words = f"{found.name} has taken longer than limits.maximumDuration, and is stopped"
            return Look(before, [Finding(PROGRESSING, "True", "Running", words)], _RUNNING)
        ended = self._result(subject, last, found, now)
        over = [each.id for each in engine.runs(f"{subject.namespace}.{subject.name}") if each.over]
        for old in outdated(subject.spec, over):
            engine.delete(old)
        return self._ended(before, ended)

    def _result(self, subject: Subject, last: Run, found: ClusterRun, now: datetime) -> Run:
        """What came of a run, which the registry knows: a refused candidate's run succeeds too."""
        ended = {"ended": found.finished or now}
        if found.state != "succeeded" and overdue(subject.spec, last.started, ended["ended"]):
            words = "it took longer than limits.maximumDuration, and was stopped"
            return last.model_copy(update={**ended, "result": "failed", "message": words})
        if found.state != "succeeded":
            failed = ", ".join(each.name for each in found.tasks if each.state == "failed")
            why = found.error or (f"failed: {failed}" if failed else f"the run ended as {found.state}")
            return last.model_copy(update={**ended, "result": "failed", "message": why})
        made = self.parts.registry.came_of(subject.model, found.name)
        if isinstance(made, ModelVersion):
            words = f"version {made.version} passed the gate"
            return last.model_copy(update={**ended, "result": "registered", "version": made.version, "message": words})
        if made == "refused":
            words = f"the gate refused the candidate; the registry's run {found.name} has the reasons"
            return last.model_copy(update={**ended, "result": "refused", "message": words})
        words = f"the run succeeded, but left nothing in the registry under {found.name}"
        return last.model_copy(update={**ended, "result": "failed", "message": words})

    @staticmethod
    def _ended(before: ContinuousTrainingStatus, run: Run) -> Look:
        status = before.model_copy(update={"last_run": run})
        reason = _REASONS[run.result]
        verdict = Finding(SUCCEEDED, "False" if run.result == "failed" else "True", reason, run.message)
        return Look(status, [verdict, Finding(PROGRESSING, "False", reason, run.message)], 1.0, run)

    def _tell(self, found: Object, run: Run, now: datetime) -> None:
        """An event for a run that began or ended; one that cannot be written is not tried again."""
        self.counted(run)
        words = run.message or run.reason
        try:
            wanted = event(found, _REASONS[run.result], words, now, warning=run.result == "failed")
            self.parts.events.create(wanted)
        except SerinusError as error:
            log.warning("%s: no event: %s", found["metadata"]["name"], error)


def _status(found: Object) -> ContinuousTrainingStatus:
    """What the last look left; nothing where it cannot be read, as after a change of the definition."""
    try:
        return ContinuousTrainingStatus.model_validate(found.get("status", {}), by_alias=True, by_name=False)
    except ValidationError:
        return ContinuousTrainingStatus()


def _words(error: ValidationError | NotFound) -> str:
    if isinstance(error, NotFound):
        return error.message
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
