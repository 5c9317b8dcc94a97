"""What is installed on a cluster, as far as its files alone tell: that pods are confined, that roles are small, that
alerts and dashboards ask for metrics there are. tests/cluster renders it and asks a real API server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from serinus.core.platform import Platform

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
MONITORING = MANIFESTS / "components" / "monitoring"
RUNBOOKS = ROOT / "docs" / "runbooks"
WORKLOADS = {"Deployment", "StatefulSet", "DaemonSet", "Job"}

Object = dict[str, Any]


def objects() -> Iterator[tuple[Path, Object]]:
    """Every object of manifests/, with its file; patches and the definitions are none."""
    for path in sorted(MANIFESTS.rglob("*.yaml")):
        if "crds" in path.parts:
            continue
        for found in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if isinstance(found, dict) and "kind" in found and found["kind"] not in ("Kustomization", "Component"):
                yield path, found


def called(path: Path, found: Object) -> str:
    return f"{path.relative_to(MANIFESTS)}:{found['kind']}/{found['metadata']['name']}"


def patches() -> set[Path]:
    """Files that change objects of the base and are none themselves."""
    named = set()
    for path in MANIFESTS.rglob("kustomization.yaml"):
        for patch in yaml.safe_load(path.read_text(encoding="utf-8")).get("patches", []):
            if "path" in patch:
                named.add(path.parent / patch["path"])
    return named


def pods() -> dict[str, Object]:
    """The pod specification of each workload, and of the runtime that KServe makes pods of."""
    left_out = patches()
    found = {}
    for path, each in objects():
        if path in left_out:
            continue
        if each["kind"] in WORKLOADS:
            found[called(path, each)] = each["spec"]["template"]["spec"]
        elif each["kind"] == "ClusterServingRuntime":
            found[called(path, each)] = each["spec"]
    return found


PODS = pods()


@pytest.mark.parametrize("name", PODS)
def test_containers_are_confined(name: str) -> None:
    pod = PODS[name]
    shared = pod.get("securityContext", {})
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert (shared | own)["runAsNonRoot"] is True
        assert (shared | own)["runAsUser"] > 0
        assert (shared | own)["seccompProfile"] == {"type": "RuntimeDefault"}
        # All that can be written is named: at least the folder for temporary files, or the store's own.
        assert container["volumeMounts"]


@pytest.mark.parametrize("name", PODS)
def test_containers_ask_for_what_they_use(name: str) -> None:
    for container in PODS[name]["containers"]:
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        assert {"startupProbe", "readinessProbe"} <= set(container)


@pytest.mark.parametrize("name", [name for name in PODS if "ClusterServingRuntime" not in name])
def test_pods_get_a_token_only_where_they_say_so(name: str) -> None:
    accounts = {"serinus-operator", "prometheus"}
    assert PODS[name]["automountServiceAccountToken"] is (PODS[name].get("serviceAccountName") in accounts)


def test_images_have_no_tag_that_moves() -> None:
    for path in MANIFESTS.rglob("kustomization.yaml"):
        for image in yaml.safe_load(path.read_text(encoding="utf-8")).get("images", []):
            assert image["newTag"] != "latest", path


def roles() -> dict[str, list[Object]]:
    return {each["metadata"]["name"]: each["rules"] for _, each in objects() if each["kind"] == "ClusterRole"}


def test_roles_name_what_they_grant() -> None:
    for name, rules in roles().items():
        for rule in rules:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], name
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"]), name
            assert not {"secrets", "nodes", "roles", "clusterroles", "pods/exec"} & set(rule["resources"]), name


def test_operator_cannot_write_what_users_want() -> None:
    granted = {
        (resource, verb)
        for rule in roles()["serinus-operator"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert not granted & {("modeldeployments", verb) for verb in ("create", "update", "delete")}
    assert not {resource for resource, verb in granted if resource == "pods" and verb not in ("get", "list", "watch")}


def test_every_file_is_part_of_a_kustomization() -> None:
    used, there = set(), set()
    for path in MANIFESTS.rglob("kustomization.yaml"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        named = [
            *content.get("resources", []),
            *content.get("components", []),
            *(patch["path"] for patch in content.get("patches", []) if "path" in patch),
            *(
                name
                for generator in (*content.get("configMapGenerator", []), *content.get("secretGenerator", []))
                for name in (*generator.get("files", []), *generator.get("envs", []))
            ),
        ]
        for name in named:
            target = (path.parent / name).resolve()
            assert target.exists(), f"{path}: {name}"
            used.add(target)
    for path in MANIFESTS.rglob("*"):
        if path.is_file() and path.name not in ("kustomization.yaml", "README.md", "platform.example.yaml"):
            there.add(path)
    assert there == {path for path in used if path.is_file()}


@pytest.mark.parametrize(
    "path",
    [
        "overlays/standalone/platform.yaml",
        "overlays/production/platform.example.yaml",
        "namespace/standalone/platform.yaml",
    ],
)
def test_platforms_are_platforms(path: str) -> None:
    content = yaml.safe_load((MANIFESTS / path).read_text(encoding="utf-8"))
    assert Platform.model_validate(content).tracking_uri.startswith("http")
    # Only the operator writes the ledger.
    assert ("ledger_uri" in content) is (not path.startswith("namespace"))


def test_namespaces_get_the_same_platform() -> None:
    def read(path: str) -> Object:
        found: Object = yaml.safe_load((MANIFESTS / path).read_text(encoding="utf-8"))
        return found

    system, models = read("overlays/standalone/platform.yaml"), read("namespace/standalone/platform.yaml")
    assert models == {key: value for key, value in system.items() if key != "ledger_uri"}


def known_metrics() -> set[str]:
    pages = [(ROOT / "docs/reference" / name).read_text(encoding="utf-8") for name in ("metrics.md", "operator.md")]
    return set(re.findall(r"^\| `(serinus_\w+)` \|", "\n".join(pages), re.MULTILINE))


def asked_for(expression: str) -> set[str]:
    """The metrics of an expression; a histogram's buckets are the histogram."""
    return {name.removesuffix("_bucket") for name in re.findall(r"\bserinus_\w+", expression)}


