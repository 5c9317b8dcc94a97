"""How a model service does on a cluster, as the operator wrote it into `status` of the two resources."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from serinus.core.errors import NotFound
from serinus.core.spec import ModelService
from serinus.core.status import ContinuousTrainingStatus, ModelDeploymentStatus, Status
from serinus.engines.kubernetes import CONTINUOUS_TRAINING, MODEL_DEPLOYMENT, Cluster, Kind, Object

S = TypeVar("S", bound=Status)


class ClusterStatus(BaseModel):
    """Both resources' status; one whose generation is older than the resource's is out of date."""

    model_config = ConfigDict(frozen=True)

    namespace: str
    deployment_name: str
    deployment: ModelDeploymentStatus
    training: ContinuousTrainingStatus | None
    current: bool

    @property
    def ready(self) -> bool:
        """Whether the model answers."""
        return any(each.type == "Ready" and each.status == "True" for each in self.deployment.conditions)


def cluster_status(cluster: Cluster, service: ModelService) -> ClusterStatus:
    """
    Raises:
        NotFound: the ModelDeployment is not on the cluster.
        EngineError: the API server cannot be asked.
    """
    metadata = service.deployment.metadata
    found = cluster.get(MODEL_DEPLOYMENT, metadata.namespace, metadata.name)
    if found is None:
        raise NotFound(
            f"there is no ModelDeployment {metadata.namespace}/{metadata.name}",
            hint="kubectl apply --server-side -f serinus.yaml",
        )
    deployment = _read(found, ModelDeploymentStatus)
    training = _training(cluster, CONTINUOUS_TRAINING, service)
    current = (deployment.observed_generation or 0) >= found["metadata"]["generation"]
    return ClusterStatus(
        namespace=metadata.namespace,
        deployment_name=metadata.name,
        deployment=deployment,
        training=training,
        current=current,
    )


def _training(cluster: Cluster, kind: Kind, service: ModelService) -> ContinuousTrainingStatus | None:
    metadata = service.training.metadata
    found = cluster.get(kind, metadata.namespace, metadata.name)
    return None if found is None else _read(found, ContinuousTrainingStatus)


def _read(found: Object, kind: type[S]) -> S:
    return kind.model_validate(found.get("status", {}), by_alias=True, by_name=False)
