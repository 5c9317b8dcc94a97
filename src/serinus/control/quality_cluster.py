"""A cluster's part of the evidence on quality: the log's counters from Prometheus, label delays from the training."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import ValidationError

from serinus.control.log_balance import counts_of
from serinus.core.errors import EngineError
from serinus.core.evidence import QualityEvidence
from serinus.core.platform import Platform
from serinus.core.prediction_log import LogCounts
from serinus.core.rollout import RolloutState
from serinus.core.spec.deployment import ModelDeploymentSpec
from serinus.core.spec.training import ContinuousTraining, Windows
from serinus.engines.kubernetes import CONTINUOUS_TRAINING, Cluster
from serinus.engines.mlflow import Registry
from serinus.engines.prediction_store import PredictionStore
from serinus.engines.prometheus import Prometheus, quoted

if TYPE_CHECKING:
    from serinus.control.quality import QualitySettings, QualitySource

_COUNTERS = (
    "serinus_rows_total",
    "serinus_log_rows_total",
    "serinus_log_dropped_rows_total",
    "serinus_log_discarded_rows_total",
    "serinus_log_shipped_rows_total",
    "serinus_log_spool_rows",
)
# Pods that have ended meanwhile have logged rows too.
_MEMORY = "1d"


@dataclass
class ClusterQuality:
    """How well the versions of one ModelDeployment predict.

    Attributes:
        cluster: where its training's windows are.
        place: namespace and name of the ModelDeployment.
        registry: where its versions are.
        server: Prometheus.
        platform: where there is room for what may be made again, and who asks for what is in a bucket.
    """

    cluster: Cluster
    place: tuple[str, str]
    registry: Registry
    server: Prometheus
    platform: Platform
    _source: QualitySource | None = field(default=None, init=False)

    def evidence(self, spec: ModelDeploymentSpec, state: RolloutState, now: datetime) -> QualityEvidence | None:
        """How canary and stable version predict; None where nobody wants to know, or there is no log."""
        rollout = spec.rollout
        if rollout is None or not rollout.guards.quality.enabled or not spec.log.enabled:
            return None
        if state.canary is None or state.started is None:
            return None
        missing = self._unable(spec)
        if missing is not None:
            return QualityEvidence(at=now, metric=rollout.guards.quality.metric, missing=(missing,))
        # It needs torch and pyarrow, which the operator's image lacks.
        from serinus.control.quality import QualitySettings

        windows = self._windows()
        settings = QualitySettings(
            quality=rollout.guards.quality,
            log=spec.log,
            label_delay=windows.label_delay if windows is not None else QualitySettings.label_delay,
            holdout=windows.holdout if windows is not None else None,
            whole_cohorts=not rollout.guards.quality.early_outcomes,
        )
        name = spec.model.name
        canary, stable = (self.registry.get(name, number) for number in (state.canary.version, state.stable))
        return self._by(settings, name).evidence(canary, stable, state.started, now)

    @staticmethod
    def _unable(spec: ModelDeploymentSpec) -> str | None:
        if spec.log.destination is None:
            return "spec.log.destination names no object store, and a pod's own folder is seen by nobody else"
        if importlib.util.find_spec("torch") is None:
            return "this operator cannot score rows: its image has no torch"
        return None

    def _by(self, settings: QualitySettings, model: str) -> QualitySource:
        if self._source is None or self._source.settings != settings:
            from serinus.control.quality import QualitySource

            url = settings.log.destination
            assert url is not None
            store = PredictionStore(url, self.platform.options_for(url))
            folder = self.platform.state.joinpath("quality", *self.place)
            self._source = QualitySource(store, folder, self.registry.fetch, lambda: self._counts(model), settings)
        return self._source

    def _counts(self, model: str) -> LogCounts:
        """
        Raises:
            EngineError: Prometheus does not answer, or knows nothing of the log.
        """
        matchers = f"model={quoted(model)},namespace={quoted(self.place[0])}"
        query = f'last_over_time({{__name__=~"{"|".join(_COUNTERS)}",{matchers}}}[{_MEMORY}])'
        found = self.server.instant(query, datetime.now().astimezone())
        if not found:
            raise EngineError(f"Prometheus knows nothing of the prediction log of {model}")
        samples = [(each.labels["__name__"], frozenset(each.labels.items()), each.value) for each in found]
        return counts_of(samples)

    def _windows(self) -> Windows | None:
        """The windows of the training that feeds the deployment; None where there is none."""
        namespace, name = self.place
        for each in self.cluster.all(CONTINUOUS_TRAINING, namespace):
            if each["spec"].get("deployment") == name:
                document = {key: each[key] for key in ("apiVersion", "kind", "metadata", "spec")}
                try:
                    return ContinuousTraining.model_validate(document, by_alias=True, by_name=False).spec.windows
                except ValidationError:
                    return None
        return None
