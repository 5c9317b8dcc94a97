"""The copy of what we made, kept by watches of a real API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from kubernetes import client

from serinus.control.rollout_cluster import CHILDREN, DRAIN, GatewayTraffic
from serinus.core.rollout import Shares
from serinus.core.spec.deployment import ModelDeploymentSpec
from serinus.core.spec.rollout import Rollout, Shadow
from serinus.core.version import Lineage, ModelVersion
from serinus.engines import kubernetes_gateway as gateway
from serinus.engines import kubernetes_kserve as kserve
from serinus.engines.kubernetes import (
    CONFIG_MAP,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    MODEL_DEPLOYMENT,
    SERVICE,
    Change,
    Cluster,
    Gone,
    Kind,
    Object,
    Selection,
)
from serinus.engines.kubernetes_cache import CachedCluster
from serinus.engines.kubernetes_gateway import CHANGED_ANNOTATION, Front
from serinus.engines.kubernetes_watch import Watching
from tests.cluster.conftest import Kubectl, established
from tests.cluster.testbed.modules import documents, download
from tests.cluster.tools import WATCHED
from tests.support import eventually

NAME = "flights"


class Heard:
    """What the watches told."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, kind: Kind, before: Object | None, after: Object | None) -> None:
        found = after or before
        assert found is not None
        what = "deleted" if after is None else "added" if before is None else "modified"
        self.names.append(f"{what} {found['metadata']['name']}")


def config(namespace: str, name: str, value: str = "", labels: dict[str, str] | None = None) -> Object:
    own = kserve.labels(NAME) if labels is None else labels
    metadata = {"name": name, "namespace": namespace, "labels": own}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"value": value}}


def deployment(namespace: str, name: str) -> Object:
    return {
        "apiVersion": MODEL_DEPLOYMENT.api_version,
        "kind": MODEL_DEPLOYMENT.name,
        "metadata": {"name": name, "namespace": namespace, "labels": kserve.MANAGED},
        "spec": {"model": {"name": name}},
    }


def ours(*kinds: Kind) -> list[Selection]:
    return [Selection(kind, labels=kserve.MANAGED) for kind in kinds]


@contextmanager
def watched(cached: CachedCluster, cluster: Cluster, heard: Heard | None = None) -> Iterator[Watching]:
    watching = Watching(cluster, cached.stores, heard or Heard(), seconds=2)
    watching.start()
    assert watching.wait(30)
    try:
        yield watching
    finally:
        watching.stop(10)


@pytest.fixture
def cluster(api: client.ApiClient) -> Cluster:
    return Cluster(api)


@pytest.fixture
def cached(cluster: Cluster, namespace: str) -> CachedCluster:
    return CachedCluster(cluster, ours(CONFIG_MAP), [namespace])


@pytest.fixture(autouse=True)
def empty(cluster: Cluster, namespace: str) -> Iterator[None]:
    yield
    for each in cluster.all(CONFIG_MAP, namespace, kserve.MANAGED):
        cluster.delete(CONFIG_MAP, namespace, each["metadata"]["name"])


