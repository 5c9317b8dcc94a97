"""What a rollout rests on goes away amid it, and comes back: the stable version answers on, nothing is decided without
evidence, nothing is decided twice, and nothing is left behind. docs/reliability.md tells the numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from serinus.core.rollout import Shares
from serinus.engines.kubernetes import (
    CONFIG_MAP,
    DISRUPTION_BUDGET,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    MODEL_DEPLOYMENT,
    POD,
    SERVICE,
)
from serinus.engines.kubernetes_kserve import MANAGED
from tests.cluster.conftest import CRDS, Kubectl, established
from tests.cluster.node.conftest import Faults
from tests.support import eventually
from tests.support_orders import Traffic
from tests.support_report import record
from tests.support_rollout_cluster import ClusterSite, OperatorProcess, cluster_policy, patient_policy
from tests.support_rollout_laptop import NAME
from tests.support_variants import harmless

pytestmark = pytest.mark.timeout(900)

IMAGES = (
    (("clusterservingruntime", "serinus"), "/spec/containers/0/image"),
    (("clusterstoragecontainer", "serinus"), "/spec/container/image"),
)
OURS = (INFERENCE_SERVICE, HTTP_ROUTE, SERVICE, CONFIG_MAP, DISRUPTION_BUDGET)
DEFINITION = "modeldeployments.serinus.dev"


def told(fault: str, traffic: Traffic, **more: float) -> None:
    """Put down what its clients saw of a fault."""
    record(f"cluster_{fault}", requests=traffic.total, failed=traffic.failed, **more)


def test_prometheus_is_gone_and_nothing_is_decided_until_it_is_back(site: ClusterSite, faults: Faults) -> None:
    version = site.halfway()
    with site.traffic() as traffic:
        with faults.without("prometheus"):
            site.until("evidence is missed", lambda: "Prometheus" in " ".join(site.last_reasons()), 60)
            site.ask("approve", weight=100)
            site.until("it is approved", lambda: site.last_action() == "approve", 60)
            entries = site.ledger.count()
            site.until("it looks again and again", lambda: site.ledger.count() >= entries + 5, 60)
            held = [site.ledger.entry(number) for number in range(entries + 1, site.ledger.count() + 1)]
            assert {each.action for each in held} == {"hold"}
            assert all("evidence is incomplete: Prometheus" in " ".join(each.reasons) for each in held)
            assert site.shares() == Shares(stable=site.champion, canary=version, weight=50)
        site.until("promoted", lambda: site.status().get("stable") == version, 300)
        site.until("the old version is gone", lambda: site.settled(version), 300)
    assert traffic.failed == 0, traffic.errors()
    site.require_ledger()
    told("prometheus", traffic, held=len(held))


def test_redis_is_gone_and_answers_follow_the_policy_and_earn_nothing(site: ClusterSite, faults: Faults) -> None:
    site.calm()
    before = site.champion
    site.deploy(patient_policy(approvals=[]))
    with site.traffic() as traffic:
        traffic.wait_for(100)
        assert traffic.bare == 0
        with emptied(site), faults.without("redis"):
            version = site.challenger("without-redis", harmless).version
            site.until("it is held", lambda: "lacks too many features" in " ".join(site.last_reasons()), 400)
            assert site.shares() == Shares(stable=before, canary=version, weight=50)
        bare = traffic.bare
        site.until("features are there again", lambda: not without_features(traffic), 60)
        site.until("promoted", lambda: site.status().get("stable") == version, 240)
        site.until("the old version is gone", lambda: site.settled(version), 300)
    assert traffic.failed == 0, traffic.errors()
    assert bare > 100
    site.require_ledger()
    told("redis", traffic, without_features=bare)


@contextmanager
def emptied(site: ClusterSite) -> Iterator[None]:
    """Redis loses what it holds; it is filled again, whatever happened meanwhile."""
    try:
        yield
    finally:
        site.fill()


def without_features(traffic: Traffic) -> bool:
    """Whether any of the next hundred answers is made without features."""
    before = traffic.bare
    traffic.wait_for(100)
    return traffic.bare > before


def test_the_api_server_is_restarted_and_the_rollout_goes_on(
    site: ClusterSite, faults: Faults, operator: OperatorProcess
) -> None:
    version, restarts = site.halfway(), operator.restarts
    before = site.champion
    with site.traffic() as traffic:
        with faults.without("kube-apiserver"):
            traffic.wait_for(500)
        site.decides(300)
        assert site.shares() == Shares(stable=before, canary=version, weight=50)
        site.ask("approve", weight=100)
        site.until("promoted", lambda: site.status().get("stable") == version, 300)
        site.until("the old version is gone", lambda: site.settled(version), 300)
    assert traffic.failed == 0, traffic.errors()
    assert site.actions()[-2:] == ["approve", "promote"]
    site.require_ledger()
    told("api_server", traffic, operator_restarts=operator.restarts - restarts)


def test_the_kubelet_is_restarted_and_pods_answer_on(site: ClusterSite, faults: Faults) -> None:
    version = site.halfway()
    before = running(site)
    with site.traffic() as traffic:
        with faults.without("kubelet"):
            traffic.wait_for(300)
        beat = heartbeat(site)
        site.until("the node is heard of", lambda: heartbeat(site) > beat, 300)
        traffic.wait_for(300)
        site.decides()
    assert running(site) == before, "no container was started again"
    assert traffic.failed == 0, traffic.errors()
    assert site.shares() == Shares(stable=site.champion, canary=version, weight=50)
    told("kubelet", traffic)


def running(site: ClusterSite) -> set[str]:
    """The containers of the namespace's pods."""
    pods = site.cluster.all(POD, site.namespace)
    return {each["containerID"] for pod in pods for each in pod["status"].get("containerStatuses", ())}


