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
