"""What is installed: the overlays and the chart are the same objects, a real API server takes them, pods pass its
Pod Security admission, and accounts may do what they need and nothing else."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from tests.cluster.conftest import ROOT, Kubectl
from tests.cluster.testbed.modules import download
from tests.cluster.tools import FOREIGN, program

OVERLAYS = ("standalone", "production", "kubeflow")
CHART = ROOT / "charts" / "serinus"
SYSTEM = "serinus-system"
# A name that ends in the digest of its content.
GENERATED = re.compile(r"^(serinus-(?:settings|postgres|prometheus))-[a-z0-9]{10}$")
WORKLOADS = ("Deployment", "StatefulSet")
CRD = ("CustomResourceDefinition",)

Object = dict[str, Any]


def rendered(*command: str | Path) -> list[Object]:
    """The objects that a command prints."""
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


@pytest.fixture(scope="module")
def kustomized() -> dict[str, list[Object]]:
    """Each overlay's objects."""
    kustomize = program("kustomize")
    return {name: rendered(kustomize, "build", ROOT / "manifests" / "overlays" / name) for name in OVERLAYS}


@pytest.fixture(scope="module")
def charted() -> dict[str, list[Object]]:
    """The chart's objects, with the values that are to make those of each overlay."""
    helm = program("helm")
    return {
        name: rendered(helm, "template", "serinus", CHART, "--namespace", SYSTEM, "--values", _values(name))
        for name in OVERLAYS
    }


def _values(name: str) -> Path:
    return CHART / "ci" / f"{name}-values.yaml"


def key(found: Object) -> tuple[str, str, str]:
    metadata = found["metadata"]
    return found["kind"], metadata.get("namespace", ""), GENERATED.sub(r"\1", metadata["name"])


def comparable(found: Object) -> Object:
    """An object without what kustomize and Helm do in ways of their own: how a change of settings starts pods again,
    whether a Secret is written as text, what stays when a release goes."""
    text = re.sub(r'"(serinus-(?:settings|postgres|prometheus))-[a-z0-9]{10}"', r'"\1"', json.dumps(found))
    same: Object = json.loads(text)
    annotations = same["metadata"].get("annotations", {})
    annotations.pop("helm.sh/resource-policy", None)
    if not annotations:
        same["metadata"].pop("annotations", None)
    same.get("spec", {}).get("template", {}).get("metadata", {}).get("annotations", {}).pop("checksum/settings", None)
    if same["kind"] == "Secret":
        same["data"] = sorted({**same.get("data", {}), **same.pop("stringData", {})})
    if same["kind"] == "ConfigMap":
        same["metadata"].pop("labels", None)
        same["data"] = {name: content.strip() for name, content in same["data"].items()}
    return same


@pytest.mark.parametrize("name", OVERLAYS)
def test_chart_and_overlay_are_the_same_objects(
    name: str, kustomized: dict[str, list[Object]], charted: dict[str, list[Object]]
) -> None:
    ours = {key(each): comparable(each) for each in kustomized[name] if each["kind"] != "Namespace"}
    theirs = {
        key(each): comparable(each)
        for each in charted[name]
        if "helm.sh/hook" not in each["metadata"].get("annotations", {})
    }
    assert set(ours) == set(theirs)
    for which, wanted in ours.items():
        assert theirs[which] == wanted, which


