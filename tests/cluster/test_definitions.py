"""What `serinus validate` refuses, a cluster's API server refuses, at the same path, in the same words where they are
ours; and it takes what is right."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from serinus.core.errors import InvalidSpec
from serinus.core.spec import KINDS, parse_resources
from tests.cluster.conftest import Kubectl
from tests.support_cluster import refused
from tests.support_spec import BEYOND_SCHEMA, DEPLOYMENT, RIGHT, TOGETHER, TRAINING, WRONG, changed

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*/serinus.yaml"))

# What the API server does differently, by its nature.
ELSEWHERE = {
    # A version that it does not have is an address that it does not have: nothing in the document is judged.
    ("apiVersion", "serinus.dev/v1"): "",
}
# A null that may not be is taken away, and the default filled in: the field was as good as left out.
AS_IF_LEFT_OUT = [(TRAINING, "spec.windows.labelDelay", None)]
# JSON has no such numbers, and a date is text in it: they cannot be sent. Crons it cannot judge, the operator does.
CRONS = [(document, path, value) for document, path, value, _ in BEYOND_SCHEMA if path.endswith("cron")]

pytestmark = pytest.mark.usefixtures("definitions")


def laptop(document: dict[str, Any]) -> dict[str, str]:
    """Path -> what would be allowed, of what our own validation finds wrong."""
    try:
        parse_resources([document], KINDS, "x")
    except InvalidSpec as error:
        return {each.path.removeprefix(f"{document['kind']}."): each.allowed for each in error.problems}
    return {}


@pytest.mark.parametrize("document", [TRAINING, DEPLOYMENT], ids=lambda each: each["kind"])
def test_a_good_spec_is_taken(api: client.ApiClient, namespace: str, document: dict[str, Any]) -> None:
    assert refused(api, namespace, document) == {}


@pytest.mark.parametrize(
    ("document", "path", "value"),
    [each[:3] for each in (*WRONG, *TOGETHER) if each[:3] not in AS_IF_LEFT_OUT],
)
def test_what_the_laptop_refuses_the_cluster_refuses_at_the_same_path(
    api: client.ApiClient, namespace: str, document: dict[str, Any], path: str, value: Any
) -> None:
    broken = changed(document, path, value)
    here, there = laptop(broken), refused(api, namespace, broken)
    assert here
    where = {ELSEWHERE.get((path, str(value)), at) for at in here}
    assert set(there) == where, there


@pytest.mark.parametrize(("document", "path", "value", "at", "allowed"), TOGETHER)
def test_rules_across_fields_use_the_same_words(
    api: client.ApiClient, namespace: str, document: dict[str, Any], path: str, value: Any, at: str, allowed: str
) -> None:
    broken = changed(document, path, value)
    # What a schema refuses, the API server says in words of its own.
    if at in {"spec.traffic.canary.version", "spec.rollout.freeze[0].start"} or at.endswith(
        ("]", "margin", "denominator")
    ):
        assert refused(api, namespace, broken)
    else:
        assert allowed in refused(api, namespace, broken)[at]


@pytest.mark.parametrize(("document", "path", "value"), [*RIGHT, *AS_IF_LEFT_OUT, *CRONS])
def test_what_is_right_is_taken(
    api: client.ApiClient, namespace: str, document: dict[str, Any], path: str, value: Any
) -> None:
    assert refused(api, namespace, changed(document, path, value)) == {}


@pytest.mark.parametrize("field", ["spec.project", "spec.featureService", "spec.windows", "spec.project.entryPoint"])
def test_a_required_field_is_missed(api: client.ApiClient, namespace: str, field: str) -> None:
    broken = copy.deepcopy(TRAINING)
    *parents, last = field.split(".")
    node = broken
    for part in parents:
        node = node[part]
    del node[last]
    assert set(refused(api, namespace, broken)) == set(laptop(broken)) == {field}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.parent.name)
def test_examples_are_taken_as_they_are(kubectl: Kubectl, namespace: str, example: Path) -> None:
    for way in ([], ["--server-side"]):
        said = kubectl("apply", *way, "--dry-run=server", f"--namespace={namespace}", f"--filename={example}")
        assert said.count("(server dry run)") == 2
    assert EXAMPLES


def test_defaults_of_the_cluster_are_those_of_the_laptop(kubectl: Kubectl, namespace: str) -> None:
    for document in (TRAINING, DEPLOYMENT, changed(DEPLOYMENT, "spec.rollout", {"shadow": {}})):
        arguments = ["apply", "--server-side", "--dry-run=server", f"--namespace={namespace}", "--filename=-"]
        filled = yaml.safe_load(kubectl(*arguments, "--output=yaml", stdin=yaml.safe_dump(document)))
        assert filled["spec"] != document["spec"]
        [by_server], [by_model] = parse_resources([filled], KINDS, "x"), parse_resources([document], KINDS, "x")
        assert by_server.model_dump(include={"spec"}) == by_model.model_dump(include={"spec"})
