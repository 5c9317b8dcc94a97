"""Who may do what, as a real API server's authorizer says: what is needed, and nothing else."""

from __future__ import annotations

import json

import pytest
from kubernetes import client

from tests.cluster.conftest import ROOT, Kubectl
from tests.cluster.objects import OVERLAYS, SYSTEM, Object, key, rendered
from tests.cluster.tools import program

MAY = [
    ("watch", "modeldeployments.serinus.dev", "flights"),
    ("patch", "modeldeployments.serinus.dev/status", "flights"),
    ("update", "modeldeployments.serinus.dev/finalizers", "flights"),
    ("patch", "continuoustrainings.serinus.dev/status", "flights"),
    ("create", "inferenceservices.serving.kserve.io", "flights"),
    ("delete", "inferenceservices.serving.kserve.io", "flights"),
    ("patch", "httproutes.gateway.networking.k8s.io", "flights"),
    ("create", "configmaps", "flights"),
    ("delete", "services", "flights"),
    ("create", "poddisruptionbudgets.policy", "flights"),
    ("create", "deployments.apps", "flights"),
    ("delete", "deployments.apps", "flights"),
    ("list", "pods", "flights"),
    ("create", "events.events.k8s.io", "flights"),
    ("create", "leases.coordination.k8s.io", SYSTEM),
    ("update", "leases.coordination.k8s.io/serinus-operator", SYSTEM),
]
MAY_NOT = [
    ("get", "secrets", "flights"),
    ("list", "secrets", SYSTEM),
    ("create", "modeldeployments.serinus.dev", "flights"),
    ("delete", "modeldeployments.serinus.dev", "flights"),
    ("update", "modeldeployments.serinus.dev", "flights"),
    ("create", "pods", "flights"),
    ("delete", "pods", "flights"),
    ("create", "pods/exec", "flights"),
    ("update", "deployments.apps", "flights"),
    ("create", "statefulsets.apps", "flights"),
    ("create", "jobs.batch", "flights"),
    ("create", "secrets", "flights"),
    ("create", "events", "flights"),
    ("update", "leases.coordination.k8s.io/other", SYSTEM),
    ("create", "leases.coordination.k8s.io", "flights"),
    ("patch", "clusterservingruntimes.serving.kserve.io/serinus", "flights"),
    ("patch", "gateways.gateway.networking.k8s.io", SYSTEM),
    ("create", "clusterroles.rbac.authorization.k8s.io", SYSTEM),
    ("create", "serviceaccounts/token", SYSTEM),
    ("delete", "namespaces", "flights"),
    ("list", "namespaces", "flights"),
    ("get", "customresourcedefinitions.apiextensions.k8s.io", "flights"),
]


MAY_OF_PIPELINES = [
    ("create", "runs.pipelines.kubeflow.org", "flights"),
    ("list", "runs.pipelines.kubeflow.org", "flights"),
    ("terminate", "runs.pipelines.kubeflow.org", "flights"),
    ("delete", "runs.pipelines.kubeflow.org", "flights"),
    ("create", "experiments.pipelines.kubeflow.org", "flights"),
    ("create", "pipelines.pipelines.kubeflow.org", "flights"),
    ("list", "pipelines.pipelines.kubeflow.org", "flights"),
]
"""What Kubeflow Pipelines asks about, for its objects are none of the API server's."""
MAY_NOT_OF_PIPELINES = [
    ("retry", "runs.pipelines.kubeflow.org", "flights"),
    ("delete", "experiments.pipelines.kubeflow.org", "flights"),
    ("delete", "pipelines.pipelines.kubeflow.org", "flights"),
    ("create", "jobs.pipelines.kubeflow.org", "flights"),
    ("create", "workflows.argoproj.io", "flights"),
]


def allowed(api: client.ApiClient, who: str, verb: str, what: str, namespace: str) -> bool:
    """What the API server's own authorizer says."""
    resource, _, rest = what.partition("/")
    name, _, group = resource.partition(".")
    attributes = {"verb": verb, "resource": name, "group": group, "namespace": namespace}
    if rest in ("status", "finalizers", "exec", "token"):
        attributes["subresource"] = rest
    elif rest:
        attributes["name"] = rest
    groups = ["system:serviceaccounts", "system:authenticated"]
    review = {"spec": {"user": who, "groups": groups, "resourceAttributes": attributes}}
    return bool(client.AuthorizationV1Api(api).create_subject_access_review(review).status.allowed)


def test_operator_may_do_its_work_and_nothing_else(system: dict[str, list[Object]], api: client.ApiClient) -> None:
    own = next(each for each in system["production"] if each["kind"] == "Deployment")["metadata"]["namespace"]
    who = f"system:serviceaccount:{own}:serinus-operator"

    def may(verb: str, what: str, where: str) -> bool:
        return allowed(api, who, verb, what, own if where == SYSTEM else where)

    assert [each for each in (*MAY, *MAY_OF_PIPELINES) if not may(*each)] == []
    assert [each for each in (*MAY_NOT, *MAY_NOT_OF_PIPELINES) if may(*each)] == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_operator_is_known_to_pipelines_only_where_they_ask(name: str, kustomized: dict[str, list[Object]]) -> None:
    """Where Kubeflow tells users apart it has a token for Kubeflow Pipelines alone, and the right to use them."""
    objects = kustomized[name]
    roles = {each["metadata"]["name"] for each in objects if each["kind"] == "ClusterRole"}
    settings = next(each["data"] for each in objects if key(each)[2] == "serinus-settings")
    operator = next(each for each in objects if (each["kind"], key(each)[2]) == ("Deployment", "serinus-operator"))
    pod = operator["spec"]["template"]["spec"]
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    tokens = [
        (source["serviceAccountToken"]["audience"], f"{mounts[volume['name']]}/{source['serviceAccountToken']['path']}")
        for volume in pod["volumes"]
        for source in volume.get("projected", {}).get("sources", ())
    ]
    asked = name == "kubeflow"
    assert tokens == [("pipelines.kubeflow.org", settings.get("SERINUS_PIPELINES_TOKEN_FILE"))] * asked
    assert ("serinus-operator-pipelines" in roles) is asked
    assert (settings.get("SERINUS_PIPELINES_MULTI_USER") == "true") is asked


def test_pipelines_may_hand_a_version_over(
    system: dict[str, list[Object]], kubectl: Kubectl, api: client.ApiClient
) -> None:
    own = next(each for each in system["production"] if each["kind"] == "Deployment")["metadata"]["namespace"]
    objects = rendered(program("kustomize"), "build", ROOT / "manifests" / "namespace" / "standalone")
    binding = next(each for each in objects if each["kind"] == "RoleBinding")
    binding["metadata"]["namespace"] = own
    binding["roleRef"]["name"] += f"-{own}"
    kubectl("apply", "--server-side", "--filename=-", stdin=json.dumps(binding))
    runner = "system:serviceaccount:kubeflow:pipeline-runner"
    may = [("get", "modeldeployments.serinus.dev"), ("patch", "modeldeployments.serinus.dev")]
    may_not = [
        ("delete", "modeldeployments.serinus.dev"),
        ("patch", "modeldeployments.serinus.dev/status"),
        ("patch", "continuoustrainings.serinus.dev"),
        ("create", "inferenceservices.serving.kserve.io"),
        ("get", "secrets"),
    ]
    assert [each for each in may if not allowed(api, runner, *each, own)] == []
    assert [each for each in may_not if allowed(api, runner, *each, own)] == []
    assert not allowed(api, runner, "patch", "modeldeployments.serinus.dev", "default")
