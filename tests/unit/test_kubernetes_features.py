"""The pod that keeps features up to date: confined, scraped, and started again when what it is told changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from serinus.engines import kubernetes_features as features

OWNER = {
    "apiVersion": "serinus.dev/v1alpha1",
    "kind": "ContinuousTraining",
    "metadata": {"name": "flights", "namespace": "demo", "uid": "1234"},
}
MONITORS = Path("manifests/components/monitoring/podmonitors.yaml")


def pod(resources: str = "kind: ContinuousTraining") -> dict[str, Any]:
    found = features.objects(features.Fed(OWNER, "registry.example/flights:7", resources, "serinus-platform"))
    template: dict[str, Any] = found[-1][1]["spec"]["template"]
    return template


def test_it_is_scraped_where_it_counts() -> None:
    annotations, (container,) = pod()["metadata"]["annotations"], pod()["spec"]["containers"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert container["ports"] == [{"name": "metrics", "containerPort": int(annotations["prometheus.io/port"])}]
    assert f"--port={annotations['prometheus.io/port']}" in container["args"]


def test_one_monitor_selects_it() -> None:
    labels = pod()["metadata"]["labels"]
    monitors = {each["metadata"]["name"]: each["spec"] for each in yaml.safe_load_all(MONITORS.read_text())}
    assert [name for name, spec in monitors.items() if selects(spec["selector"], labels)] == ["serinus-features"]
    assert monitors["serinus-features"]["podMetricsEndpoints"][0]["port"] == "metrics"


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """As Kubernetes has it, for what the monitors use of it."""
    without = selector.get("matchExpressions", [])
    assert {each["operator"] for each in without} <= {"NotIn"}
    return selector["matchLabels"].items() <= labels.items() and not any(
        labels.get(each["key"]) in each["values"] for each in without
    )


def test_it_starts_again_when_it_is_told_something_else() -> None:
    assert pod() == pod()
    assert pod()["metadata"]["annotations"] != pod("kind: another")["metadata"]["annotations"]


def test_it_may_do_nothing_that_it_need_not() -> None:
    spec = pod()["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
