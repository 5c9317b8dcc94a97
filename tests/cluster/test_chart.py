"""The chart: the same objects as the overlays, and values that say no where a person is wrong."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import ROOT
from tests.cluster.objects import OVERLAYS, SYSTEM, Object, key, rendered
from tests.cluster.tools import program

CHART = ROOT / "charts" / "serinus"


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


def comparable(found: Object) -> Object:
    """An object without what kustomize and Helm do in ways of their own: how a change of settings starts pods again,
    whether a Secret is written as text, what stays when a release goes."""
    text = re.sub(r'"(serinus-(?:settings|postgres|prometheus|s3))-[a-z0-9]{10}"', r'"\1"', json.dumps(found))
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


WRONG = {
    "standalone.password=it@home": "/standalone/password",
    "operator.replica=3": "'replica' not allowed",
    "operator.replicas=0": "/operator/replicas",
    "scorer.replicas=-1": "/scorer/replicas",
    "operator.resources.limits.memory=lots": "/operator/resources/limits/memory",
    "gateway.port=http": "/gateway/port",
    "gateway.create=yes": "/gateway/create",
    "images.tag=latest": "/images/tag",
    "images.prefix=registry.example": "/images/prefix",
    "pipelines.multiUser=true": "/pipelines/url",
    "prometheus.url=prometheus:9090": "/prometheus/url",
    "monitor.enabled=true": "'monitor' not allowed",
}
"""Values that a person may get wrong, and what they are told."""


@pytest.mark.parametrize("value", WRONG)
def test_helm_refuses_a_wrong_value_and_says_where(value: str) -> None:
    command = [program("helm"), "lint", "--quiet", "--namespace", SYSTEM, "--set", value, CHART]
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert WRONG[value] in done.stdout + done.stderr


def test_every_value_has_a_schema() -> None:
    """A value without one would be refused, were it set; one that the schema alone has would do nothing."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    def names(value: Any, told: Object) -> Iterator[tuple[str, set[str]]]:
        told = schema["definitions"][told["$ref"].rpartition("/")[2]] if "$ref" in told else told
        if isinstance(value, dict) and "properties" in told:
            yield ", ".join(value), set(value) ^ set(told["properties"])
            for name in value:
                yield from names(value[name], told["properties"][name])

    assert {"global"} == set().union(*(odd for _, odd in names(values, schema)))
