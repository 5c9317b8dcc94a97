"""Starts a control plane, lets the operator look after thousands of ModelDeployments, prints what that takes.

python -m benchmarks.operator [--deployments 2000] [--rollouts 100] [--report build/reports/operator.json]

etcd, API server, controllers, kwok, PostgreSQL, MLflow and Prometheus are real; KServe, the Gateway and what pods count
are played (`world`). Needs what the testbed of tests/cluster needs at level control, and Debian's prometheus and
postgresql.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.operator import image
from benchmarks.operator.fleet import Fleet
from benchmarks.operator.ground import ROOT, Ground
from benchmarks.operator.measure import Plan
from benchmarks.operator.report import met, show
from serinus.engines.processes import MARK
from tests.cluster.testbed.cluster import told


def main() -> int:
    given = _parser().parse_args()
    # What ends this process must still take everything down.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    began = time.perf_counter()
    ground = Ground.prepared()
    if ground.cluster.is_up:
        ground.cluster.down()
    with tempfile.TemporaryDirectory(prefix="serinus-bench-") as folder:
        plan = Plan(
            deployments=given.deployments, rollouts=given.rollouts, idle_seconds=given.idle_seconds,
            seconds=given.seconds, workers=given.workers, python=given.python or str(image.python()),
            operator=ground.operator, state=given.keep or Path(folder),
        )  # fmt: skip
        try:
            told(ground.up(Fleet(plan.deployments, plan.rollouts)), _say)
            figures = _measured(ground, plan)
        finally:
            ground.cluster.down()
    figures["goals_met"] = met(figures)
    figures["bench_seconds"] = round(time.perf_counter() - began, 1)
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    show(figures)
    return 0


def _measured(ground: Ground, plan: Plan) -> dict[str, object]:
    plan.state.mkdir(parents=True, exist_ok=True)
    command = ground.cluster.network.inside(sys.executable, "-m", "benchmarks.operator.measure", plan.model_dump_json())
    # By the mark everything that it starts is found, and ended with the cluster.
    environment = {**os.environ, MARK: ground.cluster.state.name, "KUBECONFIG": str(ground.cluster.kubeconfig)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise SystemExit(f"it was not measured: exit code {done.returncode}")
    figures: dict[str, object] = json.loads(done.stdout)
    return figures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operator", description=__doc__)
    parser.add_argument("--deployments", type=int, default=2000)
    parser.add_argument("--rollouts", type=int, default=100, help="at once")
    parser.add_argument("--idle-seconds", type=float, default=30, help="measured before they begin")
    parser.add_argument("--seconds", type=float, default=120, help="measured while they go on")
    parser.add_argument("--workers", type=int, default=4, help="of the operator")
    parser.add_argument("--python", help="that runs the operator (default: one with the packages of its image alone)")
    parser.add_argument("--keep", type=Path, help="keep logs in this folder")
    parser.add_argument("--report", type=Path, default=Path("build/reports/operator.json"))
    return parser


def _say(words: str) -> None:
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main())
