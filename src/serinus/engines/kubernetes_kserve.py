"""KServe: one immutable InferenceService a model version, and what it says of itself. All of it is pure.

Nothing of KServe's own traffic splitting is used: it deletes the old version at the moment of promotion, and requests
with it. The weighted route above the versions is `gateway`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import ceil
from typing import Any, NamedTuple

from serinus.core.serving import PodConfig
from serinus.core.spec.deployment import Predictor
from serinus.core.version import ModelVersion
from serinus.engines.kubernetes import CONFIG_MAP, DISRUPTION_BUDGET, INFERENCE_SERVICE, SERVICE, Object, owner

VERSION_LABEL = "serinus.dev/version"
NAME_LABEL = "app.kubernetes.io/name"
MANAGED = {"app.kubernetes.io/managed-by": "serinus", "app.kubernetes.io/part-of": "serinus"}
DIGEST_ANNOTATION = "serinus.dev/digest"

RUNTIME = "serinus"
"""Our ClusterServingRuntime, and the model format that it serves."""
PORT = 80
FETCHING = "storage-initializer"
"""The init container that KServe makes for our scheme, by our ClusterStorageContainer."""
CONFIG_FOLDER = "/etc/serinus"
"""Where a pod finds what it is told."""
WRONG_DIGEST = 5
"""Exit code of an init container that found another archive than was registered."""

_COPIES_PORT = 8081
_POD_LABEL = "serving.kserve.io/inferenceservice"
_STUCK = {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CrashLoopBackOff", "CreateContainerConfigError"}
_WORDS = 300
# A pod's least notice (see `control.pod`), and what its programs take to end after the front door, in seconds.
_NOTICE, _STOP = 5.0, 60


class Served(NamedTuple):
    """A version of a ModelDeployment as it is to be on a cluster.

    Attributes:
        deployment: the ModelDeployment.
        version: the model version.
        config: what its pods are told.
        copied: whether it gets copies of requests.
    """

    deployment: Object
    version: ModelVersion
    config: PodConfig
    copied: bool = False

    @property
    def name(self) -> str:
        """What all objects of the version are called."""
        return version_name(self.deployment["metadata"]["name"], self.version.version)


def version_name(deployment: str, version: int) -> str:
    """The name of a version's objects."""
    return f"{deployment}-v{version}"


def backend(deployment: str, version: int) -> str:
    """The Service that KServe makes for a version's pods."""
    return f"{version_name(deployment, version)}-predictor"


def copies(deployment: str, version: int) -> str:
    """The Service that takes copies of requests for a version."""
    return f"{version_name(deployment, version)}-copies"


def objects(served: Served) -> list[tuple[Any, Object]]:
    """Everything that a version needs, each with its kind, in the order of making."""
    predictor = served.config.deployment.predictor
    found = [(CONFIG_MAP, _config_map(served)), (INFERENCE_SERVICE, _inference_service(served))]
    if served.copied:
        found.append((SERVICE, _copies(served)))
    if predictor.replicas.minimum > 1:
        found.append((DISRUPTION_BUDGET, _disruption_budget(served)))
    return found


def labels(deployment: str, version: int | None = None) -> dict[str, str]:
    """Of an object that belongs to a ModelDeployment, or to one version of it."""
    own = {NAME_LABEL: deployment, **MANAGED}
    return own if version is None else {**own, VERSION_LABEL: str(version)}


def version_of(found: Object) -> int | None:
    """The version that an object belongs to, by its label."""
    label = found["metadata"].get("labels", {}).get(VERSION_LABEL, "")
    return int(label) if label.isdigit() else None


def is_ready(service: Object) -> bool:
    """Whether an InferenceService answers, in the form that was asked for last."""
    status = service.get("status", {})
    if status.get("observedGeneration", 0) < service["metadata"].get("generation", 0):
        return False
    return any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", ()))


def refusal(service: Object) -> str | None:
    """What KServe itself says of an InferenceService that is not ready, where no pod could even be made."""
    found = [each for each in service.get("status", {}).get("conditions", ()) if each["status"] == "False"]
    words = [f"{each.get('reason', each['type'])}: {each['message']}" for each in found if each.get("message")]
    return words[0][:_WORDS] if words else None


class Trouble(NamedTuple):
    """Why a version's pods do not answer; `broken` if they never will, as the archive is not the registered one."""

    words: str
    broken: bool = False


def trouble(pods: Sequence[Object]) -> Trouble | None:
    """What keeps a version's pods from being ready, as they say themselves; None where nothing does."""
    for pod in pods:
        status = pod.get("status", {})
        for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
            if found := _container_trouble(pod["metadata"]["name"], container):
                return found
        for condition in status.get("conditions", ()):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return Trouble(
                    f"pod {pod['metadata']['name']} is not scheduled: {condition.get('message', '')}"[:_WORDS]
                )
    return None


