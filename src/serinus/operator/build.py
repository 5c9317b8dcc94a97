"""Puts an operator together."""

from __future__ import annotations

import hashlib
from functools import cache, partial
from pathlib import Path

from serinus.control.rollout_cluster import CHILDREN
from serinus.core.platform import Platform
from serinus.engines.kfp_cluster import Pipelines, PipelineServer
from serinus.engines.kubernetes import (
    CONTINUOUS_TRAINING,
    DEPLOYMENT,
    EVENT,
    MODEL_DEPLOYMENT,
    POD,
    Cluster,
    Object,
    Selection,
)
from serinus.engines.kubernetes_cache import CachedCluster
from serinus.engines.kubernetes_features import COMPONENT, PLATFORM_FILE, SPEC_IN_IMAGE
from serinus.engines.kubernetes_kserve import MANAGED
from serinus.engines.kubernetes_watch import Watching
from serinus.operator.deployments import Deployments
from serinus.operator.lease import Election
from serinus.operator.main import LEASE_NAME, Operator
from serinus.operator.metrics import Metrics
from serinus.operator.parts import Parts
from serinus.operator.settings import Settings
from serinus.operator.trainings import TrainingParts, Trainings

WATCHED = (
    Selection(MODEL_DEPLOYMENT),
    Selection(CONTINUOUS_TRAINING),
    *(Selection(kind, labels=MANAGED) for kind in (*CHILDREN, POD)),
    Selection(DEPLOYMENT, labels={**MANAGED, **COMPONENT}),
)
"""What an operator has a copy of: our resources, what was made for them, and their pods."""


class ClusterEvents:
    """Events, written to the API server."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def create(self, wanted: Object) -> None:
        """Raises EngineError: it could not be written."""
        self._cluster.create(wanted, EVENT)


def operator_of(settings: Settings, cluster: Cluster, platform: Platform) -> tuple[Operator, Metrics]:
    """The operator of a cluster, and where it counts.

    Raises:
        InvalidInput: the platform lacks something that it needs.
    """
    metrics = Metrics()
    cached = CachedCluster(cluster, WATCHED, settings.watched)
    parts = Parts.of(settings, cached, platform, ClusterEvents(cluster))
    deployments = Deployments(parts, metrics.decided)
    election = Election(cluster, settings.own_namespace, LEASE_NAME, settings.identity)
    trainings = Trainings(cached, _training_parts(settings, platform, parts), metrics.ran)
    looks = {MODEL_DEPLOYMENT.name: deployments.look, CONTINUOUS_TRAINING.name: trainings.look}
    watch = partial(Watching, cluster, cached.stores)
    return Operator(looks, election, metrics, watch, settings.workers), metrics


def _training_parts(settings: Settings, platform: Platform, parts: Parts) -> TrainingParts:
    url = settings.pipelines_url

    @cache
    def pipelines(namespace: str) -> Pipelines:
        assert url is not None
        own = namespace if settings.pipelines_multi_user else None
        token, authority = settings.pipelines_token_file, settings.pipelines_ca_file
        return Pipelines(PipelineServer(url, own, token_file=token, ca_file=authority))

    return TrainingParts(
        pipelines=pipelines if url is not None else None,
        registry=parts.registry,
        compiled=lambda image: _compiled(image, settings.platform_secret, platform.state),
        events=parts.events,
        secret=settings.platform_secret,
        account=settings.pipelines_account,
        resync=parts.resync,
    )


def _compiled(image: str, secret: str, state: Path) -> Path:
    """The training pipeline for an image, compiled once by a process."""
    path = state / "pipelines" / f"{hashlib.sha256(f'{image} {secret}'.encode()).hexdigest()[:16]}.yaml"
    if not path.exists():
        from pipelines.training import training_pipeline
        from serinus.engines.kfp_compile import compile_pipeline

        arguments = {"spec": SPEC_IN_IMAGE, "platform": PLATFORM_FILE}
        compile_pipeline(training_pipeline(image, secret), path, arguments)
    return path
