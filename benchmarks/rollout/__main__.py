"""Runs the cases, prints the table, writes the report.

python -m benchmarks.rollout [--rollouts 2000] [--peers 1000] [--report build/reports/rollout.json]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.rollout.jobs import RATIOS, Job, run, simulate_seconds
from benchmarks.rollout.peers import PEERS
from benchmarks.rollout.report import OURS, show
from benchmarks.rollout.scenarios import POLICY, cases
from serinus.core.guards.budget import shares

_ORACLE = 20_000
# Medians near their goals need more rollouts to be told from them.
_MORE = {"errors x4": 5, "errors x10": 5}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollout", description=__doc__)
    parser.add_argument("--rollouts", type=int, default=2000, help="of our policy, a case")
    parser.add_argument("--peers", type=int, default=1000, help="of each peer, a case")
    parser.add_argument("--report", type=Path, default=Path("build/reports/rollout.json"))
    given = parser.parse_args()
    began = time.perf_counter()
    found = _run(list(_jobs(given.rollouts, given.peers)))
    every = cases()
    columns = (OURS, *(peer.name for peer in PEERS))
    table = {
        case.name: {name: found[name, case.name] for name in columns if (name, case.name) in found} for case in every
    }
    figures = _figures(table, found)
    figures["bench_seconds"] = round(time.perf_counter() - began, 1)
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(json.dumps({**figures, "cases": table}, indent=2) + "\n", encoding="utf-8")
    show(table, figures)
    return 0


def _jobs(rollouts: int, peers: int) -> Iterator[Job]:
    """Long ones first, so that the processes end together."""
    yield "paired", "", 40
    for name in RATIOS:
        yield "oracle", name, _ORACLE
    for case in sorted(cases(), key=lambda case: (case.growth > 0, case.look)):
        yield OURS, case.name, rollouts * _MORE.get(case.name, 1)
    for case in cases():
        for peer in PEERS if case.peers else ():
            yield peer.name, case.name, peers


def _run(jobs: list[Job]) -> dict[tuple[str, str], Any]:
    found: dict[tuple[str, str], Any] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool,
        Progress(*columns, console=Console(stderr=True)) as bar,
    ):
        task = bar.add_task("rollouts", total=len(jobs))
        running = {pool.submit(run, job): job for job in jobs}
        for future in as_completed(running):
            who, what, _ = running[future]
            found[who, what] = future.result()
            bar.update(task, advance=1, description=f"{who} {what}")
        found["simulate", ""] = pool.submit(simulate_seconds).result()
    return found


def _figures(table: dict[str, dict[str, Any]], found: dict[tuple[str, str], Any]) -> dict[str, Any]:
    ours = {name: row[OURS] for name, row in table.items()}
    healthy = {name: cell["taken_back"] for name, cell in ours.items() if name.startswith("healthy")}
    rows = found["paired", ""]
    blind = [cell["promoted"] for cell in ours.values() if cell["blind"]]
    return {
        "healthy_aborted": max(healthy.values()),
        "healthy_incident_aborted": healthy["healthy, incident on both"],
        **{
            f"{name.split()[1]}_over_oracle": round(ours[name]["requests"] / found["oracle", name], 3)
            for name in RATIOS
        },
        "paired_over_arms": round(rows["paired"] / rows["arms"], 5),
        "promoted_without_evidence": max(blind),
        "simulate_seconds": round(found["simulate", ""][0], 2),
        "simulate_cpu_seconds": round(found["simulate", ""][1], 2),
        "oracle": {name: found["oracle", name] for name in RATIOS},
        "alpha_errors": shares(POLICY)["errors"].harm,
        "paired": rows,
    }


if __name__ == "__main__":
    raise SystemExit(main())
