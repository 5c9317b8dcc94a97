"""What the tests on a real Kubernetes share. They know nothing but KUBECONFIG: `make test-cluster` sets it to a testbed
of its own where the user has not."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubernetes import client, config

from serinus.core.spec import KINDS
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
    kubectl("wait", "--for=condition=Established", "--timeout=60s", *applied)
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
def runtime(kubectl: Kubectl) -> None:
    """How KServe runs our versions, by an image that the node has or can pull."""
    there = kubectl("get", "nodes", "--output=jsonpath={.items[*].status.images[*].names[*]}").split()
    if IMAGE.startswith("localhost/") and IMAGE not in there:
        made = "`make images TARGETS=serving` makes it, and `make test-cluster` imports it"
        pytest.fail(f"no node has {IMAGE}: {made}; or name yours by SERINUS_SERVING_IMAGE")
    document = (ROOT / "manifests" / "base" / "runtime.yaml").read_text(encoding="utf-8")
    kubectl(
        "apply", "--server-side", "--filename=-", stdin=document.replace("image: serinus-serving", f"image: {IMAGE}")
    )
