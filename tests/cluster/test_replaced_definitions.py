"""An operator notices that its definitions are not those that it began with."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kubernetes import client

from serinus.engines.kubernetes import Cluster, Kind
from serinus.operator.definitions import Definitions
from tests.cluster.conftest import Kubectl
from tests.support import eventually

GROUP = "tests.serinus.dev"
TRIAL = Kind("Trial", f"{GROUP}/v1", "trials")
NAME = f"{TRIAL.plural}.{GROUP}"


def definition() -> dict[str, Any]:
    """Of a kind that nobody has."""
    schema = {"openAPIV3Schema": {"type": "object"}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"kind": TRIAL.name, "plural": TRIAL.plural, "singular": "trial", "listKind": "TrialList"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }


@pytest.fixture
def put(kubectl: Kubectl) -> Iterator[None]:
    """The definition is there, and is gone afterwards."""
    kubectl("apply", "--server-side", "--filename=-", stdin=json.dumps(definition()))
    yield
    kubectl("delete", "crd", NAME, "--ignore-not-found")


@pytest.mark.usefixtures("put")
def test_a_definition_that_is_made_anew_is_another_one(api: client.ApiClient, kubectl: Kubectl) -> None:
    found, stop = Definitions(Cluster(api), (TRIAL,), seconds=0.1), threading.Event()
    before = eventually(found.which)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(found.follow, stop)
        try:
            kubectl("delete", "crd", NAME)
            assert found.which() is None
            assert not following.done()
            kubectl("apply", "--server-side", "--filename=-", stdin=json.dumps(definition()))
            assert following.result(30)
        finally:
            stop.set()
    assert eventually(found.which) != before


@pytest.mark.usefixtures("put")
def test_a_definition_that_is_changed_is_the_same(api: client.ApiClient, kubectl: Kubectl) -> None:
    found, stop = Definitions(Cluster(api), (TRIAL,), seconds=0.1), threading.Event()
    before = eventually(found.which)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(found.follow, stop)
        kubectl("annotate", "crd", NAME, "tests.serinus.dev/changed=yes")
        assert found.which() == before
        stop.set()
        assert following.result(30) is False