def _container_trouble(pod: str, container: Object) -> Trouble | None:
    ended = [
        state["terminated"]
        for state in (container.get("state", {}), container.get("lastState", {}))
        if "terminated" in state and state["terminated"].get("exitCode", 0) != 0
    ]
    where = f"{container['name']} of pod {pod}"
    if ended and ended[0]["exitCode"] == WRONG_DIGEST and container["name"] == FETCHING:
        return Trouble(_said(where, ended[0]), broken=True)
    waiting = container.get("state", {}).get("waiting", {})
    if waiting.get("reason") in _STUCK:
        where = f"{where}: {waiting['reason']}"
        return Trouble(_said(where, ended[0]) if ended else f"{where}: {waiting.get('message', '')}"[:_WORDS])
    if ended and not container.get("ready", False):
        # Between two crashes it is up for a while, which tells nothing better than how the last one ended.
        return Trouble(_said(where, ended[0]))
    return None


def _said(where: str, ended: Object) -> str:
    """Which container it was, and the end of what it wrote before it ended."""
    message = ended.get("message", "").strip() or f"ended with exit code {ended['exitCode']}"
    return f"{where}: {message[-(_WORDS - len(where)) :]}"


def _metadata(served: Served, name: str) -> Object:
    of = served.deployment
    return {
        "name": name,
        "namespace": of["metadata"]["namespace"],
        "labels": labels(of["metadata"]["name"], served.version.version),
        "ownerReferences": [owner(of)],
    }


def _config_name(served: Served) -> str:
    """A name that changes with the content: pods that are told something else are other pods."""
    return f"{served.name}-{hashlib.sha256(_config(served).encode()).hexdigest()[:10]}"


def _config(served: Served) -> str:
    return served.config.model_dump_json(by_alias=True, indent=2)


def _config_map(served: Served) -> Object:
    return {
        "apiVersion": CONFIG_MAP.api_version,
        "kind": CONFIG_MAP.name,
        "metadata": _metadata(served, _config_name(served)),
        "immutable": True,
        "data": {"serving.json": _config(served)},
    }


def _inference_service(served: Served) -> Object:
    version, predictor = served.version, served.config.deployment.predictor
    metadata = _metadata(served, served.name)
    metadata["annotations"] = {
        "serving.kserve.io/deploymentMode": "Standard",
        DIGEST_ANNOTATION: version.digest,
        **_scaling(predictor),
    }
    # KServe's own labels go to the pods; ours must come along, for Prometheus and for `kubectl get pods -l`.
    return {
        "apiVersion": INFERENCE_SERVICE.api_version,
        "kind": INFERENCE_SERVICE.name,
        "metadata": metadata,
        "spec": {
            "predictor": {
                "minReplicas": predictor.replicas.minimum,
                "maxReplicas": predictor.replicas.maximum,
                "terminationGracePeriodSeconds": _grace(served),
                "labels": metadata["labels"],
                "model": {
                    "modelFormat": {"name": RUNTIME},
                    "runtime": RUNTIME,
                    "protocolVersion": "v2",
                    "name": "",
                    "resources": _resources(predictor),
                    "storageUri": storage_uri(version),
                    "volumeMounts": [{"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True}],
                },
                "volumes": [{"name": "config", "configMap": {"name": _config_name(served)}}],
            }
        },
    }


def _grace(served: Served) -> int:
    """Seconds that a pod has to end in: the front door drains, then everything else ends one after another."""
    drain = served.config.deployment.traffic.drain
    return ceil(max(drain.notice.total_seconds(), _NOTICE) + drain.limit.total_seconds()) + _STOP


def _scaling(predictor: Predictor) -> dict[str, str]:
    """A fixed number of pods needs no autoscaler."""
    if predictor.replicas.maximum == predictor.replicas.minimum:
        return {"serving.kserve.io/autoscalerClass": "none"}
    return {
        "serving.kserve.io/metric": "cpu",
        "serving.kserve.io/targetUtilizationPercentage": str(predictor.replicas.cpu_percent),
    }


def _resources(predictor: Predictor) -> Object:
    return predictor.resources.model_dump(by_alias=True, exclude_none=True)


def storage_uri(version: ModelVersion) -> str:
    """Where KServe has a version from: `serinus fetch` takes it, and refuses another digest."""
    return f"serinus://{version.name}/{version.version}?digest={version.digest}"


def _copies(served: Served) -> Object:
    """Requests that come this way are copies, whose answers nobody sees: a port of their own tells."""
    return {
        "apiVersion": SERVICE.api_version,
        "kind": SERVICE.name,
        "metadata": _metadata(served, copies(served.deployment["metadata"]["name"], served.version.version)),
        "spec": {
            "selector": {_POD_LABEL: served.name, "component": "predictor"},
            "ports": [{"name": "http", "port": PORT, "targetPort": _COPIES_PORT, "protocol": "TCP"}],
        },
    }


def _disruption_budget(served: Served) -> Object:
    return {
        "apiVersion": DISRUPTION_BUDGET.api_version,
        "kind": DISRUPTION_BUDGET.name,
        "metadata": _metadata(served, served.name),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": {_POD_LABEL: served.name, "component": "predictor"}},
        },
    }


def pod_selector(deployment: str, version: int) -> dict[str, str]:
    """Labels of a version's pods: ours came to them by way of KServe."""
    return {**labels(deployment, version), _POD_LABEL: version_name(deployment, version)}