def alerts() -> list[Object]:
    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text(encoding="utf-8"))
    return [rule for group in rules["spec"]["groups"] for rule in group["rules"]]


def test_alerts_ask_for_metrics_there_are() -> None:
    for alert in alerts():
        assert asked_for(alert["expr"]) <= known_metrics(), alert["alert"]
        assert asked_for(alert["expr"]), alert["alert"]


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    listed = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    pages = set()
    for alert in alerts():
        page = ROOT / alert["annotations"]["runbook"]
        assert page.read_text(encoding="utf-8").startswith(f"# {alert['alert']}\n")
        assert f"[{alert['alert']}]({page.name})" in listed
        pages.add(page)
    assert pages == set(RUNBOOKS.glob("*.md")) - {RUNBOOKS / "README.md"}


def test_dashboard_shows_metrics_there_are() -> None:
    dashboard = json.loads((MONITORING / "serinus.json").read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for expression in expressions:
        assert asked_for(expression), expression
        assert asked_for(expression) <= known_metrics()


@pytest.mark.prometheus
def test_prometheus_understands_the_alerts(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    assert promtool
    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text(encoding="utf-8"))["spec"]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    done = subprocess.run(
        [promtool, "check", "rules", str(tmp_path / "rules.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout


def test_images_get_what_the_build_copies() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    context = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE)
    copied = [name for line in lines for name in line.split()]
    assert copied
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name.split('/')[0]}" in context, name


@pytest.mark.parametrize("target", ["pipeline", "serving", "operator"])
def test_images_run_as_nobody_in_particular(target: str) -> None:
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    stage = next(each for each in stages if re.match(rf"\S+ AS {target}\n", each))
    assert "\nUSER 65532:65532\n" in stage
    assert f'org.opencontainers.image.title="serinus-{target}"' in stage
    # Whoever builds must not be in what is built.
    assert "--from=tools" not in re.sub(r"^RUN --mount.*$", "", stage, flags=re.MULTILINE)
