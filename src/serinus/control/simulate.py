"""`serinus simulate`: what a rollout policy would do at a service's traffic, before it is used.

Cases run side by side, one process a core: they do not depend on one another, and each has a seed of its own that
follows from its name, so that a case gives the same figures whatever else is asked.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from multiprocessing import get_context
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from serinus.core.evidence import Arm, Frozen
from serinus.core.profile import PREDICTION_EDGES
from serinus.core.simulation import Outcomes, simulate, world_of
from serinus.core.simulation_limits import warnings
from serinus.core.simulation_summary import Summary, summarise
from serinus.core.simulation_traffic import Scenario, Workload
from serinus.core.spec.rollout import Rollout

if TYPE_CHECKING:
    from serinus.control.state import StackState

Progress = Callable[[str], None]
# Fewer tell too little of a service's latency and predictions.
_ENOUGH = 1000


class Case(NamedTuple):
    """One scenario to be run: everything that a worker process needs."""

    rollout: Rollout
    workload: Workload
    scenario: Scenario
    rollouts: int
    seed: int


class SimulationReport(Frozen):
    """What was simulated, what cannot work at this traffic, and how each scenario ended."""

    rollouts: int
    seed: int
    workload: Workload
    policy: Rollout
    warnings: tuple[str, ...]
    scenarios: tuple[Summary, ...]


@dataclass(frozen=True)
class Simulated:
    """A report, and the outcomes behind it."""

    report: SimulationReport
    outcomes: dict[str, Outcomes]


def run_case(case: Case) -> Outcomes:
    """Run one scenario."""
    rng = np.random.default_rng([case.seed, zlib.crc32(case.scenario.name.encode())])
    return simulate(case.rollout, world_of(case.rollout, case.workload, case.scenario), rng, case.rollouts)


def simulate_all(case: Case, scenarios: Sequence[Scenario], progress: Progress) -> Simulated:
    """Run scenarios of one policy and workload; `case` gives all but the scenario. `progress` is told of each's end."""
    outcomes: dict[str, Outcomes] = {}
    with _workers(len(scenarios)) as pool:
        running = {pool.submit(run_case, case._replace(scenario=each)): each.name for each in scenarios}
        for future in as_completed(running):
            outcomes[running[future]] = future.result()
            progress(running[future])
    report = SimulationReport(
        rollouts=case.rollouts,
        seed=case.seed,
        workload=case.workload,
        policy=case.rollout,
        warnings=warnings(case.rollout, case.workload),
        scenarios=tuple(summarise(each, outcomes[each.name]) for each in scenarios),
    )
    return Simulated(report, outcomes)


@contextmanager
def _workers(jobs: int) -> Iterator[Executor]:
    # Started afresh rather than forked: the program may have threads by now, such as one that shows progress.
    pool = ProcessPoolExecutor(max(1, min(os.cpu_count() or 1, jobs)), mp_context=get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def measured(state: StackState, now: datetime, assumed: Workload) -> Workload:
    """The traffic of a running stack's stable version since it was started; what its metrics do not tell is assumed."""
    from serinus.control.evidence import ScrapeSource

    snapshot = ScrapeSource(state.address, state.model).snapshot([state.stable], None, now)
    seconds = (now - state.started_at).total_seconds()
    return workload_of(snapshot.arm(state.stable), seconds, assumed)


def workload_of(arm: Arm, seconds: float, assumed: Workload) -> Workload:
    """What a version's totals over some seconds say of its traffic; the rest as assumed."""
    if arm.requests <= 0 or seconds <= 0:
        return assumed
    known: dict[str, object] = {"rate": arm.requests / seconds}
    if arm.requests >= _ENOUGH:
        known["errors"] = min(arm.errors / arm.requests, 0.99)
        known["problems"] = min(arm.problems / arm.rows, 0.99) if arm.rows else assumed.problems
        known |= _latency(arm) | _predictions(arm)
    return Workload.model_validate({**assumed.model_dump(), **known})


def _latency(arm: Arm) -> dict[str, object]:
    counts, edges = np.array(arm.latency), np.array(arm.latency_edges)
    if not len(edges) or counts.sum() < _ENOUGH:
        return {}
    # Between the buckets' edges, in logarithms, as latency spreads.
    below = np.cumsum(counts)[:-1] / counts.sum()
    median, p99 = np.exp(np.interp([0.5, 0.99], below, np.log(edges)))
    found = {"latency_median": float(median), "latency_edges": tuple(edges.tolist())}
    return {**found, "latency_p99": float(max(p99, 1.01 * median))}


def _predictions(arm: Arm) -> dict[str, object]:
    counts = np.array(arm.predictions)[1:]
    if not len(counts) or counts.sum() < _ENOUGH:
        return {}
    middles = (np.array([0.0, *PREDICTION_EDGES]) + np.array([*PREDICTION_EDGES, 1.0])) / 2
    logits = np.log(middles / (1 - middles))
    mean = float((counts * logits).sum() / counts.sum())
    spread = float(np.sqrt((counts * (logits - mean) ** 2).sum() / counts.sum()))
    return {"logit": mean, "logit_spread": max(spread, 0.05)}
