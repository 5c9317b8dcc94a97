"""The operator's looks at a ContinuousTraining, against a real API server: what needs no pod and no pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from serinus.core.status import Run
from serinus.engines.kubernetes import (
    CONFIG_MAP,
    CONTINUOUS_TRAINING,
    DEPLOYMENT,
    MODEL_DEPLOYMENT,
    Cluster,
    Kind,
    Object,
)
from serinus.engines.kubernetes_cache import CachedCluster
from serinus.engines.mlflow import Registry
from serinus.engines.specfile import parse_text
from serinus.operator.build import ClusterEvents
from serinus.operator.trainings import PAUSE_ANNOTATION, RUN_ANNOTATION, TrainingParts, Trainings
from tests.cluster.conftest import ROOT, Kubectl
from tests.support import eventually
from tests.support_cluster import jsonable

NAME = "tiny"
NOW = datetime(2026, 5, 1, tzinfo=UTC)
RESYNC = 60.0


def never(image: str) -> Path:
    raise AssertionError(f"no pipeline is asked for: {image}")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    found = Cluster.connect()
    with found.api:
        yield found


@pytest.fixture
def resources(kubectl: Kubectl, definitions: None, namespace: str) -> Iterator[list[Object]]:
    """The tiny project's two resources, on the cluster for the while of a test."""
    text = (ROOT / "tests" / "projects" / "tiny" / "serinus.yaml").read_text()
    documents: list[Any] = jsonable(list(yaml.safe_load_all(text)))
    for each in documents:
        each["metadata"]["namespace"] = namespace
    text = yaml.safe_dump_all(documents)
    kubectl("apply", "--server-side", "--filename=-", stdin=text)
    yield documents
    kubectl("delete", "--ignore-not-found", "--wait", "--filename=-", stdin=text)
    # An API server by itself removes no children.
    kubectl("delete", "--ignore-not-found", f"--namespace={namespace}", "deploy/tiny-features", "cm/tiny-features")


@pytest.fixture
def trainings(cluster: Cluster, tmp_path: Path) -> Trainings:
    registry = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "artifacts"))
    parts = TrainingParts(None, registry, never, ClusterEvents(cluster), "serinus-platform", None, RESYNC)
    ended: list[Run] = []
    return Trainings(CachedCluster(cluster, ()), parts, ended.append)


def conditions(cluster: Cluster, namespace: str) -> dict[str, tuple[str, str]]:
    """Type -> status and reason."""
    found = cluster.get(CONTINUOUS_TRAINING, namespace, NAME)
    assert found is not None
    return {each["type"]: (each["status"], each["reason"]) for each in found["status"]["conditions"]}


def annotate(cluster: Cluster, namespace: str, **annotations: str | None) -> None:
    keys = {"paused": PAUSE_ANNOTATION, "run": RUN_ANNOTATION}
    patch = {"metadata": {"annotations": {keys[name]: value for name, value in annotations.items()}}}
    cluster.merge(CONTINUOUS_TRAINING, namespace, NAME, patch)


