"""One unit of work of a run: a policy on a case, in a process of its own, to which a `__main__` cannot be sent."""

from __future__ import annotations

import time
import zlib
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks import paired
from benchmarks.rollout import oracle
from benchmarks.rollout.peers import PEERS, PROMOTED, TAKEN_BACK
from benchmarks.rollout.report import OURS
from benchmarks.rollout.scenarios import POLICY, SERVICE, Case, cases
from serinus.core.guards.budget import shares
from serinus.core.simulation import Outcomes, Result, simulate, world_of

RATIOS = {"errors x2": 2.0, "errors x4": 4.0, "errors x10": 10.0}
Job = tuple[str, str, int]
"""Who (us, a peer, or what is measured once), on what case, how many rollouts."""


def run(job: Job) -> Any:
    """One job, in a process of its own."""
    who, what, rollouts = job
    if who == "paired":
        return asdict(paired.measure(rollouts=rollouts))
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


def simulate_seconds() -> tuple[float, float]:
    """What 2,000 rollouts of the default policy take in one process, the others being idle: the mean of two cases, by
    the clock and of a processor. They differ where other programs want the processors too."""
    took = []
    for case in (each for each in cases() if each.name in ("healthy", "p99 +20 %")):
        world = world_of(POLICY, SERVICE, case.scenario)
        began, used = time.perf_counter(), time.process_time()
        simulate(POLICY, world, np.random.default_rng(0))
        took.append((time.perf_counter() - began, time.process_time() - used))
    return sum(each[0] for each in took) / len(took), sum(each[1] for each in took) / len(took)
