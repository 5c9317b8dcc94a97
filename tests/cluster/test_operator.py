"""What has a resource looked at, against a real API server: everything that others do to it, and nothing that we do."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from kubernetes import client

from serinus.engines.kubernetes import DEPLOYMENT, LEASE, Cluster, Kind, Object, Selection
from serinus.engines.kubernetes_cache import CachedCluster
from serinus.engines.kubernetes_features import COMPONENT
from serinus.engines.kubernetes_kserve import MANAGED, NAME_LABEL
from serinus.engines.kubernetes_watch import Watching
from serinus.operator.lease import Election
from serinus.operator.main import Operator
from serinus.operator.metrics import Metrics
from tests.cluster.conftest import Kubectl, established
from tests.support import eventually

GROUP = "tests.serinus.dev"
TRIAL = Kind("Trial", f"{GROUP}/v1", "trials")
DEFINITION = f"{TRIAL.plural}.{GROUP}"
LATER = 3600.0


def definition() -> dict[str, Any]:
    """Of a kind of our own, so that no other test misses it."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema, "subresources": {"status": {}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": DEFINITION},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"kind": TRIAL.name, "plural": TRIAL.plural, "singular": "trial", "listKind": "TrialList"},
            "versions": [version],
        },
    }


def trial(namespace: str, name: str, **rest: Any) -> Object:
    metadata = {"namespace": namespace, "name": name}
    return {"apiVersion": TRIAL.api_version, "kind": TRIAL.name, "metadata": metadata, **rest}


@pytest.fixture
def defined(kubectl: Kubectl) -> Iterator[None]:
    """The definition is there, and is gone afterwards."""
    kubectl("apply", "--server-side", "--filename=-", stdin=json.dumps(definition()))
    established(kubectl, f"crd/{DEFINITION}")
    yield
    kubectl("delete", "crd", DEFINITION, "--ignore-not-found")


class Looked:
    """An operator that runs, and how often it looked at what."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self.cluster = Cluster(api)
        self.times: Counter[tuple[str, str]] = Counter()
        election = Election(self.cluster, namespace, "serinus-test", "test")
        features = Selection(DEPLOYMENT, labels={**MANAGED, **COMPONENT})
        self.cached = CachedCluster(self.cluster, [Selection(TRIAL), features], [namespace])
        watch = partial(Watching, self.cluster, self.cached.stores, seconds=2)
        looks = {TRIAL.name: self.look, "ContinuousTraining": self.look}
        self.operator = Operator(looks, election, Metrics(), watch, workers=2)
        self._thread = threading.Thread(target=self.operator.run)

    def look(self, namespace: str, name: str, now: datetime) -> float:
        self.times[namespace, name] += 1
        return LATER

    def __enter__(self) -> Looked:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.operator.stop()
        self._thread.join(40)
        assert not self._thread.is_alive()
        assert not self.operator.alive()


@pytest.fixture
def looked(api: client.ApiClient, defined: None, namespace: str) -> Iterator[Looked]:
    with Looked(api, namespace) as found:
        yield found
    lease = found.cluster.get(LEASE, namespace, "serinus-test")
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == ""


def test_whatever_others_change_is_looked_at_and_our_own_status_is_not(looked: Looked, namespace: str) -> None:
    cluster, times, key = looked.cluster, looked.times, (namespace, "one")
    cluster.apply(trial(namespace, "one", spec={"a": 1}), TRIAL)
    eventually(lambda: times[key] == 1, 20)
    looked.cached.apply(trial(namespace, "one", status={"phase": "stable"}), TRIAL, status=True)
    cluster.merge(TRIAL, namespace, "one", {"metadata": {"labels": {"team": "a"}}})
    # What comes after them has been seen, and so they have.
    cluster.apply(trial(namespace, "two"), TRIAL)
    eventually(lambda: times[namespace, "two"] == 1, 20)
    assert times[key] == 1
    cluster.merge(TRIAL, namespace, "one", {"metadata": {"annotations": {"serinus.dev/paused": "true"}}})
    eventually(lambda: times[key] == 2, 20)
    cluster.merge(TRIAL, namespace, "one", {"spec": {"a": 2}})
    eventually(lambda: times[key] == 3, 20)
    cluster.delete(TRIAL, namespace, "one")
    eventually(lambda: times[key] == 4, 20)
    assert looked.operator.alive()


def test_a_pod_of_features_has_its_training_looked_at(looked: Looked, namespace: str) -> None:
    labels = {**MANAGED, **COMPONENT, NAME_LABEL: "flights"}
    container = {"name": "features", "image": "localhost/nothing"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    wanted = {
        "apiVersion": DEPLOYMENT.api_version,
        "kind": DEPLOYMENT.name,
        "metadata": {"namespace": namespace, "name": "flights-features", "labels": labels},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }
    looked.cluster.apply(wanted, DEPLOYMENT)
    eventually(lambda: looked.times[namespace, "flights"] >= 1, 20)
    looked.cluster.delete(DEPLOYMENT, namespace, "flights-features")


def test_a_definition_that_is_deleted_and_restored_is_watched_again(
    looked: Looked, kubectl: Kubectl, namespace: str
) -> None:
    cluster, times = looked.cluster, looked.times
    cluster.apply(trial(namespace, "before"), TRIAL)
    eventually(lambda: times[namespace, "before"] == 1, 20)
    kubectl("delete", "crd", DEFINITION)
    eventually(lambda: times[namespace, "before"] == 2, 30)
    kubectl("apply", "--server-side", "--filename=-", stdin=json.dumps(definition()))
    established(kubectl, f"crd/{DEFINITION}")
    cluster.apply(trial(namespace, "after"), TRIAL)
    eventually(lambda: times[namespace, "after"] == 1, 60)
    assert looked.operator.alive()
