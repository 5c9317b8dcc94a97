"""One look at a ModelDeployment: its versions as the spec wants them, its rollout one decision further, its status."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from pydantic import ValidationError

from serinus.control.commands_cluster import AnnotationCommands, commands_of
from serinus.control.rollout import Controller, Observed
from serinus.control.rollout_cluster import GatewayTraffic
from serinus.control.rollout_versions import RegistryVersions
from serinus.core.errors import EngineError, IntegrityError, NotFound, SerinusError
from serinus.core.rollout import Candidate, Decision, Shares, shares
from serinus.core.spec.deployment import ModelDeployment, ModelDeploymentSpec
from serinus.core.status import ModelDeploymentStatus
from serinus.engines.kubernetes import MODEL_DEPLOYMENT, Object, event
from serinus.operator.conditions import ACCEPTED, PROGRESSING, READY, Finding
from serinus.operator.parts import Parts
from serinus.operator.report import report

log = logging.getLogger(__name__)

PAUSE_ANNOTATION = "serinus.dev/paused"
# After a change that was decided, and after an error. What is waited for else, a version that gets ready or a route
# that is taken over, brings the next look itself.
_SOON, _RETRY = 2.0, 10.0


class Look(NamedTuple):
    """What a look found: how the resource stands, and in how many seconds the next look is due."""

    status: ModelDeploymentStatus
    findings: list[Finding]
    again: float
    decision: Decision | None = None


@dataclass
class Deployments:
    """Looks after ModelDeployments. What it remembers is only to save work: another one can go on at any time."""

    parts: Parts
    decided: Callable[[Decision], None]
    _versions: dict[tuple[str, str], RegistryVersions] = field(default_factory=dict, init=False)
    # When it was decided last, where that is not worth a status of its own.
    _decided: dict[tuple[str, str], datetime] = field(default_factory=dict, init=False)

    def look(self, namespace: str, name: str, now: datetime) -> float | None:
        """One look; in how many seconds the next one is due, or None where there is no such resource any more.

        Raises:
            SerinusError: the API server cannot be asked.
        """
        found = self.parts.cluster.get(MODEL_DEPLOYMENT, namespace, name)
        if found is None or "deletionTimestamp" in found["metadata"]:
            self._versions.pop((namespace, name), None)
            self._decided.pop((namespace, name), None)
            return None
        before = _status(found)
        look = self._look(found, before, now)
        again = report(self.parts.cluster, MODEL_DEPLOYMENT, found, look, now)
        if again is not None:
            self._tell(found, look, now)
        return again

    def _look(self, found: Object, before: ModelDeploymentStatus, now: datetime) -> Look:
        try:
            spec = _spec(found)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            return Look(before, [Finding(ACCEPTED, "False", "Invalid", wrong)], self.parts.resync)
        if refused := self.parts.front.refused(spec):
            return Look(before, [Finding(ACCEPTED, "False", "Unsupported", "; ".join(refused))], self.parts.resync)
        accepted = Finding(ACCEPTED, "True", "Valid", "the spec can be acted on")
        if found["metadata"].get("annotations", {}).get(PAUSE_ANNOTATION) == "true":
            words = f"nothing is done while the annotation {PAUSE_ANNOTATION} is true"
            return Look(before, [accepted, Finding(PROGRESSING, "False", "Paused", words)], self.parts.resync)
        try:
            look = self._act(found, spec, before, now)
        except SerinusError as error:
            log.warning("%s: %s", _where(found), error)
            reason = type(error).__name__
            look = Look(before, [Finding(PROGRESSING, "False", reason, str(error))], _RETRY)
        return look._replace(findings=[accepted, *look.findings])

    def _act(self, found: Object, spec: ModelDeploymentSpec, before: ModelDeploymentStatus, now: datetime) -> Look:
        traffic = self.parts.traffic(found, spec)
        try:
            observed = traffic.observe()
        except NotFound:
            return self._first(found, spec, traffic, before)
        traffic.repair(observed.shares)
        traffic.tidy(observed.shares, now)
        if spec.rollout is None:
            return self._direct(found, spec, traffic, observed, before)
        ready = _readiness(observed, traffic)
        if not self._due(found, spec, observed, before, now):
            return Look(before, [ready, *_kept(before)], self._next(found, spec, before, now))
        alone = observed.shares.stable if observed.shares.canary is None else None
        decision = self._controller(found, spec, traffic, alone).look(now)
        self._decided[_key(found)] = now
        generation = found["metadata"]["generation"]
        again = _SOON if decision.action != "hold" else self._interval(spec)
        return Look(before.after(decision, generation), [ready, _progress(decision)], again, decision)

    def _first(
        self, found: Object, spec: ModelDeploymentSpec, traffic: GatewayTraffic, before: ModelDeploymentStatus
    ) -> Look:
        """Nothing is in front: what the ledger says is put there again, or the first version as soon as it answers."""
        head = self.parts.database.ledger(_where(found)).head()
        if head.state is not None and spec.rollout is not None:
            wanted = shares(spec.rollout, head.state)
        else:
            wanted = Shares(stable=self._number(found, spec))
        number = wanted.stable
        try:
            _begin(traffic, wanted)
        except IntegrityError:
            raise
        except EngineError as error:
            known = traffic.trouble(number)
            words = f"version {number} is being started" + (f": {known.words}" if known else "")
            log.debug("%s: %s", _where(found), error)
            return Look(
                before,
                [Finding(READY, "False", "Starting", words), Finding(PROGRESSING, "True", "Starting", words)],
                self.parts.resync,
            )
        words = f"version {number} is put in front"
        status = before.model_copy(update={"stable": number, "phase": "stable"})
        found_ready = [Finding(READY, "False", "Routing", words), Finding(PROGRESSING, "True", "Routing", words)]
        return Look(status, found_ready, _SOON)

    def _direct(
        self,
        found: Object,
        spec: ModelDeploymentSpec,
        traffic: GatewayTraffic,
        observed: Observed,
        before: ModelDeploymentStatus,
    ) -> Look:
        """Without a rollout the spec's versions are put in front as soon as they answer."""
        stable, canary = self._number(found, spec), spec.traffic.canary
        wanted = Shares(stable=stable)
        if canary is not None:
            other = self.parts.registry.get(spec.model.name, canary.version).version
            if other != stable:
                wanted = Shares(stable=stable, canary=other, weight=canary.weight, shadow=canary.shadow)
        if observed.shares == wanted:
            progress = Finding(PROGRESSING, "False", "Stable", f"version {stable} is in front")
        else:
            try:
                traffic.apply(wanted)
                progress = Finding(PROGRESSING, "False", "Stable", f"version {stable} is in front")
            except EngineError as error:
                progress = Finding(PROGRESSING, "True", "Starting", str(error))
        shown = observed.shares if progress.status == "True" else wanted
        status = before.model_copy(
            update={"phase": "stable", "stable": shown.stable, "canary": shown.canary, "weight": shown.weight or None}
        )
        return Look(status, [_readiness(observed, traffic), progress], self.parts.resync)

    def _due(
        self,
        found: Object,
        spec: ModelDeploymentSpec,
        observed: Observed,
        before: ModelDeploymentStatus,
        now: datetime,
    ) -> bool:
        """Whether it is time to decide: an interval has passed, or something happened that waits for a decision."""
        if before.observed_generation != found["metadata"]["generation"] or commands_of(found):
            return True
        answers = before.canary is not None and observed.ready.get(before.canary, False)
        if before.phase == "starting" and (answers or observed.broken is not None):
            return True
        if before.decisions and before.decisions[0].action != "hold":
            return True
        return self._next(found, spec, before, now) <= 0

    def _next(self, found: Object, spec: ModelDeploymentSpec, before: ModelDeploymentStatus, now: datetime) -> float:
        """Seconds until the next decision is due."""
        if not before.decisions:
            return 0.0
        passed = now - max(before.decisions[0].at, self._decided.get(_key(found), before.decisions[0].at))
        if passed < timedelta(0):
            return 0.0  # the clock was set back
        left = self._interval(spec) - passed.total_seconds()
        return min(max(0.0, left), self.parts.resync)

    @staticmethod
    def _interval(spec: ModelDeploymentSpec) -> float:
        assert spec.rollout is not None
        return spec.rollout.interval.total_seconds()

    def _controller(
        self, found: Object, spec: ModelDeploymentSpec, traffic: GatewayTraffic, alone: int | None
    ) -> Controller:
        rollout = spec.rollout
        assert rollout is not None
        namespace, name = _key(found)
        versions = self._known(found, spec)
        versions.serving = alone

        def resolve(number: int) -> Candidate:
            return versions.candidate(self.parts.registry.get(spec.model.name, number))

        return Controller(
            model=spec.model.name,
            policy=lambda: rollout,
            versions=versions,
            traffic=traffic,
            evidence=self.parts.evidence(namespace, spec),
            quality=self.parts.quality(namespace, name, spec),
            commands=AnnotationCommands(self.parts.cluster.cluster, namespace, name, resolve, found),
            ledger=self.parts.database.ledger(_where(found)),
        )

    def _known(self, found: Object, spec: ModelDeploymentSpec) -> RegistryVersions:
        key = _key(found)
        known = self._versions.get(key)
        if known is None or known.model != spec.model:
            known = self._versions[key] = self.parts.versions(spec)
        return known

    def _number(self, found: Object, spec: ModelDeploymentSpec) -> int:
        return self.parts.registry.get(spec.model.name, spec.model.version).version

    def _tell(self, found: Object, look: Look, now: datetime) -> None:
        """Events for what was decided; one that cannot be written is not tried again."""
        decision = look.decision
        if decision is None:
            return
        self.decided(decision)
        if decision.action == "hold":
            return
        bad = decision.action in ("rollback", "undo", "pause")
        words = "; ".join(decision.reasons)
        try:
            self.parts.events.create(event(found, _reason(decision), words, now, warning=bad))
        except SerinusError as error:
            log.warning("%s: the event could not be written: %s", _where(found), error)


