"""What a platform engineer sees: explain, columns, and what may change once it is stored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from serinus.core.guards.reading import Reading
from serinus.core.rollout.state import Candidate, Decision, RolloutState, Shares
from serinus.core.status import Condition, ContinuousTrainingStatus, ModelDeploymentStatus, Run, Status
from tests.cluster.conftest import ROOT, Kubectl

NOW = datetime.now(UTC)
PAGE = ROOT / "docs" / "kubernetes.md"

pytestmark = pytest.mark.usefixtures("definitions")


@pytest.fixture
def flights(kubectl: Kubectl, namespace: str) -> Iterator[list[str]]:
    """The example's two resources, stored; the arguments that name their namespace."""
    there = [f"--namespace={namespace}"]
    kubectl("apply", "--server-side", *there, f"--filename={ROOT / 'examples/flights/serinus.yaml'}")
    yield there
    kubectl("delete", *there, f"--filename={ROOT / 'examples/flights/serinus.yaml'}")


def observe(kubectl: Kubectl, there: list[str], kind: str, status: Status, manager: str = "operator") -> None:
    """Write a status as an operator does: by the subresource, under a name of its own."""
    document = {
        "apiVersion": "serinus.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": "flights"},
        "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    arguments = ["apply", "--server-side", f"--field-manager={manager}", "--subresource=status", *there, "--filename=-"]
    kubectl(*arguments, stdin=yaml.safe_dump(document))


def rolling() -> ModelDeploymentStatus:
    """The status of a deployment in its second step."""
    reading = Reading(
        guard="errors", verdict="undecided", blocking=True, unit="share", value=0.002, reference=0.001, low=0.4,
        high=3.1, canary=1200, stable=4800, text="errors: 0.2% against 0.1%",
    )  # fmt: skip
    state = RolloutState(
        stable=3, phase="step", step=1, canary=Candidate(version=4, digest="sha256:4"), started=NOW - timedelta(hours=1)
    )
    shares = Shares(stable=3, canary=4, weight=20)
    reasons = ("errors is undecided",)
    found = Decision(at=NOW, action="hold", reasons=reasons, readings=(reading,), shares=shares, state=state)
    return ModelDeploymentStatus().after(found, generation=1)


def table(text: str) -> list[dict[str, str]]:
    """What `kubectl get` prints, by heading."""
    head, *lines = text.splitlines()
    names = re.split(r"\s{2,}", head.strip())
    starts = [head.index(name) for name in names]
    ends = [*starts[1:], None]
    return [
        {name: line[start:end].strip() for name, start, end in zip(names, starts, ends, strict=True)} for line in lines
    ]


def test_columns_show_how_a_rollout_stands(kubectl: Kubectl, flights: list[str]) -> None:
    observe(kubectl, flights, "ModelDeployment", rolling())
    [row] = table(kubectl("get", "md", *flights))
    assert row.pop("AGE")
    assert row == {"NAME": "flights", "PHASE": "step", "STABLE": "3", "CANARY": "4", "WEIGHT": "20"}
    [wide] = table(kubectl("get", "md", "--output=wide", *flights))
    assert (wide["MODEL"], wide["WANTED"], wide["WHY"]) == ("flights", "champion", "errors is undecided")


def test_columns_show_when_a_model_was_trained_last(kubectl: Kubectl, flights: list[str]) -> None:
    hour = timedelta(hours=1)
    run = Run(id="r1", reason="schedule", as_of=NOW, started=NOW - 3 * hour, ended=NOW - 2 * hour, result="refused")
    observe(kubectl, flights, "ContinuousTraining", ContinuousTrainingStatus(last_run=run))
    [row] = table(kubectl("get", "ct", *flights))
    assert (row["DEPLOYMENT"], row["SCHEDULE"], row["RESULT"]) == ("flights", "0 12 2 * *", "refused")
    assert re.fullmatch(r"3h\d*m?", row["LAST RUN"])


