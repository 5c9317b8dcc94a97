"""An empty cluster to install on, out of a testbed that has everything: what stands in serinus-system goes for a while,
and volumes are there, as no testbed provides any."""

from __future__ import annotations

import json
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from serinus.core.platform import Platform
from tests.cluster.conftest import ROOT, Kubectl
from tests.cluster.objects import rendered
from tests.cluster.testbed.site import SYSTEM
from tests.support import eventually
from tests.support_rollout_cluster import ClusterSite
from tests.support_rollout_laptop import policy

IMAGES = {name: f"localhost/serinus-{name}:dev" for name in ("operator", "serving", "stores")}
IMAGES["pipeline"] = "localhost/serinus-tiny:dev"  # with a project in it, which MLflow does not mind
"""What `make images` leaves in build/images and `make test-cluster` gives to the node."""
FLIGHTS = "localhost/serinus-flights:dev"
"""The example's own pipeline image."""
# Images that the overlay names, and which of ours stands for each: nothing can be pulled here.
_PUBLIC = {
    "docker.io/library/postgres": "stores",
    "docker.io/library/redis": "stores",
    "docker.io/chrislusf/seaweedfs": "stores",
    "docker.io/prom/prometheus": "stores",
    **{f"serinus-{name}": name for name in ("operator", "serving", "pipeline")},
}
_LEFT = ("gateway", "endpointslice", "service")
_VOLUMES = 8


def require_images(kubectl: Kubectl, *more: str) -> None:
    """Say what is missing before a pod waits for it."""
    there = kubectl("get", "nodes", "--output=jsonpath={.items[*].status.images[*].names[*]}").split()
    missing = {*IMAGES.values(), *more} - set(there)
    told = "make images TARGETS='operator serving pipeline tiny flights stores'"
    assert not missing, f"no node has {', '.join(sorted(missing))}: {told}"


@contextmanager
def empty(kubectl: Kubectl) -> Iterator[None]:
    """The namespace of the system without the testbed's Gateway and stores, which come back at the end."""
    there = f"--namespace={SYSTEM}"
    assert not kubectl("get", there, "pods", "--output=name"), f"{SYSTEM} is somebody's: this would remove it"
    kept = json.loads(kubectl("get", there, ",".join(_LEFT), "--output=json"))
    for each in kept["items"]:
        each.pop("status", None)
        for name in ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"):
            each["metadata"].pop(name, None)
    kubectl("delete", there, "--all", ",".join(_LEFT))
    try:
        yield
    finally:
        kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=json.dumps(kept))