def _status(found: Object) -> ModelDeploymentStatus:
    """The status that is stored; one that cannot be read is begun anew, for all of it is in the ledger."""
    try:
        return ModelDeploymentStatus.model_validate(found.get("status", {}), by_alias=True, by_name=False)
    except ValidationError:
        return ModelDeploymentStatus()


def _spec(found: Object) -> ModelDeploymentSpec:
    """Raises ValidationError: it was stored by another version of the definition."""
    keep = ("apiVersion", "kind", "metadata", "spec")
    document = {name: value for name, value in found.items() if name in keep}
    return ModelDeployment.model_validate(document, by_alias=True, by_name=False).spec


def _key(found: Object) -> tuple[str, str]:
    return found["metadata"]["namespace"], found["metadata"]["name"]


def _where(found: Object) -> str:
    return f"{found['metadata']['namespace']}/{found['metadata']['name']}"


def _begin(traffic: GatewayTraffic, wanted: Shares) -> None:
    """Put versions in front where none is. The stable one does not wait for a canary, which gets its share later."""
    try:
        traffic.apply(wanted)
    except EngineError:
        if wanted.canary is None:
            raise
        traffic.apply(wanted.model_copy(update={"weight": 0.0, "shadow": 0.0}))


def _readiness(observed: Observed, traffic: GatewayTraffic) -> Finding:
    front = observed.shares.canary if observed.shares.weight >= 100 else observed.shares.stable
    assert front is not None
    if not traffic.in_force():
        return Finding(READY, "False", "Routing", "the Gateway has not taken over the route")
    if observed.ready.get(front, False):
        return Finding(READY, "True", "Answers", f"version {front} answers")
    why = observed.why.get(front)
    return Finding(READY, "False", "NotReady", f"version {front} does not answer" + (f": {why}" if why else ""))