def heartbeat(site: ClusterSite) -> str:
    """When the kubelet has told of its node last."""
    lease = json.loads(site.kubectl("get", "leases", "--namespace=kube-node-lease", "--output=json"))
    return max(each["spec"]["renewTime"] for each in lease["items"])


def test_an_image_that_cannot_be_pulled_takes_the_new_version_back_and_stable_answers_on(site: ClusterSite) -> None:
    site.calm()
    before = site.champion
    pace = {"minimumDuration": "1s", "minimumRequests": 50, "maximumDuration": "5m", "readyTimeout": "45s"}
    site.deploy(cluster_policy(pace=pace))
    with unpullable(site.kubectl), site.traffic() as traffic:
        version = site.challenger("unpullable", harmless).version
        site.until("rolled back", lambda: site.taken_back(version), 180)
        site.until("it is gone", lambda: site.settled(before), 300)
        traffic.wait_for(100)
    words = site.taken_back(version) or ""
    assert words.startswith(f"version {version} was not ready for 45s: ")
    assert any(each in words for each in ("ImagePullBackOff", "ErrImagePull")), words
    assert (traffic.failed, set(traffic.versions)) == (0, {before})
    assert site.champion == before
    site.require_ledger()
    told("image", traffic)


@contextmanager
def unpullable(kubectl: Kubectl) -> Iterator[None]:
    """An upgrade of our image to one that nobody has."""
    places = [path.replace("/0", "[0]").replace("/", ".") for _, path in IMAGES]
    before = [
        kubectl("get", *each, f"--output=jsonpath={{{place}}}") for (each, _), place in zip(IMAGES, places, strict=True)
    ]

    def put(images: list[str]) -> None:
        for (each, path), image in zip(IMAGES, images, strict=True):
            patch = [{"op": "replace", "path": path, "value": image}]
            kubectl("patch", *each, "--type=json", f"--patch={json.dumps(patch)}")

    put(["localhost/serinus-serving:of-nobody"] * len(IMAGES))
    try:
        yield
    finally:
        put(before)


def test_the_definition_is_deleted_and_restored_and_the_ledger_goes_on(
    site: ClusterSite, operator: OperatorProcess, kubectl: Kubectl
) -> None:
    version = site.halfway()
    before, entries, policy = site.champion, site.ledger.count(), patient_policy()
    with site.traffic() as earlier:
        earlier.wait_for(100)
    try:
        kubectl("delete", "crd", DEFINITION, "--wait", "--timeout=60s")
        eventually(lambda: not any(site.cluster.all(kind, site.namespace, MANAGED) for kind in OURS), 120)
    finally:
        kubectl("apply", "--server-side", f"--filename={CRDS}")
        established(kubectl, f"crd/{DEFINITION}")
    eventually(lambda: kubectl("explain", "md.spec.rollout.pace"), 30)
    site.deploy(policy)
    # Without a route the Gateway did not even listen.
    site.until("it answers again", lambda: answers(site), 300)
    with site.traffic() as later:
        site.until("both versions do", lambda: site.shares() == Shares(stable=before, canary=version, weight=50), 300)
        site.until("the rollout goes on", site.waits, 300)
        later.wait_for(200)
    assert (earlier.failed, later.failed) == (0, 0), later.errors()
    assert site.ledger.count() > entries
    assert site.champion == before
    site.require_ledger()
    told("definition", later)


def answers(site: ClusterSite) -> bool:
    """Whether the model says through the Gateway that it is ready."""
    try:
        url = f"{site.gateway}/v2/models/{NAME}/ready"
        return httpx.get(url, headers={"Host": site.host}, timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def test_a_namespace_is_deleted_amid_a_rollout_and_nothing_is_left(
    site: ClusterSite, operator: OperatorProcess, kubectl: Kubectl
) -> None:
    site.calm()
    there = site.elsewhere(f"{site.namespace}-ends")
    kubectl("create", "namespace", there.namespace)
    there.prepare()
    there.deploy(patient_policy(), version=site.champion)
    there.until("it answers", lambda: there.condition("Ready").get("status") == "True", 300)
    with there.traffic() as traffic:
        there.deploy(patient_policy(), version=there.registered("ends", harmless).version)
        there.until("a rollout is on", there.waits, 300)
        kubectl("delete", "namespace", there.namespace, "--wait=false")
        failed = traffic.failed
        kubectl("wait", "--for=delete", f"namespace/{there.namespace}", "--timeout=180s")
    assert failed == 0
    operator.looks(2)
    failures = operator.counted("serinus_operator_errors_total")
    written = operator.log.stat().st_size
    operator.looks(4)
    with operator.log.open(encoding="utf-8") as log:
        log.seek(written)
        assert there.namespace not in log.read(), "the operator still looks for it"
    assert operator.counted("serinus_operator_errors_total") == failures
    left = [each for kind in (*OURS, POD, MODEL_DEPLOYMENT) for each in site.cluster.all(kind)]
    assert [each["metadata"]["name"] for each in left if each["metadata"]["namespace"] == there.namespace] == []
    there.require_ledger()
    assert site.condition("Ready")["status"] == "True"
    assert site.found(MODEL_DEPLOYMENT, NAME)