def overlay(folder: Path, settings: Mapping[str, str]) -> Path:
    """A kustomization above `standalone` with images and settings of one's own, as docs/install.md says."""
    shutil.copytree(ROOT / "manifests", folder / "manifests")
    below = folder / "manifests" / "overlays"
    there = yaml.safe_load((below / "standalone" / "kustomization.yaml").read_text())
    images = []
    for name, which in _PUBLIC.items():
        new, _, tag = IMAGES[which].rpartition(":")
        images.append({"name": name, "newName": new, "newTag": tag})
    content = {"resources": ["../standalone"], "images": images, "replacements": there["replacements"]}
    if settings:
        literals = [f"{name}={value}" for name, value in settings.items()]
        own = {"name": "serinus-settings", "namespace": SYSTEM, "behavior": "merge", "literals": literals}
        content["configMapGenerator"] = [own]
    (below / "mine").mkdir()
    (below / "mine" / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return below / "mine"


@contextmanager
def standalone(kubectl: Kubectl, folder: Path, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """The overlay of that name and the namespace `flights` beside it: ready, and gone afterwards."""
    mine = overlay(folder, settings)
    models = mine.parents[1] / "namespace" / "standalone"
    with empty(kubectl), volumes(kubectl, folder / "volumes"):
        try:
            kubectl("apply", "--server-side", "--force-conflicts", f"--kustomize={mine}")
            kubectl("apply", "--server-side", "--force-conflicts", f"--kustomize={models}")
            kubectl("wait", f"--namespace={SYSTEM}", "--for=condition=Programmed", "--timeout=60s", "gateway/serinus")
            rolled_out(kubectl, SYSTEM)
            yield
        finally:
            kubectl("delete", "--ignore-not-found", f"--kustomize={models}")
            gone(kubectl, rendered("kubectl", "kustomize", mine), SYSTEM)


@contextmanager
def volumes(kubectl: Kubectl, folder: Path) -> Iterator[None]:
    """Room on the node for whoever claims it."""
    made = []
    for number in range(_VOLUMES):
        place = folder / str(number)
        place.mkdir(parents=True)
        node = {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}
        spec = {
            "capacity": {"storage": "20Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(place)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [node]}]}},
        }
        name = f"serinus-test-{folder.name}-{number}"
        made.append({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec})
    text = yaml.safe_dump_all(made)
    kubectl("apply", "--server-side", "--filename=-", stdin=text)
    try:
        yield
    finally:
        kubectl("delete", "--ignore-not-found", "--wait=false", "--filename=-", stdin=text)


@contextmanager
def forwarded(service: str, port: int, local: int) -> Iterator[None]:
    """A Service of the system at a port of this machine's own, as a person would have it."""
    command = ["kubectl", "port-forward", f"--namespace={SYSTEM}", f"service/{service}", f"{local}:{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "Forwarding" in process.stdout.readline()
            yield
        finally:
            process.terminate()


def address(kubectl: Kubectl, service: str) -> str:
    """Of one of the system's Services."""
    return kubectl("get", "service", service, f"--namespace={SYSTEM}", "--output=jsonpath={.spec.clusterIP}")


@dataclass
class InstalledSite(ClusterSite):
    """One ModelDeployment that rests on what was installed. MLflow answers to names that it knows alone, and is reached
    at a port of this machine."""

    mlflow: int = 0

    def engines(self) -> Platform:
        """Those of the system's Secret, by the addresses of their Services."""
        secret = ("get", "secret", "serinus-platform", f"--namespace={SYSTEM}", "--output=jsonpath={.data.*}")
        text = b64decode(self.kubectl(*secret)).decode()
        for name in ("postgres", "redis", "s3"):
            text = text.replace(f"{name}.{SYSTEM}.svc", address(self.kubectl, name))
        here = {"state": str(self.folder / "state"), "tracking_uri": f"http://localhost:{self.mlflow}"}
        return Platform.model_validate(yaml.safe_load(text) | here)

    def prepare(self) -> None:
        """Its Secret came with the namespace."""

    @property
    def host(self) -> str:
        return f"{self.file.parent.name}.{self.namespace}.serinus.example"

    def put(self, rollout: dict[str, Any], **log: Any) -> None:
        """Apply it with a rollout that is judged by what Prometheus counts alone, and a log that goes somewhere."""
        own = policy(confirmation=None, **{"interval": "5s", **rollout})
        own["guards"]["quality"] = {"enabled": False}
        # Two processors run all of it: a pod that has just come may wait for one of them.
        own["guards"]["slow"] = {"threshold": "1s", "ratio": 3, "margin": 0.2}
        self.deploy(own, log=log)


def rolled_out(kubectl: Kubectl, namespace: str, seconds: int = 300) -> None:
    """Wait until all that a namespace's controllers want is there."""
    for name in kubectl("get", "deployments,statefulsets", f"--namespace={namespace}", "--output=name").split():
        try:
            kubectl("rollout", "status", f"--namespace={namespace}", f"--timeout={seconds}s", name)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{_troubles(kubectl, namespace)}") from error


def _troubles(kubectl: Kubectl, namespace: str) -> str:
    there = f"--namespace={namespace}"
    pods = kubectl("get", there, "pods", "--output=name").split()
    logs = [kubectl("logs", there, pod, "--all-containers", "--tail=30", "--ignore-errors") for pod in pods]
    seen = [kubectl("get", there, "pods,pvc", "--output=wide"), kubectl("get", there, "events")]
    return "\n".join([*seen, *(f"{pod}:\n{log}" for pod, log in zip(pods, logs, strict=True))])


def gone(kubectl: Kubectl, objects: list[dict[str, Any]], namespace: str) -> None:
    """Remove what was installed, with the claims that its stores made, and wait for their pods to end."""
    stay = ("Namespace", "CustomResourceDefinition")
    text = yaml.safe_dump_all([each for each in objects if each["kind"] not in stay])
    kubectl("delete", "--ignore-not-found", "--filename=-", stdin=text)
    kubectl("delete", f"--namespace={namespace}", "--all", "persistentvolumeclaims")
    eventually(lambda: not kubectl("get", f"--namespace={namespace}", "pods", "--output=name"), timeout=120)