def _progress(decision: Decision) -> Finding:
    state, words = decision.state, "; ".join(decision.reasons)
    if state.paused is not None:
        return Finding(PROGRESSING, "False", "RolloutPaused", words)
    if state.canary is None:
        return Finding(PROGRESSING, "False", "Stable", words)
    return Finding(PROGRESSING, "True", "Rollout", words)


def _kept(before: ModelDeploymentStatus) -> list[Finding]:
    """A finding that still holds, for no decision was due. An error of the last look is over."""
    known = next((each for each in before.conditions if each.type == PROGRESSING), None)
    if known is None or known.reason in ("RolloutPaused", "Stable", "Rollout"):
        return [] if known is None else [Finding(PROGRESSING, known.status, known.reason, known.message)]
    return [Finding(PROGRESSING, "True" if before.canary else "False", "Rollout" if before.canary else "Stable", "")]


def _reason(decision: Decision) -> str:
    words = {
        "adopt": "Adopted", "start": "RolloutStarted", "advance": "RolloutAdvanced", "promote": "Promoted",
        "confirm": "Confirmed", "undo": "Undone", "rollback": "RolledBack", "supersede": "Superseded",
        "pause": "RolloutPaused", "resume": "RolloutResumed", "approve": "StepApproved",
    }  # fmt: skip
    return words[decision.action]
