"""The testbed's own promises: pods run and find one another, the Gateway splits, KServe makes model services ready, and
Prometheus sees them."""

from __future__ import annotations

import errno
import json
from collections import Counter
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import Kubectl
from tests.cluster.node.conftest import Apply, Gateway, backends, container, route, service
from tests.cluster.testbed.backing import PORTS
from tests.cluster.testbed.images import reference
from tests.cluster.testbed.site import ADDRESS, SYSTEM
from tests.support import eventually


def said(kubectl: Kubectl, apply: Apply, namespace: str, code: str) -> list[str]:
    """The words that a Python program says which runs in a pod of its own."""
    program = {"name": "program", "image": reference("base"), "command": ["python3", "-c", code]}
    where = {"name": "program", "namespace": namespace}
    spec = {"restartPolicy": "Never", "containers": [program]}
    apply({"apiVersion": "v1", "kind": "Pod", "metadata": where, "spec": spec})
    ended = "--for=jsonpath={.status.phase}=Succeeded"
    kubectl("wait", f"--namespace={namespace}", ended, "--timeout=60s", "pod/program")
    return kubectl("logs", f"--namespace={namespace}", "program").split()


def ready(kubectl: Kubectl, namespace: str, *names: str) -> None:
    pods = [f"pod/{name}" for name in names]
    kubectl("wait", f"--namespace={namespace}", "--for=condition=Ready", "--timeout=60s", *pods)


def test_a_pod_runs_and_says_what_it_has_to(kubectl: Kubectl, apply: Apply, namespace: str) -> None:
    assert said(kubectl, apply, namespace, "print('from a pod')") == ["from", "a", "pod"]


def test_a_pod_finds_services_by_name(kubectl: Kubectl, apply: Apply, namespace: str) -> None:
    places = {"kubernetes.default": 443, **{f"{name}.{SYSTEM}.svc": port for name, port in PORTS.items()}}
    code = (
        f"import socket\nfor each in {list(places.items())}: print(socket.create_connection(each, 9).getpeername()[1])"
    )
    assert said(kubectl, apply, namespace, code) == [str(port) for port in places.values()]


def test_a_pod_reaches_nothing_outside(kubectl: Kubectl, apply: Apply, namespace: str) -> None:
    code = "import socket; print(socket.socket().connect_ex(('192.0.2.1', 80)))"
    assert said(kubectl, apply, namespace, code) == [str(errno.ENETUNREACH)]


def test_the_gateway_splits_by_weight(kubectl: Kubectl, namespace: str, gateway: Gateway, apply: Apply) -> None:
    apply(*service(namespace, "one"), *service(namespace, "two"), route(namespace, "split", backends(one=90, two=10)))
    ready(kubectl, namespace, "one", "two")
    gateway.serves("split")
    shares = Counter(gateway.ask("split").text for _ in range(1000))
    # Each request falls by chance: six standard deviations.
    assert shares == {"one": pytest.approx(900, abs=57), "two": pytest.approx(100, abs=57)}


def test_a_header_chooses(kubectl: Kubectl, namespace: str, gateway: Gateway, apply: Apply) -> None:
    wanted = {"matches": [{"headers": [{"name": "x-serinus-version", "value": "canary"}]}], **backends(four=1)}
    apply(*service(namespace, "three"), *service(namespace, "four"))
    apply(route(namespace, "chosen", backends(three=1), wanted))
    ready(kubectl, namespace, "three", "four")
    gateway.serves("chosen")
    assert {gateway.ask("chosen").text for _ in range(10)} == {"three"}
    assert {gateway.ask("chosen", {"x-serinus-version": "canary"}).text for _ in range(10)} == {"four"}


def test_requests_are_mirrored(kubectl: Kubectl, namespace: str, gateway: Gateway, apply: Apply) -> None:
    mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "six", "port": 80}}}
    apply(*service(namespace, "five"), *service(namespace, "six"))
    ready(kubectl, namespace, "five", "six")
    apply(route(namespace, "mirrored", {**backends(five=1), "filters": [mirror]}))
    gateway.serves("mirrored")
    assert {gateway.ask("mirrored", body=f"request {number}").text for number in range(10)} == {"five"}
    address = kubectl("get", "pod", "six", f"--namespace={namespace}", "--output=jsonpath={.status.podIP}")
    wanted = {f"request {number}" for number in range(10)}
    eventually(lambda: wanted <= {each["body"] for each in httpx.get(f"http://{address}:8080/asked").json()})


def test_a_model_service_gets_ready_and_is_scraped(kubectl: Kubectl, namespace: str, apply: Apply) -> None:
    apply({
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "model", "namespace": namespace},
        "spec": {"predictor": {"minReplicas": 1, "maxReplicas": 1, "containers": [container("model")]}},
    })  # fmt: skip
    there = f"--namespace={namespace}"
    kubectl("wait", there, "--for=condition=Ready", "--timeout=120s", "inferenceservice/model")
    assert json.loads(kubectl("get", there, "httproutes", "--output=json"))["items"] == []
    pod = kubectl("get", there, "pods", "--output=name").strip().removeprefix("pod/")
    found = eventually(lambda: samples(f'asked_total{{namespace="{namespace}"}}'), timeout=30)
    assert [each["metric"]["pod"] for each in found] == [pod]


def samples(query: str) -> list[dict[str, Any]]:
    """What the testbed's Prometheus has now."""
    answer = httpx.get(f"http://{ADDRESS}:{PORTS['prometheus']}/api/v1/query", params={"query": query})
    return list(answer.json()["data"]["result"])
