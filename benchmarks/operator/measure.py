"""The course of the benchmark, and what is measured in it. Runs in the testbed's network.

python -m benchmarks.operator.measure PLAN, where the plan is JSON; prints the figures as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

from benchmarks.operator.fleet import CANARY, LABEL, Fleet, fill
from benchmarks.operator.ground import FLOW, ROOT, SCRAPE, WORLD_PORT
from benchmarks.operator.watched import Decisions, Process, Ready
from serinus.core.platform import Platform
from serinus.engines.kubernetes import MODEL_DEPLOYMENT, Cluster
from serinus.engines.ledger_sql import LedgerDatabase
from serinus.engines.mlflow import Registry
from serinus.engines.waiting import wait_until
from tests.cluster.testbed.backing import PORTS
from tests.cluster.testbed.site import ADDRESS
from tests.support_platform import platform, text

_WRITERS = 4
_PATIENCE = 1200.0
_REQUESTS = "apiserver_flowcontrol_dispatched_requests_total"
_CHECKED_LEDGERS = 5


class Plan(BaseModel):
    """What is to be measured."""

    deployments: int
    rollouts: int
    idle_seconds: float
    seconds: float
    workers: int
    python: str
    """That runs the operator."""
    operator: Path
    """The operator's kubeconfig."""
    state: Path
    """A folder for everything."""


def main() -> None:
    plan = Plan.model_validate_json(sys.argv[1])
    cluster = Cluster.connect()
    fleet = Fleet(plan.deployments, plan.rollouts)
    found = platform(plan.state / "operator")
    fill(Registry(found.tracking_uri, found.artifact_uri), plan.state / "models")
    _say("the models are registered")
    sys.stdout.write(json.dumps(_run(plan, cluster, fleet, found)))


def _run(plan: Plan, cluster: Cluster, fleet: Fleet, found: Platform) -> dict[str, Any]:
    figures: dict[str, Any] = {"deployments": plan.deployments, "rollouts": plan.rollouts}
    with ExitStack() as stack:
        stack.enter_context(_started(plan, "world", _world(plan), os.environ))
        process = Process(stack.enter_context(_started(plan, "operator", _operator(plan), _settings(plan, found))))
        ready = stack.enter_context(Ready(cluster, {LABEL: "idle"}, {LABEL: "rollout"}))
        decisions = stack.enter_context(Decisions(cluster, {LABEL: "rollout"}))
        began = time.monotonic()
        _everywhere(fleet.documents(), lambda each: cluster.apply(each, MODEL_DEPLOYMENT, manager="bench"))
        _say(f"{plan.deployments} ModelDeployments are applied: {time.monotonic() - began:.0f} s")
        wait_until(lambda: len(ready.keys) >= plan.deployments, _PATIENCE, every=0.5)
        if len(ready.keys) < plan.deployments:
            raise SystemExit(f"only {len(ready.keys)} of {plan.deployments} got ready")
        figures["settled_s"] = round(time.monotonic() - began, 1)
        figures["settling_cores"] = round(process.cores(), 3)
        _say(f"all are ready: {figures['settled_s']:.0f} s")
        figures |= {f"idle_{name}": value for name, value in _window(plan.idle_seconds, cluster, process).items()}
        decisions.begin()
        patch = {"spec": {"model": {"version": CANARY}}}
        rolled_out = list(fleet.documents())[: plan.rollouts]

        def ask(document: Mapping[str, Any]) -> None:
            decisions.asked(_place(document))
            cluster.merge(MODEL_DEPLOYMENT, *_place(document), patch)

        _everywhere(rolled_out, ask)
        _say(f"{plan.rollouts} rollouts have begun")
        figures |= _window(plan.seconds, cluster, process)
        figures |= decisions.figures()
        figures["memory_mb"] = round(process.peak, 1)
        figures["memory_pss_mb"] = round(process.pss, 1)
    figures["phases"] = decisions.phases
    figures["ledgers_whole"] = _whole(fleet, found)
    return figures


def _window(seconds: float, cluster: Cluster, process: Process) -> dict[str, float]:
    """Wait, and say what the operator took meanwhile."""
    requests, began = _requests(cluster), time.monotonic()
    process.cores()
    busiest = process.watch(seconds)
    cores = process.cores()
    passed = time.monotonic() - began
    return {
        "cores": round(cores, 3),
        "cores_busiest_10s": round(busiest, 3),
        "api_requests_per_s": round((_requests(cluster) - requests) / passed, 1),
    }


def _requests(cluster: Cluster) -> float:
    """How many of the operator's requests the API server has taken."""
    answer = cluster.api.call_api("/metrics", "GET", auth_settings=["BearerToken"], _preload_content=False)[0]
    lines = [line for line in answer.data.decode().splitlines() if _REQUESTS in line]
    samples = [each for family in text_string_to_metric_families("\n".join(lines) + "\n") for each in family.samples]
    return sum(each.value for each in samples if each.labels.get("flow_schema") == FLOW)


def _place(document: Mapping[str, Any]) -> tuple[str, str]:
    return document["metadata"]["namespace"], document["metadata"]["name"]


def _everywhere(documents: Iterator[Any] | list[Any], act: Any) -> None:
    with ThreadPoolExecutor(_WRITERS) as pool:
        list(pool.map(act, documents))


def _whole(fleet: Fleet, found: Platform) -> bool:
    """Whether the ledgers of some rollouts are whole, and decide the same again."""
    assert found.ledger_uri is not None
    database = LedgerDatabase(found.ledger_uri)
    names = ["/".join(_place(each)) for each in list(fleet.documents())[: min(fleet.rollouts, _CHECKED_LEDGERS)]]
    ledgers = [database.ledger(name) for name in names]
    return all(each.verify().broken is None and each.replay().broken is None for each in ledgers)


@contextmanager
def _started(plan: Plan, name: str, command: list[str], environment: Mapping[str, str]) -> Iterator[int]:
    """A program while it is needed; its process id. It must end as it should."""
    log = plan.state / f"{name}.log"
    with log.open("wb") as file, subprocess.Popen(command, env=dict(environment), stdout=file, stderr=file) as process:
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            if code != 0:
                _say(f"{name} ended with {code}: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}")


def _world(plan: Plan) -> list[str]:
    module = ["-m", "benchmarks.operator.world"]
    return [sys.executable, *module, ADDRESS, str(WORLD_PORT), str(plan.deployments), str(plan.rollouts)]


def _operator(plan: Plan) -> list[str]:
    return [plan.python, "-P", "-m", "serinus", "operator", "--port", "0", "--metrics-port", "9101"]


def _settings(plan: Plan, found: Platform) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),
        "KUBECONFIG": str(plan.operator),
        "SERINUS_PLATFORM": text(found),
        "SERINUS_PROMETHEUS_URL": f"http://{ADDRESS}:{PORTS['prometheus']}",
        "SERINUS_SCRAPE_INTERVAL": f"{SCRAPE}s",
        "SERINUS_WORKERS": str(plan.workers),
    }


def _say(words: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')}  {words}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
