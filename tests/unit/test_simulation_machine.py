"""A simulated rollout and the state machine agree: the same counts in, the same stages and the same end out."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import pytest

from serinus.core.evidence import Arm, LossSums, QualityEvidence, Snapshot
from serinus.core.guards.reading import ArmCounts, Traffic
from serinus.core.rollout import Candidate, Decision, RolloutState, Situation, decide
from serinus.core.simulation import Outcomes, Result, simulate, stages, world_of
from serinus.core.simulation_quality import Known, LossWatch, Positions
from serinus.core.simulation_traffic import Change, Incident, Look, Scenario, Workload, World, prediction_shares
from serinus.core.spec.rollout import Confirmation, Pace, Rollout, Shadow

MINUTE = timedelta(minutes=1)
START = datetime(2026, 1, 5, tzinfo=UTC)
SERVICE = Workload(rate=200.0, label_delay=timedelta(minutes=12))
PACE = Pace(minimum_duration=timedelta(minutes=3), maximum_duration=timedelta(minutes=40))
POLICY = Rollout(
    steps=[10, 40],
    pace=PACE,
    confirmation=Confirmation(minimum_labels=20_000, maximum_duration=timedelta(minutes=30)),
)


class Seen(NamedTuple):
    """What one look of the simulation saw: traffic (None after the promotion), and losses so far."""

    traffic: Traffic | None
    labelled: tuple[float, ...]
    estimated: tuple[float, ...]


@dataclass(frozen=True)
class Recorded(World):
    """A world that keeps what it drew."""

    drawn: list[Traffic] = field(default_factory=list)

    def draw(self, rng: np.random.Generator, look: Look) -> Traffic:
        self.drawn.append(super().draw(rng, look))
        return self.drawn[-1]


def recorded(
    rollout: Rollout, scenario: Scenario, seed: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Outcomes, list[Seen]]:
    """One simulated rollout with a look a minute, and what each look saw."""
    plain = world_of(rollout, SERVICE, scenario)
    world = Recorded(SERVICE, scenario, plain.slow_from, plain.queries)
    seen: list[Seen] = []
    said = LossWatch.said

    def keep(self: LossWatch, which: Positions) -> Known:
        traffic = world.drawn.pop() if world.drawn else None
        seen.append(Seen(traffic, tuple(self.labelled[:, 0]), tuple(self.estimated[:, 0])))
        return said(self, which)

    monkeypatch.setattr(LossWatch, "said", keep)
    return simulate(rollout, world, np.random.default_rng(seed), 1, 0.0), seen


def grown(arm: Arm, more: ArmCounts) -> Arm:
    """Totals after one more interval of the only rollout."""

    def longer(before: tuple[float, ...], new: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> tuple[float, ...]:
        return tuple(np.array(before or np.zeros(len(new))) + new)

    return Arm(
        requests=arm.requests + more.requests[0],
        errors=arm.errors + more.errors[0],
        latency_edges=SERVICE.latency_edges,
        latency=longer(arm.latency, more.latency[0]),
        rows=arm.rows + more.rows[0],
        problems=arm.problems + more.problems[0],
        predictions=longer(arm.predictions, more.predictions[0]),
        routed=arm.routed + more.routed[0],
    )


def replayed(rollout: Rollout, seen: list[Seen]) -> list[Decision]:
    """The state machine's decisions on what the simulation saw, from the first stage on."""
    expected = tuple((10_000 * prediction_shares(SERVICE.logit, SERVICE.logit_spread)).tolist())
    target = Candidate(version=2, digest="sha256:two", expected=expected)
    state, now = RolloutState(stable=1), START
    for _ in range(2):  # it is started, and then ready
        decision = decide(rollout, state, Situation(target=target, ready={1: True, 2: True}), now)
        state = decision.state
    live, shadow, decisions = {1: Arm(), 2: Arm()}, {2: Arm()}, []
    for look in seen:
        now += MINUTE
        if look.traffic is not None:
            totals = shadow if state.phase == "shadow" else live
            totals[2] = grown(totals[2], look.traffic.canary)
            live[1] = grown(live[1], look.traffic.stable)
        quality = QualityEvidence(
            at=now,
            metric="log_loss",
            labelled=LossSums(rows=int(look.labelled[0]), total=look.labelled[1], squares=look.labelled[2]),
            estimated=LossSums(rows=int(look.estimated[0]), total=look.estimated[1], squares=look.estimated[2]),
        )
        snapshot = Snapshot(at=now, source="scrape", live=dict(live), shadow=dict(shadow))
        situation = Situation(target=target, ready={1: True, 2: True}, traffic=snapshot, quality=quality)
        decision = decide(rollout, state, situation, now)
        state = decision.state
        decisions.append(decision)
    return decisions


ACTIONS = {
    Result.ROLLED_BACK: "rollback",
    Result.UNDONE: "undo",
    Result.PAUSED: "pause",
    Result.INCONCLUSIVE: "pause",
    Result.KEPT: "confirm",
    Result.CONFIRMED: "confirm",
}
CASES = {
    "healthy": Scenario(name="healthy"),
    "errors": Scenario(name="errors", change=Change(errors=3)),
    "in doubt": Scenario(name="in doubt", change=Change(errors=1.9)),
    "predictions": Scenario(name="predictions", change=Change(logit=0.5)),
    "split": Scenario(name="split", change=Change(routed=1.3)),
    "labels": Scenario(name="labels", change=Change(quality=0.004)),
    "incident": Scenario(name="incident", incident=Incident(errors=40, duration=timedelta(minutes=10))),
    "silence": Scenario(name="silence", stops=timedelta(minutes=2)),
}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_simulation_and_state_machine_agree(case: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = POLICY.model_copy(update={"shadow": Shadow(percent=50)}) if case in ("errors", "healthy") else POLICY
    outcomes, seen = recorded(rollout, CASES[case], seed, monkeypatch)
    decisions = replayed(rollout, seen)

    done = [each.action for each in decisions if each.action != "hold"]
    steps = int(outcomes.stage[0])
    promoted = bool(outcomes.promoted[0])
    advances = len(stages(rollout)) - 2 if promoted else steps
    assert done == ["advance"] * advances + ["promote"] * promoted + [ACTIONS[Result(outcomes.result[0])]]
    assert decisions[-1].action == done[-1]
    assert (decisions[-1].at - START).total_seconds() == outcomes.seconds[0]
    if outcomes.guard[0] >= 0:
        harmful = {each.guard for each in decisions[-1].readings if each.verdict == "harm"}
        assert outcomes.guards[outcomes.guard[0]] in harmful
