"""What the tests on a real Kubernetes share. They know nothing but KUBECONFIG: `make test-cluster` sets it to a testbed
of its own where the user has not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from kubernetes import client, config

from serinus.core.spec import KINDS
from tests.cluster.objects import OVERLAYS, Object, is_access, key, moved, rendered
from tests.cluster.testbed.modules import download
from tests.cluster.tools import FOREIGN, program
from tests.support import eventually

ROOT = Path(__file__).parents[2]
CRDS = ROOT / "manifests" / "base" / "crds"
IMAGE = os.environ.get("SERINUS_SERVING_IMAGE", "localhost/serinus-serving:dev")

Kubectl = Callable[..., str]


def pytest_collection(session: pytest.Session) -> None:
    """Say what is missing before a test does."""
    if not os.environ.get("KUBECONFIG"):
        raise pytest.UsageError("tests/cluster needs a cluster: run `make test-cluster`, or set KUBECONFIG")
    if not shutil.which("kubectl"):
        raise pytest.UsageError("tests/cluster needs kubectl on PATH, of about the cluster's version")


@pytest.fixture(scope="session")
def kubectl() -> Kubectl:
    """Runs kubectl and returns what it says on standard output."""

    def run(*arguments: str, stdin: str | None = None) -> str:
        done = subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    return run


def established(kubectl: Kubectl, *definitions: str) -> None:
    """Wait until the server knows kinds. (kubectl's own waiting fails on a definition that has no conditions yet.)"""

    def known() -> bool:
        kubectl("wait", "--for=condition=Established", "--timeout=10s", *definitions)
        return True

    eventually(known, timeout=60)


@pytest.fixture(scope="session")
def api() -> Iterator[client.ApiClient]:
    """A client of the API server."""
    config.load_kube_config()
    with client.ApiClient() as found:
        yield found


@pytest.fixture(scope="session")
def definitions(kubectl: Kubectl) -> Iterator[None]:
    """The two CustomResourceDefinitions, as they are in the repository. Those that were not there go again."""
    before = set(kubectl("get", "crd", "--output=name").split())
    applied = kubectl("apply", "--server-side", "--force-conflicts", f"--filename={CRDS}", "--output=name").split()
    established(kubectl, *applied)
    # The server publishes the schema, by which kubectl explains and applies, a moment after it judges by it.
    for kind in KINDS:
        eventually(lambda kind=kind: kubectl("explain", f"{kind.lower()}.status.conditions"), timeout=30)
    yield
    if new := [name for name in applied if name not in before]:
        kubectl("delete", *new)


@pytest.fixture(scope="session")
def namespace(api: client.ApiClient) -> Iterator[str]:
    """A namespace of this run's own."""
    core = client.CoreV1Api(api)
    made = core.create_namespace({"metadata": {"generateName": "serinus-test-"}}).metadata.name
    yield made
    core.delete_namespace(made)


@pytest.fixture(scope="session")
def kustomized() -> dict[str, list[Object]]:
    """Each overlay's objects."""
    kustomize = program("kustomize")
    return {name: rendered(kustomize, "build", ROOT / "manifests" / "overlays" / name) for name in OVERLAYS}


@pytest.fixture(scope="session")
def foreign(kubectl: Kubectl) -> Iterator[None]:
    """The definitions of other projects' kinds that the manifests use; those that were not there go again."""
    before = set(kubectl("get", "crd", "--output=name").split())
    made: list[str] = []
    for module, pattern in FOREIGN:
        for file in sorted(download(module).glob(pattern)):
            # Whoever converts between versions is not here.
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
            content["spec"].pop("conversion", None)
            made += kubectl(
                "apply",
                "--server-side",
                "--force-conflicts",
                "--filename=-",
                "--output=name",
                stdin=json.dumps(content),
            ).split()
    established(kubectl, *made)
    yield
    if new := [name for name in made if name not in before]:
        kubectl("delete", *new)


@pytest.fixture(scope="session")
def system(
    kubectl: Kubectl, kustomized: dict[str, list[Object]], definitions: None, foreign: None
) -> Iterator[dict[str, list[Object]]]:
    """The overlays in a namespace of this module's own, confined as the manifests say, with their accounts and roles.
    Whatever is installed on the cluster is left alone: what has no namespace gets other names."""
    labels = next(each for each in kustomized["standalone"] if each["kind"] == "Namespace")["metadata"]["labels"]
    made = json.dumps(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "serinus-test-", "labels": labels}}
    )
    name = kubectl("create", "--filename=-", "--output=jsonpath={.metadata.name}", stdin=made)
    overlays = {overlay: [moved(each, name) for each in objects] for overlay, objects in kustomized.items()}
    first = {key(each): each for objects in overlays.values() for each in objects if is_access(each)}
    # Where no controller makes it, as on a testbed of an API server alone.
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
    text = yaml.safe_dump_all([*first.values(), account])
    kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=text)
    yield overlays
    kubectl("delete", "--wait=false", "--filename=-", stdin=text)
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def runtime(kubectl: Kubectl) -> None:
    """How KServe runs our versions, by an image that the node has or can pull. An install that went took it along."""
    there = kubectl("get", "nodes", "--output=jsonpath={.items[*].status.images[*].names[*]}").split()
    if IMAGE.startswith("localhost/") and IMAGE not in there:
        made = "`make images TARGETS=serving` makes it, and `make test-cluster` imports it"
        pytest.fail(f"no node has {IMAGE}: {made}; or name yours by SERINUS_SERVING_IMAGE")
    document = (ROOT / "manifests" / "base" / "runtime.yaml").read_text(encoding="utf-8")
    kubectl(
        "apply", "--server-side", "--filename=-", stdin=document.replace("image: serinus-serving", f"image: {IMAGE}")
    )