def test_one_word_names_both_kinds(kubectl: Kubectl, flights: list[str]) -> None:
    found = kubectl("get", "serinus", "--output=name", *flights).split()
    assert sorted(found) == ["continuoustraining.serinus.dev/flights", "modeldeployment.serinus.dev/flights"]


def test_a_status_is_stored_whole_and_leaves_the_spec_alone(kubectl: Kubectl, flights: list[str]) -> None:
    before = json.loads(kubectl("get", "md", "flights", "--output=json", *flights))
    written = rolling()
    observe(kubectl, flights, "ModelDeployment", written)
    after = json.loads(kubectl("get", "md", "flights", "--output=json", *flights))
    assert ModelDeploymentStatus.model_validate(after["status"]) == written
    assert (after["spec"], after["metadata"]["generation"]) == (before["spec"], before["metadata"]["generation"])


def test_two_writers_each_own_their_conditions(kubectl: Kubectl, flights: list[str]) -> None:
    def says(type_: str) -> ModelDeploymentStatus:
        moment = NOW.replace(microsecond=0)
        one = Condition(type=type_, status="True", last_transition_time=moment, reason="So", message="It is so.")
        return ModelDeploymentStatus(conditions=(one,))

    for type_ in ("Ready", "Backed"):
        observe(kubectl, flights, "ModelDeployment", says(type_), manager=type_.lower())
    stored = json.loads(kubectl("get", "md", "flights", "--output=json", *flights))["status"]
    assert sorted(each["type"] for each in stored["conditions"]) == ["Backed", "Ready"]


@pytest.mark.parametrize(
    ("resource", "patch", "words"),
    [
        ("md/flights", {"model": {"name": "trains"}}, "spec.model.name: Invalid value: .*another model is another"),
        ("ct/flights", {"deployment": "trains"}, "spec.deployment: Invalid value: .*another deployment is another"),
    ],
)
def test_what_a_resource_is_about_never_changes(
    kubectl: Kubectl, flights: list[str], resource: str, patch: dict[str, Any], words: str
) -> None:
    change = ["patch", resource, *flights, "--type=merge", "--patch"]
    with pytest.raises(AssertionError, match=words):
        kubectl(*change, json.dumps({"spec": patch}))
    kubectl(*change, json.dumps({"metadata": {"labels": {"team": "delays"}}}))


def test_a_version_changes(kubectl: Kubectl, flights: list[str]) -> None:
    change = ["patch", "md/flights", *flights, "--type=merge", "--patch"]
    kubectl(*change, json.dumps({"spec": {"model": {"version": 5}, "rollout": {"steps": [10, 50]}}}))
    assert kubectl("get", "md/flights", *flights, "--output=jsonpath={.spec.model.version}") == "5"


def captures(page: Path) -> list[tuple[str, str]]:
    """The commands in a page's blocks that begin with `$ kubectl explain`, and what they print there."""
    blocks = re.findall(r"```\n\$ kubectl (explain [^\n]+)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [(command, printed) for command, printed in blocks]


@pytest.mark.parametrize(("command", "printed"), captures(PAGE), ids=lambda each: each.split("\n")[0])
def test_what_the_page_shows_is_what_kubectl_says(kubectl: Kubectl, command: str, printed: str) -> None:
    said = kubectl(*command.split()).strip().splitlines()
    assert [line.rstrip() for line in said] == printed.strip().splitlines()


@pytest.mark.parametrize("kind", ["modeldeployment", "continuoustraining"])
def test_every_field_explains_itself(kubectl: Kubectl, kind: str) -> None:
    said = kubectl("explain", kind, "--recursive")
    assert "<Object>" in said
    for part in ("spec", "status"):
        assert "<no description>" not in kubectl("explain", f"{kind}.{part}")


def test_durations_are_text_and_their_bounds_are_rules(kubectl: Kubectl) -> None:
    assert "maximumDuration\t<string>" in kubectl("explain", "modeldeployment.spec.rollout.pace")
