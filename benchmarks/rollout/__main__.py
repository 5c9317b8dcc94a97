"""Runs the cases, prints the table, writes the report.

python -m benchmarks.rollout [--rollouts 2000] [--peers 1000] [--report build/reports/rollout.json]
"""

from __future__ import annotations

import argparse
import json
import os
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.rollout import oracle, paired
from benchmarks.rollout.peers import PEERS, PROMOTED, TAKEN_BACK
from benchmarks.rollout.report import OURS, show
from benchmarks.rollout.scenarios import POLICY, SERVICE, Case, cases
from serinus.core.guards.budget import shares
from serinus.core.simulation import Outcomes, Result, simulate, world_of

RATIOS = {"errors x2": 2.0, "errors x4": 4.0, "errors x10": 10.0}
_ORACLE = 20_000
# Medians near their goals need more rollouts to be told from them.
_MORE = {"errors x4": 5, "errors x10": 5}
Job = tuple[str, str, int]


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
    yield "paired", "", 100
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
        found["simulate", ""] = pool.submit(_simulate_seconds).result()
    return found


def run(job: Job) -> Any:
    """One job, in a process of its own."""
    who, what, rollouts = job
    if who == "paired":
        return paired.measure(rollouts)._asdict()
    if who == "oracle":
        setting = (SERVICE.rate * 60, POLICY.steps[0] / 100, SERVICE.errors)
        return float(np.median(oracle.requests(RATIOS[what], setting, shares(POLICY)["errors"].harm, rollouts)))
    case = next(each for each in cases() if each.name == what)
    rng = np.random.default_rng(zlib.crc32(f"{who} {what}".encode()))
    if who == OURS:
        world = world_of(case.policy, case.workload, case.scenario)
        return _ours(case, simulate(case.policy, world, rng, rollouts, case.growth))
    peer = next(each for each in PEERS if each.name == who)
    ends = peer.run(world_of(POLICY, case.workload, case.scenario), rollouts, rng)
    stopped = ends.result == TAKEN_BACK
    return {
        "stopped": float(stopped.mean()),
        "promoted": float((ends.result == PROMOTED).mean()),
        "requests": _median(ends.requests[stopped]),
        "seconds": _median(ends.seconds[stopped]),
        "blind": _blind(case),
    }


def _ours(case: Case, outcomes: Outcomes) -> dict[str, Any]:
    stopped = outcomes.guard >= 0
    names, counts = np.unique(outcomes.guard[stopped], return_counts=True)
    return {
        "stopped": float(stopped.mean()),
        "taken_back": float(outcomes.taken_back.mean()),
        "promoted": float(outcomes.promoted.mean()),
        "inconclusive": float((outcomes.result == Result.INCONCLUSIVE).mean()),
        # What the tests knew of, as for the oracle; `served` has the interval before each stage's first totals too.
        "requests": _median(outcomes.judged[stopped]),
        "served": _median(outcomes.served[stopped]),
        "seconds": _median(outcomes.seconds[stopped]),
        "guards": {outcomes.guards[name]: int(count) for name, count in zip(names, counts, strict=True)},
        "rollouts": len(stopped),
        "blind": _blind(case),
    }


def _blind(case: Case) -> bool:
    """Whether there is never enough evidence to promote anything."""
    return not case.scenario.metrics or case.scenario.stops is not None


def _median(values: Any) -> float | None:
    return float(np.median(values)) if len(values) else None


def _simulate_seconds() -> float:
    """What 2,000 rollouts of the default policy take in one process while others are idle: the mean of two cases."""
    took = []
    for case in (each for each in cases() if each.name in ("healthy", "p99 +20 %")):
        world = world_of(POLICY, SERVICE, case.scenario)
        began = time.perf_counter()
        simulate(POLICY, world, np.random.default_rng(0))
        took.append(time.perf_counter() - began)
    return sum(took) / len(took)


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
        "simulate_seconds": round(found["simulate", ""], 2),
        "oracle": {name: found["oracle", name] for name in RATIOS},
        "alpha_errors": shares(POLICY)["errors"].harm,
        "paired": rows,
    }


if __name__ == "__main__":
    raise SystemExit(main())