def test_what_others_do_is_seen_and_told(cluster: Cluster, cached: CachedCluster, namespace: str) -> None:
    cluster.apply(config(namespace, "there"), CONFIG_MAP)
    cluster.apply(config(namespace, "foreign", labels={}), CONFIG_MAP)
    heard = Heard()
    with watched(cached, cluster, heard):
        assert cached.get(CONFIG_MAP, namespace, "there") is not None
        assert cached.get(CONFIG_MAP, namespace, "foreign") is None
        cluster.apply(config(namespace, "new", "1"), CONFIG_MAP)
        eventually(lambda: "added new" in heard.names, 10)
        cluster.apply(config(namespace, "new", "2"), CONFIG_MAP)
        eventually(lambda: "modified new" in heard.names, 10)
        found = cached.all(CONFIG_MAP, namespace, kserve.labels(NAME))
        assert [each["metadata"]["name"] for each in found] == ["new", "there"]
        assert found[0]["data"] == {"value": "2"}
        cluster.delete(CONFIG_MAP, namespace, "there")
        eventually(lambda: "deleted there" in heard.names, 10)
        assert cached.get(CONFIG_MAP, namespace, "there") is None
        # Without its label an object is none of ours any more.
        bare = {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}
        cluster.merge(CONFIG_MAP, namespace, "new", bare)
        eventually(lambda: cached.get(CONFIG_MAP, namespace, "new") is None, 10)
        # Several watches have ended meanwhile, and others gone on.
        cluster.apply(config(namespace, "late"), CONFIG_MAP)
        eventually(lambda: cached.get(CONFIG_MAP, namespace, "late") is not None, 10)
    cluster.delete(CONFIG_MAP, namespace, "new")
    cluster.delete(CONFIG_MAP, namespace, "foreign")


def test_own_writes_are_seen_at_once(cluster: Cluster, cached: CachedCluster, namespace: str) -> None:
    [store] = cached.stores
    store.replace(cluster.pages(store.selection))
    store.synced.set()  # and nobody watches
    cached.apply(config(namespace, "own", "1"), CONFIG_MAP)
    cached.apply(config(namespace, "own", "2"), CONFIG_MAP)
    found = cached.get(CONFIG_MAP, namespace, "own")
    assert found is not None
    assert found["data"] == {"value": "2"}
    cluster.apply(config(namespace, "own", "3"), CONFIG_MAP, manager="somebody")
    assert cached.fresh(CONFIG_MAP, namespace, "own") == cluster.get(CONFIG_MAP, namespace, "own")
    found = cached.get(CONFIG_MAP, namespace, "own")
    assert found is not None
    assert found["data"] == {"value": "3"}


def test_a_watch_that_is_told_nothing_is_made_again_and_what_went_meanwhile_is_gone(
    cluster: Cluster, cached: CachedCluster, namespace: str
) -> None:
    cluster.apply(config(namespace, "going"), CONFIG_MAP)
    heard = Heard()
    with watched(cached, cluster):
        pass
    [store] = cached.stores
    store.synced.set()
    assert cached.get(CONFIG_MAP, namespace, "going") is not None
    cluster.delete(CONFIG_MAP, namespace, "going")
    cluster.apply(config(namespace, "came"), CONFIG_MAP)
    with watched(cached, cluster, heard):
        eventually(lambda: set(heard.names) >= {"deleted going", "added came"}, 10)
        assert cached.get(CONFIG_MAP, namespace, "going") is None


class Forgetful(Cluster):
    """The first watch asks for what the server does not remember."""

    asked: list[str] = []

    def watch(self, wanted: Selection, since: str, seconds: int) -> Iterator[Change]:
        self.asked.append(since)
        return super().watch(wanted, "1" if len(self.asked) == 1 else since, seconds)


@pytest.mark.usefixtures("definitions")
def test_after_a_410_everything_is_listed_again(api: client.ApiClient, cluster: Cluster, namespace: str) -> None:
    with pytest.raises(Gone):
        list(cluster.watch(Selection(MODEL_DEPLOYMENT, namespace), "1", 2))
    cached = CachedCluster(cluster, ours(MODEL_DEPLOYMENT), [namespace])
    forgetful = Forgetful(api)
    with watched(cached, forgetful):
        eventually(lambda: len(forgetful.asked) > 1, 20)
        cluster.apply(deployment(namespace, "after"), MODEL_DEPLOYMENT)
        eventually(lambda: cached.get(MODEL_DEPLOYMENT, namespace, "after") is not None, 10)
    cluster.delete(MODEL_DEPLOYMENT, namespace, "after")


