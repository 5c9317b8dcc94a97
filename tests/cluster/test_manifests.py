"""What is installed: a real API server takes it, and pods pass its Pod Security admission."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kubernetes import client

from tests.cluster.conftest import ROOT, Kubectl
from tests.cluster.objects import OVERLAYS, Object, rendered
from tests.cluster.tools import program

WORKLOADS = ("Deployment", "StatefulSet")
CRD = ("CustomResourceDefinition",)


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


@pytest.mark.parametrize(("name", "number"), [("standalone", 7), ("production", 2), ("kubeflow", 2)])
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
