"""These tests need a cluster that runs pods, with KServe and a Gateway, and are only collected where there is one:
`LEVEL=node make test-cluster` starts it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import ROOT, Kubectl
from tests.cluster.testbed.cluster import Cluster
from tests.cluster.testbed.images import reference
from tests.cluster.testbed.levels import expected
from tests.support import eventually
from tests.support_rollout_cluster import ClusterSite, OperatorProcess, cluster_policy

AT_LEVEL = expected("node")
ECHO = (Path(__file__).parent / "echo.py").read_text(encoding="utf-8")

collect_ignore_glob = [] if AT_LEVEL else ["test_*.py"]

Apply = Callable[..., None]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say that there is more."""
    if not AT_LEVEL:
        terminalreporter.write_line("not collected: tests/cluster/node, which needs pods: LEVEL=node make test-cluster")


@pytest.fixture
def apply(kubectl: Kubectl) -> Iterator[Apply]:
    """Makes objects, which are gone after the test."""
    made: list[str] = []

    def make(*objects: dict[str, Any]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        made.insert(0, text)
        kubectl("apply", "--server-side", "--filename=-", stdin=text)

    yield make
    for text in made:
        kubectl("delete", "--filename=-", "--ignore-not-found", stdin=text)


class Gateway:
    """The Gateway, as a client of the services behind it sees it."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    @property
    def address(self) -> str:
        """Its URL, without a path."""
        return str(self._client.base_url).rstrip("/")

    def ask(self, host: str, headers: dict[str, str] | None = None, body: str = "") -> httpx.Response:
        """What is answered for a host."""
        return self._client.post("/some/path", headers={"Host": f"{host}.example.com", **(headers or {})}, content=body)

    def serves(self, host: str) -> None:
        """Wait until a host is known, and who answers for it is reached."""
        eventually(lambda: self.ask(host).status_code == httpx.codes.OK, timeout=30)


@pytest.fixture(scope="session")
def gateway(kubectl: Kubectl) -> Iterator[Gateway]:
    """The one of the testbed."""
    found = json.loads(kubectl("get", "gateway", "serinus", "--namespace=serinus-system", "--output=json"))
    address = f"http://{found['status']['addresses'][0]['value']}:{found['spec']['listeners'][0]['port']}"
    with httpx.Client(base_url=address, timeout=10) as client:
        yield Gateway(client)


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """It runs only beside tests that want it: others' resources are none of its business."""
    found = OperatorProcess(tmp_path_factory.mktemp("operator"))
    found.start()
    yield found
    assert found.stop() == 0


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, kubectl: Kubectl, namespace: str, gateway: Gateway, definitions: None
) -> Iterator[ClusterSite]:
    """A version that could be served, in a namespace of its own."""
    own = f"{namespace}-models"
    kubectl("create", "namespace", own)
    yield ClusterSite(tmp_path_factory.mktemp("cluster"), kubectl, own, gateway.address)
    kubectl("delete", "namespace", own, "--wait", "--timeout=180s")


@pytest.fixture(scope="module")
def site(trained: ClusterSite, runtime: None, operator: OperatorProcess) -> Iterator[ClusterSite]:
    """A version that answers through the Gateway, with no rollout on in the beginning and in the end."""
    trained.deploy(cluster_policy())
    trained.until("it answers", lambda: trained.condition("Ready").get("status") == "True", 300)
    yield trained
    trained.calm()


class Faults:
    """Programs of the testbed that are gone for a while."""

    def __init__(self) -> None:
        self._cluster = Cluster("node", ROOT)

    @contextmanager
    def without(self, name: str) -> Iterator[None]:
        """End a program; it is started again in the end."""
        self._cluster.stop(name)
        try:
            yield
        finally:
            self._cluster.start(name)


@pytest.fixture(scope="session")
def faults() -> Faults:
    """Of the cluster that the tests run in: a testbed."""
    return Faults()


def container(name: str) -> dict[str, Any]:
    """A container that says its name to everyone."""
    return {
        "name": "kserve-container",
        "image": reference("base"),
        "command": ["python3", "-c", ECHO],
        "env": [{"name": "ECHO", "value": name}],
        "ports": [
            {"name": "http1", "containerPort": 8080, "protocol": "TCP"},
            {"name": "metrics", "containerPort": 9109, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"path": "/asked", "port": 8080}, "periodSeconds": 1},
    }


def service(namespace: str, name: str) -> list[dict[str, Any]]:
    """A pod that says its name, behind a Service."""
    where, labels = {"name": name, "namespace": namespace}, {"app": name}
    pod = {"containers": [container(name)], "terminationGracePeriodSeconds": 0}
    ports = [{"port": 80, "targetPort": 8080}]
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {**where, "labels": labels}, "spec": pod},
        {"apiVersion": "v1", "kind": "Service", "metadata": where, "spec": {"selector": labels, "ports": ports}},
    ]


def backends(**weights: int) -> dict[str, Any]:
    """A rule that sends requests to Services by weight."""
    return {"backendRefs": [{"name": name, "port": 80, "weight": weight} for name, weight in weights.items()]}


def route(namespace: str, name: str, *rules: dict[str, Any]) -> dict[str, Any]:
    """The rules by which the Gateway answers for a host of the route's name."""
    spec = {
        "parentRefs": [{"name": "serinus", "namespace": "serinus-system"}],
        "hostnames": [f"{name}.example.com"],
        "rules": list(rules),
    }
    where = {"name": name, "namespace": namespace}
    return {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": where, "spec": spec}
