"""Puts the laptop's parts of a rollout together. The spec and where the stack answers are read anew at each look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from serinus.control.deploy import running
from serinus.control.evidence import ScrapeSource
from serinus.control.instance import Serving
from serinus.control.log_balance import read_counts
from serinus.control.quality import QualitySettings, QualitySource
from serinus.control.rollout import Controller
from serinus.control.rollout_laptop import EnvoyTraffic, RolloutFolder
from serinus.control.rollout_versions import RegistryVersions
from serinus.control.stack import Options
from serinus.control.state import RunFolder
from serinus.core.errors import NotFound
from serinus.core.evidence import QualityEvidence, Snapshot
from serinus.core.rollout import RolloutState
from serinus.core.spec import ModelService
from serinus.core.spec.rollout import Rollout
from serinus.engines.mlflow import Registry
from serinus.engines.prediction_store import PredictionStore
from serinus.engines.specfile import read_service

# A replay goes through a day within seconds, which is how long a row is on its way to the log.
_REPLAY_GRACE = timedelta(days=1)


@dataclass
class Parts:
    """What a controller asks, for the spec file `path`; `replaying` if it looks by the data's clock."""

    serving: Serving
    registry: Registry
    path: Path
    replaying: bool = False
    _source: QualitySource | None = field(default=None, init=False)

    @property
    def service(self) -> ModelService:
        """The spec as it is now."""
        return read_service(self.path)

    @property
    def address(self) -> str:
        """Where the stack answers now."""
        return running(RunFolder(self.serving.platform)).address

    def policy(self) -> Rollout:
        """The spec's rollout.

        Raises:
            NotFound: it has none.
            InvalidSpec: it is wrong.
        """
        rollout = self.service.deployment.spec.rollout
        if rollout is None:
            raise NotFound("the spec has no rollout", hint="add `rollout: {}` to the spec of the ModelDeployment")
        return rollout

    def snapshot(self, versions: Sequence[int], previous: Snapshot | None, now: datetime) -> Snapshot:
        """See `EvidenceSource`."""
        source = ScrapeSource(self.address, self.serving.deployment.model.name, self.policy().guards.queries)
        return source.snapshot(versions, previous, now)

    def quality(self, state: RolloutState, now: datetime) -> QualityEvidence | None:
        """How well canary and stable version predict; None where nobody wants to know, or there is no log."""
        service, rollout = self.service, self.policy()
        log = service.deployment.spec.log
        if not rollout.guards.quality.enabled or not log.enabled or state.canary is None or state.started is None:
            return None
        windows = service.training.spec.windows
        settings = QualitySettings(
            quality=rollout.guards.quality,
            log=log,
            label_delay=windows.label_delay,
            holdout=windows.holdout,
            whole_cohorts=not rollout.guards.quality.early_outcomes,
            grace=_REPLAY_GRACE if self.replaying else QualitySettings.grace,
        )
        name = service.deployment.spec.model.name
        canary, stable = (self.registry.get(name, number) for number in (state.canary.version, state.stable))
        return self._quality(settings).evidence(canary, stable, state.started, now)

    def _quality(self, settings: QualitySettings) -> QualitySource:
        if self._source is None or self._source.settings != settings:
            platform = self.serving.platform
            place = settings.log.place(platform.state)
            store = PredictionStore(place, platform.options_for(place), replayed=self.replaying)
            folder = platform.state / "rollout" / "quality"
            self._source = QualitySource(
                store, folder, self.registry.fetch, lambda: read_counts(self.address), settings
            )
        return self._source


def controller(
    serving: Serving, registry: Registry, options: Options | None = None, *, replaying: bool = False
) -> Controller:
    """What looks after the rollouts of a stack on this machine; with `replaying`, by the clock of the data.

    Raises:
        NotFound: there is no spec file to read the policy from.
    """
    if serving.spec is None:
        raise NotFound("there is no spec to read the rollout's policy from")
    folder = RolloutFolder(serving.platform)
    parts = Parts(serving, registry, serving.spec, replaying)
    return Controller(
        model=serving.deployment.model.name,
        policy=parts.policy,
        versions=RegistryVersions(registry, serving.deployment.model),
        traffic=EnvoyTraffic(serving, registry, options or Options()),
        evidence=parts,
        quality=parts.quality,
        commands=folder.commands,
        ledger=folder.ledger,
    )
