"""Puts an operator together."""

from __future__ import annotations

from serinus.core.platform import Platform
from serinus.engines.kubernetes import EVENT, MODEL_DEPLOYMENT, Cluster, Object
from serinus.operator.deployments import Deployments
from serinus.operator.lease import Election
from serinus.operator.main import LEASE_NAME, Operator
from serinus.operator.metrics import Metrics
from serinus.operator.parts import Parts
from serinus.operator.settings import Settings


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
    parts = Parts.of(settings, cluster, platform, ClusterEvents(cluster))
    deployments = Deployments(cluster, parts, metrics.decided)
    election = Election(cluster, settings.own_namespace, LEASE_NAME, settings.identity)
    looks = {MODEL_DEPLOYMENT.name: deployments.look}
    return Operator(looks, election, metrics, settings.workers, settings.watched), metrics