@pytest.mark.usefixtures("definitions")
def test_what_is_watched_without_labels_is_found_by_its_namespace(cluster: Cluster, namespace: str) -> None:
    cached = CachedCluster(cluster, [Selection(MODEL_DEPLOYMENT)], [namespace])
    with watched(cached, cluster):
        cluster.apply(deployment(namespace, "one"), MODEL_DEPLOYMENT)
        eventually(lambda: cached.get(MODEL_DEPLOYMENT, namespace, "one") is not None, 10)
        [found] = cached.all(MODEL_DEPLOYMENT, namespace)
        assert (found["kind"], found["spec"]["model"]["name"]) == (MODEL_DEPLOYMENT.name, "one")
    cluster.delete(MODEL_DEPLOYMENT, namespace, "one")


def test_a_kind_that_is_not_there_has_no_objects(cluster: Cluster, namespace: str) -> None:
    unknown = Kind("Gadget", "example.com/v1", "gadgets")
    cached = CachedCluster(cluster, ours(unknown))
    with watched(cached, cluster):
        assert cached.get(unknown, namespace, "one") is None
        assert cached.all(unknown, namespace, kserve.labels(NAME)) == []


def test_while_it_is_not_watched_the_server_is_asked(cluster: Cluster, cached: CachedCluster, namespace: str) -> None:
    cluster.apply(config(namespace, "direct"), CONFIG_MAP)
    found = cached.get(CONFIG_MAP, namespace, "direct")
    assert found == cluster.get(CONFIG_MAP, namespace, "direct")
    assert [each["metadata"]["name"] for each in cached.all(CONFIG_MAP, namespace, kserve.labels(NAME))] == ["direct"]


class OneVersion:
    """A registry with every version there is."""

    def get(self, name: str, which: int | str) -> ModelVersion:
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        lineage = Lineage(
            as_of=moment, data_digest="d", code_digest="c", schema_digest="s", parameters={}, pipeline_run="p"
        )
        number = int(which)
        return ModelVersion(
            name=name, version=number, archive="a.mar", digest=f"sha256:{number}", run="r", lineage=lineage
        )


@pytest.fixture
def kinds(kubectl: Kubectl, definitions: None) -> Iterator[None]:
    """KServe's InferenceService and the Gateway API's HTTPRoute; where they were not there they go again."""
    before = set(kubectl("get", "crd", "--output=name").split())
    made = []
    for module, path in WATCHED:
        for each in documents((download(module) / path).read_text(encoding="utf-8")):
            each["metadata"].pop("annotations" if "kserve" in path else "", None)
            made.append(f"customresourcedefinition.apiextensions.k8s.io/{each['metadata']['name']}")
            if made[-1] not in before:
                kubectl("create", "--filename=-", stdin=json.dumps(each))
    established(kubectl, *made)
    yield
    if new := [each for each in made if each not in before]:
        kubectl("delete", *new)


@pytest.mark.usefixtures("kinds")
def test_nothing_is_deleted_on_the_word_of_a_copy(cluster: Cluster, namespace: str) -> None:
    owner = cluster.apply(deployment(namespace, NAME), MODEL_DEPLOYMENT)
    spec = ModelDeploymentSpec.model_validate(owner["spec"], by_alias=True, by_name=False)
    cached = CachedCluster(cluster, ours(*CHILDREN), [namespace])
    traffic = GatewayTraffic(cached, owner, spec, OneVersion(), Front("serinus-system", "serinus", "example"))
    traffic.keep(Shares(stable=1, canary=2))
    _put(traffic, cluster, Shares(stable=2))
    with watched(cached, cluster):
        assert traffic.in_force()
    for store in cached.stores:
        store.synced.set()  # and nobody watches any more
    late = datetime.now(UTC) + DRAIN + timedelta(minutes=1)
    # Somebody else has put version 1 in front again, which the copy does not know.
    _put(traffic, cluster, Shares(stable=1))
    assert traffic.tidy(Shares(stable=2), late) == []
    _put(traffic, cluster, Shares(stable=2))
    assert cached.fresh(HTTP_ROUTE, namespace, NAME) is not None
    assert traffic.tidy(Shares(stable=2), late) == [1]
    eventually(lambda: cluster.get(INFERENCE_SERVICE, namespace, f"{NAME}-v1") is None, 20)
    assert cluster.get(INFERENCE_SERVICE, namespace, f"{NAME}-v2") is not None
    cluster.delete(MODEL_DEPLOYMENT, namespace, NAME)