@pytest.mark.parametrize("name", OVERLAYS)
def test_helm_finds_nothing_to_complain_about(name: str) -> None:
    command = [program("helm"), "lint", "--strict", "--quiet", "--namespace", SYSTEM, "--values", _values(name), CHART]
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def schemas(
    api: client.ApiClient,
    kustomized: dict[str, list[Object]],
    definitions: None,
    foreign: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """JSON Schemas of the kinds that are installed, as the API server has them, by names that kubeconform looks for."""
    folder = tmp_path_factory.mktemp("schemas")
    versions = {each["apiVersion"] for objects in kustomized.values() for each in objects}
    for version in versions:
        path = f"apis/{version}" if "/" in version else f"api/{version}"
        found = _get(api, f"/openapi/v3/{path}").get("components", {}).get("schemas", {})
        kinds = {each["kind"] for objects in kustomized.values() for each in objects if each["apiVersion"] == version}
        _write_schemas(folder, found, kinds)
    return folder


def _get(api: client.ApiClient, path: str) -> Object:
    answer = api.call_api(path, "GET", auth_settings=["BearerToken"], _preload_content=False)
    found: Object = json.loads(answer[0].data)
    return found


def _write_schemas(folder: Path, found: Object, kinds: set[str]) -> None:
    # Strict: a field that is not known is a mistake.
    for each in found.values():
        if "properties" in each and "additionalProperties" not in each:
            each["additionalProperties"] = False
    for name, each in found.items():
        for kind in each.get("x-kubernetes-group-version-kind", []):
            if kind["kind"] in kinds:
                group = kind["group"] or kind["version"]
                file = folder / f"{kind['kind'].lower()}-{group}-{kind['version']}.json"
                whole = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": found}}
                file.write_text(json.dumps(whole), encoding="utf-8")


@pytest.fixture(scope="module")
def foreign(kubectl: Kubectl) -> Iterator[None]:
    """The definitions of other projects' kinds that the manifests use; those that were not there go again."""
    before = set(kubectl("get", "crd", "--output=name").split())
    made: list[str] = []
    for module, pattern in FOREIGN:
        for file in sorted(download(module).glob(pattern)):
            # Whoever converts between versions is not here.
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
            content["spec"].pop("conversion", None)
            made += kubectl(
                "apply",
                "--server-side",
                "--force-conflicts",
                "--filename=-",
                "--output=name",
                stdin=json.dumps(content),
            ).split()
    kubectl("wait", "--for=condition=Established", "--timeout=60s", *made)
    yield
    if new := [name for name in made if name not in before]:
        kubectl("delete", *new)


@pytest.mark.parametrize("name", OVERLAYS)
def test_objects_have_the_fields_of_their_kinds(
    name: str, kustomized: dict[str, list[Object]], schemas: Path, tmp_path: Path
) -> None:
    file = tmp_path / "objects.yaml"
    # CustomResourceDefinitions are judged by the server, when it takes them.
    objects = [each for each in kustomized[name] if each["kind"] != "CustomResourceDefinition"]
    file.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    location = f"{schemas}/{{{{ .ResourceKind }}}}-{{{{ .Group }}}}-{{{{ .ResourceAPIVersion }}}}.json"
    command = [program("kubeconform"), "-schema-location", location, "-output", "json", "-summary", file]
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    assert told["resources"] == []
    assert told["summary"] == {"valid": len(objects), "invalid": 0, "errors": 0, "skipped": 0}


@pytest.fixture(scope="module")
def system(
    kubectl: Kubectl, kustomized: dict[str, list[Object]], definitions: None, foreign: None
) -> Iterator[dict[str, list[Object]]]:
    """The overlays in a namespace of this module's own, confined as the manifests say, with their accounts and roles.
    Whatever is installed on the cluster is left alone: what has no namespace gets other names."""
    labels = next(each for each in kustomized["standalone"] if each["kind"] == "Namespace")["metadata"]["labels"]
    made = json.dumps(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "serinus-test-", "labels": labels}}
    )
    name = kubectl("create", "--filename=-", "--output=jsonpath={.metadata.name}", stdin=made)
    overlays = {overlay: [moved(each, name) for each in objects] for overlay, objects in kustomized.items()}
    first = {key(each): each for objects in overlays.values() for each in objects if is_access(each)}
    # Where no controller makes it, as on a testbed of an API server alone.
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
    text = yaml.safe_dump_all([*first.values(), account])
    kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=text)
    yield overlays
    kubectl("delete", "--wait=false", "--filename=-", stdin=text)
    kubectl("delete", "namespace", name, "--wait=false")


def is_access(found: Object) -> bool:
    return "Role" in found["kind"] or found["kind"] in ("ServiceAccount", "PriorityClass")


def moved(found: Object, namespace: str) -> Object:
    """An object as if the system were in another namespace."""
    same: Object = json.loads(json.dumps(found).replace(SYSTEM, namespace))
    if found["kind"] in ("ClusterRole", "ClusterRoleBinding", "PriorityClass"):
        same["metadata"]["name"] += f"-{namespace}"
    if found["kind"] == "ClusterRoleBinding":
        same["roleRef"]["name"] += f"-{namespace}"
    spec = same.get("spec", {}).get("template", {}).get("spec", {})
    if "priorityClassName" in spec:
        spec["priorityClassName"] += f"-{namespace}"
    return same


