"""The pod that keeps a model's features up to date on a cluster: a Deployment of one, of its image. Pure."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from serinus.engines.kubernetes import CONFIG_MAP, DEPLOYMENT, Kind, Object, owner
from serinus.engines.kubernetes_kserve import MANAGED, NAME_LABEL

COMPONENT = {"app.kubernetes.io/component": "features"}
METRICS_PORT = 9109
SPEC_IN_IMAGE = "/project/serinus.yaml"
PLATFORM_FOLDER = "/etc/serinus/platform"
PLATFORM_FILE = f"{PLATFORM_FOLDER}/platform.yaml"

_RESOURCES_FOLDER = "/etc/serinus/resources"
_RESOURCES = "serinus.yaml"


class Fed(NamedTuple):
    """A model whose features are kept up to date.

    Attributes:
        training: the ContinuousTraining.
        image: holds Serinus and the project.
        resources: the spec, as YAML.
        secret: that says where the engines are.
    """

    training: Object
    image: str
    resources: str
    secret: str

    @property
    def name(self) -> str:
        """What the objects are called."""
        return features_name(self.training["metadata"]["name"])


KINDS = (DEPLOYMENT, CONFIG_MAP)
"""What is made for a ContinuousTraining."""


def features_name(training: str) -> str:
    """The name of the objects for a ContinuousTraining."""
    return f"{training}-features"


def objects(fed: Fed) -> list[tuple[Kind, Object]]:
    """Everything that is needed, each with its kind, in the order of making."""
    return [(CONFIG_MAP, _config_map(fed)), (DEPLOYMENT, _deployment(fed))]


def available(deployment: Object | None) -> str | None:
    """Why the pod does not run; None where it does."""
    if deployment is None:
        return "it has not been made yet"
    status = deployment.get("status", {})
    if status.get("availableReplicas", 0) > 0:
        return None
    found = [each for each in status.get("conditions", ()) if each["type"] == "Available"]
    return str(found[0].get("message") or found[0].get("reason")) if found else "it is being started"


def _metadata(fed: Fed) -> Object:
    metadata = fed.training["metadata"]
    return {
        "name": fed.name,
        "namespace": metadata["namespace"],
        "labels": {NAME_LABEL: metadata["name"], **COMPONENT, **MANAGED},
        "ownerReferences": [owner(fed.training)],
    }


def _config_map(fed: Fed) -> Object:
    return {
        "apiVersion": CONFIG_MAP.api_version,
        "kind": CONFIG_MAP.name,
        "metadata": _metadata(fed),
        "data": {_RESOURCES: fed.resources},
    }


def _deployment(fed: Fed) -> Object:
    own = {NAME_LABEL: fed.training["metadata"]["name"], **COMPONENT}
    return {
        "apiVersion": DEPLOYMENT.api_version,
        "kind": DEPLOYMENT.name,
        "metadata": _metadata(fed),
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},  # two would write the same rows
            "selector": {"matchLabels": own},
            "template": {
                "metadata": {
                    "labels": {**own, **MANAGED},
                    "annotations": {
                        # Pods do not notice that a ConfigMap has changed.
                        "serinus.dev/resources": hashlib.sha256(fed.resources.encode()).hexdigest(),
                        "prometheus.io/scrape": "true",
                        "prometheus.io/port": str(METRICS_PORT),
                        "prometheus.io/path": "/metrics",
                    },
                },
                "spec": _pod(fed),
            },
        },
    }


def _pod(fed: Fed) -> dict[str, Any]:
    return {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 60,  # a pass that has begun is finished
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(fed)],
        "volumes": [
            {"name": "platform", "secret": {"secretName": fed.secret}},
            {"name": "resources", "configMap": {"name": fed.name}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "state", "emptyDir": {}},
        ],
    }


def _container(fed: Fed) -> dict[str, Any]:
    health = {"httpGet": {"path": "/metrics", "port": "metrics"}}
    return {
        "name": "features",
        "image": fed.image,
        "command": ["serinus", "refresh"],
        "args": [
            f"--file={SPEC_IN_IMAGE}",
            f"--resources={_RESOURCES_FOLDER}/{_RESOURCES}",
            f"--port={METRICS_PORT}",
            "--address=0.0.0.0",
        ],
        "env": [{"name": "SERINUS_PLATFORM", "value": PLATFORM_FILE}],
        "ports": [{"name": "metrics", "containerPort": METRICS_PORT}],
        "startupProbe": {**health, "periodSeconds": 2, "failureThreshold": 150},
        "livenessProbe": {**health, "periodSeconds": 15, "failureThreshold": 4},
        "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "4Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "platform", "mountPath": PLATFORM_FOLDER, "readOnly": True},
            {"name": "resources", "mountPath": _RESOURCES_FOLDER, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - in the pod
            {"name": "state", "mountPath": "/var/run/serinus"},
        ],
    }