@pytest.mark.usefixtures("kinds")
def test_the_way_for_copies_is_there_while_some_may_come(cluster: Cluster, namespace: str) -> None:
    owner = cluster.apply(deployment(namespace, NAME), MODEL_DEPLOYMENT)
    spec = ModelDeploymentSpec.model_validate(owner["spec"], by_alias=True, by_name=False)
    front = Front("serinus-system", "serinus", "example")
    traffic = GatewayTraffic(CachedCluster(cluster, ()), owner, spec, OneVersion(), front)
    late = datetime.now(UTC) + DRAIN + timedelta(minutes=1)

    # KServe gives our labels to what it makes.
    metadata = {"name": kserve.backend(NAME, 2), "namespace": namespace, "labels": kserve.labels(NAME, 2)}
    theirs = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}]}}
    uid = cluster.apply(theirs, SERVICE)["metadata"]["uid"]

    def ways() -> list[str]:
        found = {each["metadata"]["name"]: each for each in cluster.all(SERVICE, namespace, kserve.labels(NAME))}
        assert found[metadata["name"]]["metadata"]["uid"] == uid
        return [name for name in found if name.endswith("-copies")]

    copied, stepped = Shares(stable=1, canary=2, shadow=50), Shares(stable=1, canary=2, weight=5)
    traffic.keep(stepped)
    assert ways() == []
    # Where copies will come, the way is there before they do.
    shadowing = spec.model_copy(update={"rollout": Rollout(shadow=Shadow())})
    replace(traffic, spec=shadowing).keep(Shares(stable=1, canary=2))
    assert ways() == [kserve.copies(NAME, 2)]
    traffic.keep(copied)
    assert ways() == [kserve.copies(NAME, 2)]
    _put(traffic, cluster, copied)
    assert traffic.tidy(copied, late) == []
    assert ways() == [kserve.copies(NAME, 2)]
    # The Gateway may still send some until it has the new route.
    assert traffic.tidy(stepped, late) == []
    assert ways() == [kserve.copies(NAME, 2)]
    _put(traffic, cluster, stepped)
    assert traffic.tidy(stepped, late) == []
    assert ways() == []
    assert cluster.get(INFERENCE_SERVICE, namespace, kserve.version_name(NAME, 2)) is not None
    cluster.delete(SERVICE, namespace, kserve.backend(NAME, 2))
    for number in (1, 2):
        cluster.delete(INFERENCE_SERVICE, namespace, kserve.version_name(NAME, number))
    cluster.delete(HTTP_ROUTE, namespace, NAME)
    cluster.delete(MODEL_DEPLOYMENT, namespace, NAME)


def _put(traffic: GatewayTraffic, cluster: Cluster, shares: Shares) -> None:
    """Write the route as another operator would, and take it over as a Gateway would."""
    wanted = gateway.route(traffic.deployment, traffic.spec.traffic, shares, traffic.front)
    wanted["metadata"]["annotations"][CHANGED_ANNOTATION] = datetime.now(UTC).isoformat()
    route = cluster.apply(wanted, HTTP_ROUTE)
    condition = {
        "type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": route["metadata"]["generation"],
    }  # fmt: skip
    parent = {"parentRef": route["spec"]["parentRefs"][0], "controllerName": "example.com/gateway"}
    where = {key: route["metadata"][key] for key in ("name", "namespace")}
    status = {"apiVersion": route["apiVersion"], "kind": route["kind"], "metadata": where}
    cluster.apply({**status, "status": {"parents": [{**parent, "conditions": [condition]}]}}, HTTP_ROUTE, status=True)