def pods(objects: list[Object]) -> Iterator[Object]:
    """The pods that controllers would make."""
    for each in objects:
        if each["kind"] in WORKLOADS:
            metadata, spec = each["metadata"], each["spec"]["template"]["spec"]
            claims = [claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", [])]
            volumes = [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in claims]
            yield {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": metadata["name"],
                    "namespace": metadata["namespace"],
                    "labels": each["spec"]["template"]["metadata"]["labels"],
                },
                "spec": {**spec, "volumes": [*spec.get("volumes", []), *volumes]},
            }


@pytest.mark.parametrize(("name", "number"), [("standalone", 5), ("production", 1), ("kubeflow", 1)])
def test_pods_pass_admission(name: str, number: int, system: dict[str, list[Object]], kubectl: Kubectl) -> None:
    found = list(pods(system[name]))
    assert len(found) == number
    text = yaml.safe_dump_all(found)
    kubectl("create", "--dry-run=server", "--validate=strict", "--filename=-", stdin=text)


def test_pods_of_models_pass_admission(system: dict[str, list[Object]], kubectl: Kubectl) -> None:
    """A pod as KServe makes it: the runtime's container, and the one that fetches the model."""
    objects = {each["kind"]: each for each in system["standalone"]}
    runtime, storage = objects["ClusterServingRuntime"]["spec"], objects["ClusterStorageContainer"]["spec"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "model", "namespace": objects["Deployment"]["metadata"]["namespace"]},
        "spec": {
            **{name: runtime[name] for name in ("containers", "volumes")},
            "initContainers": [storage["container"]],
        },
    }
    kubectl("create", "--dry-run=server", "--validate=strict", "--filename=-", stdin=json.dumps(pod))


def test_admission_refuses_a_pod_that_is_not_confined(system: dict[str, list[Object]], kubectl: Kubectl) -> None:
    pod = copy.deepcopy(next(pods(system["standalone"])))
    del pod["spec"]["containers"][0]["securityContext"]["capabilities"]
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        kubectl("create", "--dry-run=server", "--filename=-", stdin=json.dumps(pod))


@pytest.mark.parametrize("name", OVERLAYS)
def test_server_takes_every_object(name: str, system: dict[str, list[Object]], kubectl: Kubectl) -> None:
    left_out = ("Namespace", "CustomResourceDefinition")
    text = yaml.safe_dump_all([each for each in system[name] if each["kind"] not in left_out])
    options = ["--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict"]
    kubectl("apply", *options, "--filename=-", stdin=text)


def test_images_are_set_in_every_place(tmp_path: Path) -> None:
    """As docs/install.md says: in an overlay, `kustomize edit set image`."""
    shutil.copytree(ROOT / "manifests", tmp_path / "manifests")
    folder = tmp_path / "manifests" / "overlays" / "standalone"
    images = {f"serinus-{name}": f"registry.example/serinus-{name}:7" for name in ("operator", "serving", "pipeline")}
    edit = [str(program("kustomize")), "edit", "set", "image", *(f"{old}={new}" for old, new in images.items())]
    subprocess.run(edit, cwd=folder, check=True)
    text = json.dumps([each for each in rendered(program("kustomize"), "build", folder) if each["kind"] not in CRD])
    assert sorted(set(re.findall(r'"image": "([^"]*serinus-[^"]*)"', text))) == sorted(images.values())


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
    ("create", "deployments.apps", "flights"),
    ("create", "jobs.batch", "flights"),
    ("create", "events", "flights"),
    ("update", "leases.coordination.k8s.io/other", SYSTEM),
    ("create", "leases.coordination.k8s.io", "flights"),
    ("patch", "clusterservingruntimes.serving.kserve.io/serinus", "flights"),
    ("patch", "gateways.gateway.networking.k8s.io", SYSTEM),
    ("create", "clusterroles.rbac.authorization.k8s.io", SYSTEM),
    ("create", "serviceaccounts/token", SYSTEM),
    ("delete", "namespaces", "flights"),
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

    assert [each for each in MAY if not may(*each)] == []
    assert [each for each in MAY_NOT if may(*each)] == []


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
