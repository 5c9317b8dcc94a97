"""Who decides, about what, and by whose word: several operators, some namespaces, and the verbs of the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from serinus.core.rollout import Shares
from serinus.engines.kubernetes import HTTP_ROUTE, INFERENCE_SERVICE, MODEL_DEPLOYMENT
from serinus.engines.platformfile import VARIABLE
from tests.cluster.conftest import Kubectl
from tests.support_platform import text
from tests.support_report import record
from tests.support_rollout_cluster import ClusterSite, OperatorProcess, patient_policy
from tests.support_rollout_laptop import NAME

pytestmark = pytest.mark.timeout(900)

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def other(tmp_path: Path) -> Iterator[OperatorProcess]:
    """A second operator."""
    found = OperatorProcess(tmp_path, "two")
    found.start()
    yield found
    found.stop()


@pytest.fixture
def run(site: ClusterSite, tmp_path: Path) -> Run:
    """A command as a user types it, and the JSON object that it printed."""
    training, deployment = yaml.safe_load_all(site.file.read_text())
    for each in (training, deployment):
        each["metadata"]["namespace"] = site.namespace
    (tmp_path / "serinus.yaml").write_text(yaml.safe_dump_all([training, deployment]))

    def typed(*arguments: str, expect: int = 0) -> dict[str, Any]:
        command = [sys.executable, "-P", "-m", "serinus", *arguments, "--json"]
        settings = {**os.environ, VARIABLE: text(site.platform)}
        done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, check=False)
        assert done.returncode == expect, done.stderr + done.stdout
        # What fails says why on stderr, and prints nothing.
        found: dict[str, Any] = json.loads(done.stdout) if expect == 0 else {}
        return found

    return typed


def test_of_two_operators_one_decides_and_the_other_goes_on_when_it_stops(
    site: ClusterSite, operator: OperatorProcess, other: OperatorProcess
) -> None:
    version, restarts = site.halfway(), operator.restarts
    site.until("one leads", lambda: site.leader() == operator.identity, 60)
    with site.traffic() as traffic:
        site.decides()
        assert other.counted("serinus_operator_decisions_total") == 0
        operator.freeze(True)
        site.until("the other one leads", lambda: site.leader() == other.identity, 60)
        site.decides()
        operator.freeze(False)
        # What it had in its hands must not be finished: it ends, and is started again beside the one that leads.
        site.until("it has given up", lambda: operator.restarts == restarts + 1, 60)
        site.ask("approve", weight=100)
        site.until("promoted", lambda: site.status().get("stable") == version, 300)
        assert site.leader() == other.identity
        assert other.stop() == 0
        site.until("the first one leads again", lambda: site.leader() == operator.identity, 30)
        site.until("the old version is gone", lambda: site.settled(version), 300)
    assert traffic.failed == 0, traffic.errors()
    assert site.actions()[-2:] == ["approve", "promote"]
    assert site.actions().count("promote") == len(set(promoted(site)))
    site.require_ledger()
    record("cluster_operators", requests=traffic.total, failed=traffic.failed)


def promoted(site: ClusterSite) -> list[int]:
    """The versions of all promotions."""
    return [each.shares.stable for each in site.ledger.entries() if each.action == "promote"]


def test_an_operator_of_some_namespaces_leaves_the_others_alone(
    site: ClusterSite, operator: OperatorProcess, kubectl: Kubectl, tmp_path: Path
) -> None:
    site.calm()
    there = site.elsewhere(f"{site.namespace}-few")
    kubectl("create", "namespace", there.namespace)
    there.prepare()
    few = OperatorProcess(tmp_path, "few", SERINUS_NAMESPACES=f"{site.namespace}, no-such-namespace")
    assert operator.stop() == 0
    few.start()
    try:
        there.deploy(patient_policy(), version=site.champion)
        site.until("it looks at its own", lambda: site.leader() == few.identity, 60)
        move(site, "elsewhere.example")
        site.until("it sets them right", lambda: hosts(site) == [site.host], 60)
        few.looks(3)
        assert "status" not in there.found(MODEL_DEPLOYMENT)
        assert there.cluster.all(INFERENCE_SERVICE, there.namespace) == []
    finally:
        few.stop()
        operator.start()
    there.until("one of all namespaces begins", there.versions, 60)
    kubectl("delete", "namespace", there.namespace, "--wait", "--timeout=180s")


def move(site: ClusterSite, host: str) -> None:
    """Change the route by hand."""
    patch = [{"op": "replace", "path": "/spec/hostnames", "value": [host]}]
    site.kubectl("patch", "httproute", NAME, f"--namespace={site.namespace}", "--type=json", f"-p={json.dumps(patch)}")


def hosts(site: ClusterSite) -> list[str]:
    """The hosts that the route answers for."""
    found: list[str] = site.found(HTTP_ROUTE)["spec"]["hostnames"]
    return found


def test_an_annotation_has_the_operator_leave_a_deployment_alone(site: ClusterSite, operator: OperatorProcess) -> None:
    version = site.halfway()
    with site.traffic() as traffic:
        traffic.wait_for(50)
        site.pause(True)
        site.until("it is paused", lambda: site.condition("Progressing").get("reason") == "Paused", 60)
        entries, shares = site.ledger.count(), site.shares()
        traffic.wait_for(50)
    move(site, "elsewhere.example")
    site.ask("approve", weight=100)
    operator.looks(2)
    assert hosts(site) == ["elsewhere.example"]
    assert (site.ledger.count(), site.shares()) == (entries, shares)
    site.pause(False)
    site.until("it is set right", lambda: hosts(site) == [site.host], 60)
    with site.traffic() as more:
        site.until("promoted", lambda: site.status().get("stable") == version, 300)
        site.until("the old version is gone", lambda: site.settled(version), 300)
    assert (traffic.failed, more.failed) == (0, 0)
    site.require_ledger()


def test_a_rollout_is_steered_from_the_command_line(site: ClusterSite, run: Run) -> None:
    version, before = site.halfway(), site.champion
    where = f"{site.namespace}/{NAME}"
    with site.traffic() as traffic:
        found = run("status", "--cluster")["deployment"]
        assert (found["stable"], found["canary"], found["phase"], found["weight"]) == (before, version, "step", 50)
        assert run("rollout", "pause", "--cluster", "--why", "sale today")["action"] == "pause"
        paused = run("status", "--cluster")["deployment"]["paused"]
        assert paused["why"] == "sale today"
        refused = run("rollout", "approve", "20", "--cluster", "--why", "so")
        assert refused["action"] == "hold"
        assert "steps that wait for an approval: 100" in " ".join(refused["reasons"])
        assert run("rollout", "resume", "--cluster", "--why", "sale is over")["action"] == "resume"
        assert run("rollout", "rollback", "--cluster", "--why", "customers complain")["action"] == "rollback"
        site.until("it is gone", lambda: site.settled(before), 300)
        site.deploy(patient_policy(approvals=[50, 100]))
        assert run("rollout", "start", str(version), "--cluster", "--why", "fixed, try again")["action"] == "hold"
        site.until("it waits", lambda: "50 % waits for" in " ".join(site.last_reasons()), 180)
        assert run("rollout", "approve", "50", "--cluster", "--why", "looked at it")["action"] == "approve"
        shares = Shares(stable=before, canary=version, weight=50)
        site.until("it has its share", lambda: site.shares() == shares, 60)
        assert run("rollout", "promote", "--cluster", "--why", "hot fix")["action"] == "promote"
        site.until("the old version is gone", lambda: site.settled(version), 300)
    assert traffic.failed == 0, traffic.errors()
    entries = site.ledger.count()
    for verb in ("verify", "replay"):
        checked = run("ledger", verb, "--deployment", where)
        assert (checked["broken"], checked["entries"]) == (None, entries)
    shown = run("ledger", "show", "--deployment", where, "--last", str(entries))["entries"]
    asked = [each["action"] for each in shown if each["who"] != "serinus" and each["action"] != "hold"]
    assert asked[-5:] == ["pause", "resume", "rollback", "approve", "promote"]
    assert run("ledger", "show", str(entries), "--deployment", where)["number"] == entries
    run("ledger", "verify", "--deployment", f"{site.namespace}/nobody", expect=3)
    record("cluster_verbs", requests=traffic.total, failed=traffic.failed)