def test_features_get_a_pod_of_the_projects_image_that_goes_with_its_resource(
    cluster: Cluster, resources: list[Object], namespace: str, trainings: Trainings
) -> None:
    assert trainings.look(namespace, NAME, NOW) == RESYNC
    made = cluster.get(DEPLOYMENT, namespace, "tiny-features")
    told = cluster.get(CONFIG_MAP, namespace, "tiny-features")
    owner = cluster.get(CONTINUOUS_TRAINING, namespace, NAME)
    assert made is not None
    assert told is not None
    assert owner is not None
    for each in (made, told):
        assert [ref["uid"] for ref in each["metadata"]["ownerReferences"]] == [owner["metadata"]["uid"]]
    pod = made["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "serinus-pipeline:latest"
    service = parse_text(told["data"]["serinus.yaml"], "the ConfigMap")
    assert service.training.spec.windows.holdout == timedelta(days=10)
    assert service.deployment.spec.model.name == NAME
    assert conditions(cluster, namespace) == {
        "Accepted": ("True", "Valid"),
        "FeaturesFresh": ("False", "NotRunning"),
        "Progressing": ("False", "NoPipelines"),
    }


def test_a_second_look_changes_nothing_and_a_change_by_hand_is_set_right(
    cluster: Cluster, resources: list[Object], namespace: str, trainings: Trainings
) -> None:
    trainings.look(namespace, NAME, NOW)
    first = cluster.get(DEPLOYMENT, namespace, "tiny-features")
    trainings.look(namespace, NAME, NOW + timedelta(minutes=1))
    again = cluster.get(DEPLOYMENT, namespace, "tiny-features")
    assert first is not None
    assert again is not None
    assert again["metadata"]["generation"] == first["metadata"]["generation"]
    cluster.merge(DEPLOYMENT, namespace, "tiny-features", {"spec": {"replicas": 3}})
    trainings.look(namespace, NAME, NOW + timedelta(minutes=2))
    mended = cluster.get(DEPLOYMENT, namespace, "tiny-features")
    assert mended is not None
    assert mended["spec"]["replicas"] == 1


def test_a_changed_setting_starts_the_pod_again_and_a_changed_schedule_does_not(
    cluster: Cluster, resources: list[Object], namespace: str, trainings: Trainings
) -> None:
    def template(**spec: Any) -> Object:
        cluster.merge(CONTINUOUS_TRAINING, namespace, NAME, {"spec": spec})
        trainings.look(namespace, NAME, NOW)
        found = cluster.get(DEPLOYMENT, namespace, "tiny-features")
        assert found is not None
        template: Object = found["spec"]["template"]
        return template

    before = template()
    assert template(limits={"minimumInterval": "3h"}, triggers={"schedule": {"cron": "0 5 * * *"}}) == before
    assert template(freshness={"interval": "10s"}) != before
    assert template(freshness={"interval": "1m"}) == before


def test_features_that_something_else_keeps_get_no_pod(
    cluster: Cluster, resources: list[Object], namespace: str, trainings: Trainings
) -> None:
    trainings.look(namespace, NAME, NOW)
    cluster.merge(CONTINUOUS_TRAINING, namespace, NAME, {"spec": {"freshness": {"enabled": False}}})
    trainings.look(namespace, NAME, NOW)
    assert cluster.get(DEPLOYMENT, namespace, "tiny-features") is None
    assert cluster.get(CONFIG_MAP, namespace, "tiny-features") is None
    assert conditions(cluster, namespace)["FeaturesFresh"] == ("Unknown", "Disabled")


def test_without_its_deployment_or_while_it_is_paused_nothing_is_made(
    cluster: Cluster, resources: list[Object], namespace: str, trainings: Trainings
) -> None:
    cluster.delete(MODEL_DEPLOYMENT, namespace, NAME)
    trainings.look(namespace, NAME, NOW)
    assert conditions(cluster, namespace) == {"Accepted": ("False", "NoDeployment")}
    cluster.apply({**resources[1], "spec": {"model": {"name": NAME}}}, MODEL_DEPLOYMENT)
    annotate(cluster, namespace, paused="true")
    trainings.look(namespace, NAME, NOW)
    assert conditions(cluster, namespace) == {"Accepted": ("True", "Valid"), "Progressing": ("False", "Paused")}
    assert cluster.get(DEPLOYMENT, namespace, "tiny-features") is None


class Meddled(CachedCluster):
    """Somebody does something in the moment before a status is written."""

    def __init__(self, cluster: Cluster, deed: Callable[[], object]) -> None:
        super().__init__(cluster, ())
        self._deed = deed

    def apply(self, wanted: Object, kind: Kind, *, status: bool = False) -> Object:
        if status:
            self._deed()
        return super().apply(wanted, kind, status=status)


def test_what_comes_while_a_look_is_under_way_is_looked_at_at_once(
    cluster: Cluster, resources: list[Object], namespace: str, trainings: Trainings
) -> None:
    def ask() -> None:
        annotate(cluster, namespace, run="2026-05-01T00:00:00Z")

    meddled = Trainings(Meddled(cluster, ask), trainings.parts, trainings.counted)
    assert meddled.look(namespace, NAME, NOW) == 0.0
    assert trainings.look(namespace, NAME, NOW) == RESYNC


def test_one_that_goes_while_a_look_is_under_way_is_forgotten_and_another_one_of_its_name_looked_at(
    cluster: Cluster, resources: list[Object], namespace: str, trainings: Trainings
) -> None:
    def delete() -> None:
        cluster.delete(CONTINUOUS_TRAINING, namespace, NAME)
        eventually(lambda: cluster.get(CONTINUOUS_TRAINING, namespace, NAME) is None)

    def replace() -> None:
        delete()
        cluster.apply(resources[0], CONTINUOUS_TRAINING)

    assert Trainings(Meddled(cluster, delete), trainings.parts, trainings.counted).look(namespace, NAME, NOW) is None
    cluster.apply(resources[0], CONTINUOUS_TRAINING)
    assert Trainings(Meddled(cluster, replace), trainings.parts, trainings.counted).look(namespace, NAME, NOW) == 0.0


def test_one_that_is_gone_is_not_looked_at_again(namespace: str, definitions: None, trainings: Trainings) -> None:
    assert trainings.look(namespace, "nowhere", NOW) is None


def test_pods_of_features_pass_the_strictest_admission(
    kubectl: Kubectl, resources: list[Object], namespace: str, trainings: Trainings, cluster: Cluster
) -> None:
    kubectl("label", "--overwrite", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    trainings.look(namespace, NAME, NOW)
    made = cluster.get(DEPLOYMENT, namespace, "tiny-features")
    assert made is not None
    metadata = {"name": "one", "namespace": namespace}
    pod = {"apiVersion": "v1", "kind": "Pod", **made["spec"]["template"], "metadata": metadata}
    # An API server by itself makes no accounts for namespaces.
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}}
    kubectl("apply", "--server-side", "--filename=-", stdin=json.dumps(account))
    try:
        kubectl("create", "--dry-run=server", "--filename=-", stdin=json.dumps(pod))
    finally:
        kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce-")
