"""What a Gateway's class says it can do, as a real API server stores it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from serinus.core.spec.deployment import ModelDeploymentSpec
from serinus.engines.kubernetes import Cluster
from serinus.engines.kubernetes_gateway import Front
from serinus.operator.front import FrontFeatures
from tests.cluster.conftest import Kubectl, established
from tests.cluster.testbed.modules import GATEWAY_API, download

MODEL = {"model": {"name": "tiny"}}
SHADOWED = {**MODEL, "rollout": {"shadow": {"percent": 50}, "steps": [50]}}


def spec(document: object) -> ModelDeploymentSpec:
    return ModelDeploymentSpec.model_validate(document, by_alias=True, by_name=False)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    found = Cluster.connect()
    with found.api:
        yield found


@pytest.fixture(scope="module")
def kinds(kubectl: Kubectl) -> Iterator[None]:
    """The Gateway API's definitions; those that were not there go again."""
    names = ("gateways", "gatewayclasses")
    before = set(kubectl("get", "crd", "--output=name").split())
    folder = download(GATEWAY_API) / "config" / "crd" / "standard"
    for name in names:
        kubectl("apply", "--server-side", f"--filename={folder / f'gateway.networking.k8s.io_{name}.yaml'}")
    made = [f"customresourcedefinition.apiextensions.k8s.io/{name}.gateway.networking.k8s.io" for name in names]
    established(kubectl, *made)
    yield
    if new := [name for name in made if name not in before]:
        kubectl("delete", *new)


@pytest.fixture
def front(kubectl: Kubectl, kinds: None, namespace: str) -> Iterator[Front]:
    """A Gateway of a class whose controller is not there: it tells what the tests make it tell."""
    listener = {"name": "http", "port": 80, "protocol": "HTTP"}
    version = "gateway.networking.k8s.io/v1"
    objects = [
        {
            "apiVersion": version,
            "kind": "GatewayClass",
            "metadata": {"name": "told"},
            "spec": {"controllerName": "example.com/nobody"},
        },
        {
            "apiVersion": version,
            "kind": "Gateway",
            "metadata": {"name": "told", "namespace": namespace},
            "spec": {"gatewayClassName": "told", "listeners": [listener]},
        },
    ]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    kubectl("apply", "--server-side", "--filename=-", stdin=text)
    yield Front(namespace, "told", "example.com")
    kubectl("delete", "--filename=-", stdin=text)


def tell(kubectl: Kubectl, *features: str) -> None:
    status = {"status": {"supportedFeatures": [{"name": each} for each in sorted(features)]}}
    kubectl("patch", "gatewayclass", "told", "--subresource=status", "--type=merge", f"--patch={json.dumps(status)}")


def test_a_shadow_is_refused_where_the_class_says_what_it_can_and_cannot_copy(
    cluster: Cluster, front: Front, kubectl: Kubectl
) -> None:
    tell(kubectl, "HTTPRoute", "Gateway")
    (words,) = FrontFeatures(cluster, front).refused(spec(SHADOWED))
    assert "HTTPRouteRequestMirror" in words
    assert FrontFeatures(cluster, front).refused(spec(MODEL)) == []


def test_a_shadow_is_taken_where_the_class_can_copy_or_tells_nothing(
    cluster: Cluster, front: Front, kubectl: Kubectl
) -> None:
    assert FrontFeatures(cluster, front).refused(spec(SHADOWED)) == []
    tell(kubectl, "HTTPRoute", "HTTPRouteRequestMirror")
    assert FrontFeatures(cluster, front).refused(spec(SHADOWED)) == []


def test_a_gateway_that_is_not_there_refuses_nothing_and_is_asked_again_later(
    cluster: Cluster, front: Front, kubectl: Kubectl
) -> None:
    now = [0.0]
    elsewhere = FrontFeatures(cluster, Front(front.namespace, "absent", "example.com"), lambda: now[0])
    assert elsewhere.refused(spec(SHADOWED)) == []
    known = FrontFeatures(cluster, front, lambda: now[0])
    assert known.refused(spec(SHADOWED)) == []
    tell(kubectl, "HTTPRoute")
    assert known.refused(spec(SHADOWED)) == []
    now[0] = 61.0
    assert known.refused(spec(SHADOWED)) != []
