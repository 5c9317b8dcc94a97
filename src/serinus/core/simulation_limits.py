"""Where a policy can never decide at a service's traffic, said in words before anybody waits for it.

No chance is involved: the guards are given what a healthy canary's traffic is expected to be over a whole stage, in one
look, and asked what they would say. Evidence grows with the counts, so what is not safe by then will hardly ever be.
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from serinus.core.guards.panel import Panel
from serinus.core.guards.reading import ArmCounts, Traffic
from serinus.core.sequential.verdict import Floats, Verdict
from serinus.core.simulation import Stage, panel_of, stages
from serinus.core.simulation_traffic import Look, Scenario, Workload, World
from serinus.core.spec.rollout import Rollout
from serinus.core.times import format_duration

# Stretches of a stage's maximum duration that are tried, to say how long a guard would need.
_STRETCHES = tuple(2.0 ** (power / 4) for power in range(-40, 49))
# A guard on a quantile whose steps are more than this share of it is worth a word.
_COARSE = 0.5


def warnings(rollout: Rollout, workload: Workload) -> tuple[str, ...]:
    """What a policy cannot do at this traffic, each in a sentence; none where all is well."""
    found = [*_traffic(rollout, workload), *_labels(rollout, workload), *_latency(rollout, workload)]
    return tuple(found)


def _traffic(rollout: Rollout, workload: Workload) -> list[str]:
    found, maximum = [], rollout.pace.maximum_duration
    for stage in stages(rollout):
        if stage.weight == 1.0:
            continue
        share = stage.shadow or stage.weight
        requests = workload.rate * maximum.total_seconds() * share
        where = (
            f"in the stage {stage.name} the canary gets about {requests:,.0f} requests in {format_duration(maximum)}"
        )
        if requests < rollout.pace.minimum_requests:
            found.append(f"{where}, and pace.minimumRequests is {rollout.pace.minimum_requests:,}: it never ends well")
            continue
        needs = _needs(rollout, workload, stage)
        never = [name for name, stretch in needs if stretch is None]
        late = [(name, stretch * requests) for name, stretch in needs if stretch is not None and stretch > 1]
        if never:
            found.append(f"{where}: no number makes {', '.join(never)} find a healthy canary safe; widen the margin")
        if late:
            words = ", ".join(f"{name} needs about {_rounded(needed)}" for name, needed in late)
            advice = "raise the weight, pace.maximumDuration or the margins"
            found.append(f"{where}: too few to find a healthy canary safe ({words}); {advice}")
    return found


def _rounded(count: float) -> str:
    return f"{float(f'{count:.2g}'):,.0f}"


def _needs(rollout: Rollout, workload: Workload, stage: Stage) -> list[tuple[str, float | None]]:
    """For each blocking guard, the multiple of a stage's maximum duration after which a healthy canary is safe."""
    panel = panel_of(rollout, workload, shadow=stage.shadow > 0)
    traffic = expected(rollout, workload, stage, rollout.pace.maximum_duration)
    scale = np.array(_STRETCHES)
    codes = panel.codes(panel.update(panel.start(scale.shape), _stretched(panel, traffic, scale)))
    needs: list[tuple[str, float | None]] = []
    for position in np.flatnonzero(panel.blocking):
        safe = np.flatnonzero(codes[:, position] == Verdict.SAFE)
        needs.append((panel.names[position], float(scale[safe[0]]) if safe.size else None))
    return needs


def expected(rollout: Rollout, workload: Workload, stage: Stage, duration: timedelta) -> Traffic:
    """What a stage's traffic is on average, if the canary is healthy: counts of shape [1]."""
    world = World(
        workload, Scenario(name="healthy"), panel_of(rollout, workload).slow_above + 1, len(rollout.guards.queries)
    )
    one = np.ones(1)
    seconds = duration.total_seconds()
    look = Look(0 * one, seconds * one, 0 * one, stage.weight * one, stage.shadow * one)
    requests = world.expected(look.at, look.end, look.phase)
    ours = requests * (stage.shadow or stage.weight)
    theirs = requests if stage.shadow else requests - ours
    return Traffic(_arm(world, ours, 0), _arm(world, theirs, 1), np.asarray(stage.weight * one))


def _arm(world: World, requests: Floats, arm: int) -> ArmCounts:
    load = world.workload
    answered = requests * (1 - load.errors)
    latency = answered[..., np.newaxis] * world.latencies[arm]
    queries = np.stack([requests * load.errors, requests], axis=-1)[..., np.newaxis, :]
    return ArmCounts(
        requests, requests * load.errors, latency[..., world.slow_from :].sum(axis=-1), latency, answered,
        answered * load.problems, answered[..., np.newaxis] * world.predictions[arm],
        np.repeat(queries, world.queries, axis=-2), requests,
    )  # fmt: skip


def _stretched(panel: Panel, traffic: Traffic, scale: Floats) -> Traffic:
    """The same traffic over several times as long, [S]."""

    def over(counts: Floats) -> Floats:
        return np.asarray(counts[0] * scale.reshape(-1, *(1,) * (counts.ndim - 1)), dtype=np.float64)

    canary, stable = (ArmCounts(*(over(each) for each in arm)) for arm in (traffic.canary, traffic.stable))
    return Traffic(canary, stable, np.full(scale.shape, traffic.weight[0]))


def _labels(rollout: Rollout, workload: Workload) -> list[str]:
    found, quality, confirmation = [], rollout.guards.quality, rollout.confirmation
    delay, late = workload.label_delay, format_duration(workload.label_delay)
    stage = rollout.pace.maximum_duration
    if quality.enabled and quality.blocking and delay >= stage:
        found.append(
            f"outcomes are known after {late}, and a stage ends after {format_duration(stage)}: a blocking guard on "
            "quality can never be satisfied; let the confirmation wait for outcomes instead"
        )
    if confirmation is None:
        return found
    if delay >= confirmation.maximum_duration:
        found.append(
            f"outcomes are known after {late}, and the confirmation ends after "
            f"{format_duration(confirmation.maximum_duration)}: hardly anything will be known by then"
        )
        return found
    known = workload.rate * workload.labelled * (confirmation.maximum_duration - delay).total_seconds()
    if known < confirmation.minimum_labels:
        found.append(
            f"about {known:,.0f} outcomes of requests since the promotion are known when the confirmation ends, and "
            f"confirmation.minimumLabels is {confirmation.minimum_labels:,}"
        )
    return found


def _latency(rollout: Rollout, workload: Workload) -> list[str]:
    found, edges, guards = [], workload.latency_edges, rollout.guards
    threshold = guards.slow.threshold.total_seconds()
    if guards.slow.enabled and threshold > edges[-1]:
        found.append(
            f"guards.slow.threshold is {format_duration(guards.slow.threshold)}, and latency is counted up to "
            f"{edges[-1]:g} s only: what is slower than that is counted instead"
        )
    above = [edge for edge in edges if edge >= workload.latency_p99 * (1 - 1e-9)]
    reached = [edge for edge in edges if above and edge >= above[0] * (1 + guards.latency.tolerance) * (1 - 1e-9)]
    if guards.latency.enabled and above and reached and reached[0] > workload.latency_p99 * (1 + _COARSE):
        found.append(
            f"latency is counted at few edges: by the guard latency a p99 of {1000 * workload.latency_p99:g} ms is "
            f"higher only beyond {1000 * reached[0]:g} ms; the guard slow sees less than that"
        )
    return found
