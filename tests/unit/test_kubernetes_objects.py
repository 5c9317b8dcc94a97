"""What is written to a cluster for a ModelDeployment: names, shares, safety, and when it counts as being so."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.control.pod import read_source
from serinus.control.rollout_cluster import _told, holds
from serinus.core.errors import InvalidInput
from serinus.core.rollout import Shares
from serinus.core.serving import PodConfig
from serinus.core.spec.deployment import ModelDeploymentSpec, Predictor, Replicas
from serinus.core.spec.rollout import Rollout
from serinus.core.spec.traffic import Sticky, Traffic
from serinus.core.version import Lineage, ModelVersion
from serinus.engines import kubernetes_gateway as gateway
from serinus.engines import kubernetes_kserve as kserve
from serinus.engines.kubernetes import event
from serinus.engines.kubernetes_gateway import Front
from serinus.engines.specfile import read_service

NOW = datetime(2026, 11, 26, tzinfo=UTC)
FRONT = Front("serinus-system", "serinus", "models.example")
OWNER = {
    "apiVersion": "serinus.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "flights", "namespace": "demo", "uid": "1234", "generation": 1},
}
VERSION = ModelVersion(
    name="flights",
    version=3,
    archive="flights.mar",
    digest="sha256:abc",
    run="r",
    lineage=Lineage(as_of=NOW, data_digest="d", code_digest="c", schema_digest="s", parameters={}, pipeline_run="p"),
)
SPEC = read_service(Path("examples/flights")).deployment.spec


def served(spec: ModelDeploymentSpec = SPEC, *, copied: bool = False) -> kserve.Served:
    config = PodConfig(version=3, digest=VERSION.digest, deployment=_told(spec))
    return kserve.Served(OWNER, VERSION, config, copied)


def split(route: dict[str, Any]) -> dict[str, int]:
    return {each["name"]: each["weight"] for each in route["spec"]["rules"][-1]["backendRefs"]}


def test_one_version_gets_everything() -> None:
    route = gateway.route(OWNER, Traffic(), Shares(stable=3), FRONT)
    assert split(route) == {"flights-v3-predictor": 1}
    assert route["spec"]["hostnames"] == ["flights.demo.models.example"]
    assert gateway.shares_of(route) == Shares(stable=3)
    named = route["spec"]["rules"][0]
    assert [each["headers"][0]["value"] for each in named["matches"]] == ["stable", "3"]


@given(st.floats(0.001, 99.999))
def test_a_share_is_as_near_as_weights_can_be_and_never_none(weight: float) -> None:
    shares = Shares(stable=3, canary=4, weight=weight)
    found = split(gateway.route(OWNER, Traffic(), shares, FRONT))
    assert sum(found.values()) == 10_000
    assert 1 <= found["flights-v4-predictor"] <= 9_999
    assert abs(found["flights-v4-predictor"] - weight * 100) <= 1


def test_a_canary_with_everything_leaves_stable_warm_but_out_of_the_split() -> None:
    route = gateway.route(OWNER, Traffic(), Shares(stable=3, canary=4, weight=100), FRONT)
    assert split(route) == {"flights-v4-predictor": 1}


def test_copies_go_to_the_canarys_own_port() -> None:
    whole = gateway.route(OWNER, Traffic(), Shares(stable=3, canary=4, shadow=100), FRONT)["spec"]["rules"][-1]
    (mirror,) = whole["filters"]
    assert mirror["requestMirror"]["backendRef"]["name"] == "flights-v4-copies"
    assert "fraction" not in mirror["requestMirror"]
    part = gateway.route(OWNER, Traffic(), Shares(stable=3, canary=4, shadow=12.5), FRONT)["spec"]["rules"][-1]
    assert part["filters"][0]["requestMirror"]["fraction"] == {"numerator": 1250, "denominator": 10_000}


def test_a_version_that_is_asked_for_by_role_is_told_its_number() -> None:
    route = gateway.route(OWNER, Traffic(), Shares(stable=3, canary=4, weight=5), FRONT)
    canary = route["spec"]["rules"][1]
    assert [each["headers"][0]["value"] for each in canary["matches"]] == ["canary", "4"]
    setting = canary["filters"][0]["requestHeaderModifier"]["set"]
    assert setting == [{"name": "x-serinus-version", "value": "4"}]
    off = gateway.route(OWNER, Traffic(version_header=None), Shares(stable=3), FRONT)
    assert len(off["spec"]["rules"]) == 1


def test_what_a_gateway_cannot_do_is_said() -> None:
    assert gateway.unsupported(Traffic()) == []
    assert "sticky" in gateway.unsupported(Traffic(sticky=Sticky(header="x-user")))[0]


@pytest.mark.parametrize(
    ("conditions", "taken_over"),
    [
        ([], False),
        ([{"type": "Accepted", "status": "True", "observedGeneration": 2}], True),
        ([{"type": "Accepted", "status": "True", "observedGeneration": 1}], False),
        ([{"type": "Accepted", "status": "False", "observedGeneration": 2}], False),
    ],
)
def test_a_route_is_in_force_once_the_gateway_has_seen_it(conditions: list[Any], taken_over: bool) -> None:
    route = {"metadata": {"generation": 2}, "status": {"parents": [{"conditions": conditions}]}}
    assert gateway.in_force(route) is taken_over


def test_objects_belong_to_their_owner_and_are_told_apart() -> None:
    assert [kind.name for kind, _ in kserve.objects(served())] == ["ConfigMap", "InferenceService"]
    found = dict(kserve.objects(served(copied=True)))
    assert [kind.name for kind in found] == ["ConfigMap", "InferenceService", "Service"]
    for each in found.values():
        assert each["metadata"]["namespace"] == "demo"
        assert each["metadata"]["ownerReferences"][0]["uid"] == "1234"
        assert kserve.version_of(each) == 3


def test_pods_get_the_archive_that_was_registered_and_no_other() -> None:
    found = {kind.name: each for kind, each in kserve.objects(served())}
    model = found["InferenceService"]["spec"]["predictor"]["model"]
    assert read_source(model["storageUri"]) == ("flights", 3, "sha256:abc")
    assert all(each["readOnly"] for each in model["volumeMounts"])


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("flights/3", ("flights", 3, None)),
        ("flights/champion", ("flights", "champion", None)),
        ("serinus://flights/3?digest=sha256:a", ("flights", 3, "sha256:a")),
    ],
)
def test_a_source_names_a_version(text: str, source: tuple[Any, ...]) -> None:
    assert read_source(text) == source


@pytest.mark.parametrize("text", ["flights", "/3", "flights/3/4", "serinus://flights", ""])
def test_what_names_no_version_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="no model version"):
        read_source(text)


def test_pods_are_made_anew_when_they_are_told_something_else_and_only_then() -> None:
    def names(spec: ModelDeploymentSpec) -> tuple[str, str]:
        found = {kind.name: each for kind, each in kserve.objects(served(spec))}
        volumes = found["InferenceService"]["spec"]["predictor"]["volumes"]
        mounted = next(each["configMap"]["name"] for each in volumes if "configMap" in each)
        assert mounted == found["ConfigMap"]["metadata"]["name"]
        return found["InferenceService"]["metadata"]["name"], mounted

    first = names(SPEC)
    assert names(SPEC.model_copy(update={"rollout": Rollout()})) == first, "a policy is not the pods' business"
    other = names(SPEC.model_copy(update={"predictor": Predictor(queue_size=7)}))
    assert other[0] == first[0]
    assert other[1] != first[1]
    config = PodConfig.model_validate_json(dict(kserve.objects(served()))[kserve.CONFIG_MAP]["data"]["serving.json"])
    assert config == served().config


def test_several_pods_are_guarded_and_scaled() -> None:
    replicas = Replicas(minimum=2, maximum=5, cpu_percent=60)
    spec = SPEC.model_copy(update={"predictor": Predictor(replicas=replicas)})
    found = {kind.name: each for kind, each in kserve.objects(served(spec))}
    assert found["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    service = found["InferenceService"]
    assert service["metadata"]["annotations"]["serving.kserve.io/targetUtilizationPercentage"] == "60"
    assert (service["spec"]["predictor"]["minReplicas"], service["spec"]["predictor"]["maxReplicas"]) == (2, 5)


def test_readiness_is_of_what_was_asked_for_last() -> None:
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "observedGeneration": 2}
    assert kserve.is_ready({"metadata": {"generation": 2}, "status": ready})
    assert not kserve.is_ready({"metadata": {"generation": 3}, "status": ready})
    assert not kserve.is_ready({"metadata": {"generation": 2}})


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "flights-v3-x"}, "status": status}


def test_what_keeps_pods_from_being_ready_is_told_in_their_own_words() -> None:
    pulling = {"name": "kserve-container", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such"}}}
    found = kserve.trouble([pod(), pod(containerStatuses=[pulling])])
    assert found == kserve.Trouble("kserve-container of pod flights-v3-x: ImagePullBackOff: no such")
    ended = {"terminated": {"exitCode": 1, "message": "no module named x\n"}}
    crashing = {"name": "kserve-container", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended}
    found = kserve.trouble([pod(containerStatuses=[crashing])])
    assert found is not None
    assert "CrashLoopBackOff: no module named x" in found.words
    assert not found.broken
    again = {"name": "kserve-container", "ready": False, "state": {"running": {}}, "lastState": ended}
    found = kserve.trouble([pod(containerStatuses=[again])])
    assert found == kserve.Trouble("kserve-container of pod flights-v3-x: no module named x")
    ended["terminated"]["message"] = "a line before\n" * 40 + "RuntimeError: this is why\n"
    found = kserve.trouble([pod(containerStatuses=[again])])
    assert found is not None
    assert found.words.startswith("kserve-container of pod flights-v3-x: ")
    assert found.words.endswith("RuntimeError: this is why")
    assert len(found.words) < 350
    assert kserve.trouble([pod(containerStatuses=[{**again, "ready": True}])]) is None
    pending = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}
    found = kserve.trouble([pod(conditions=[pending])])
    assert found is not None
    assert "0/1 nodes" in found.words
    assert kserve.trouble([pod(containerStatuses=[{"name": "kserve-container", "state": {"running": {}}}])]) is None


def test_an_archive_that_is_not_the_registered_one_never_will_be() -> None:
    ended = {"terminated": {"exitCode": 5, "message": "expected sha256:abc, found sha256:def"}}
    init = {"name": "storage-initializer", "state": ended}
    found = kserve.trouble([pod(initContainerStatuses=[init])])
    assert found is not None
    assert found.broken
    assert "found sha256:def" in found.words


@pytest.mark.parametrize(
    ("wanted", "found", "so"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 2], "c": 3}}, True),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1]}}, False),
        ({"a": 1}, {}, False),
        ({"a": {}, "b": ""}, {}, True),
        ([{"a": 1}], [{"a": 1, "added": True}], True),
        ([{"a": 1}], [{"a": 1}, {"a": 2}], False),
    ],
)
def test_what_others_add_is_left_alone_and_what_they_change_is_seen(wanted: Any, found: Any, so: bool) -> None:
    assert holds(wanted, found) is so


def test_an_event_is_short_and_has_a_name_of_its_own() -> None:
    one = event(OWNER, "RolledBack", "x" * 5000, NOW, warning=True)
    assert len(one["note"]) == 1024
    assert one["type"] == "Warning"
    assert one["metadata"]["name"].startswith("flights.")
    assert json.dumps(one)
