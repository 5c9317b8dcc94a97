"""Whole simulated rollouts end as their world deserves, and chance is drawn right."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.core.sequential.verdict import Verdict
from serinus.core.simulation import Outcomes, Result, panel_of, schedule, simulate, stages, take, world_of
from serinus.core.simulation_traffic import Change, Incident, Look, Scenario, Workload, World
from serinus.core.spec.rollout import Confirmation, Pace, Rollout, Shadow

SERVICE = Workload(rate=50.0, label_delay=timedelta(minutes=20))
HEALTHY = Scenario(name="healthy")
QUICK = Rollout(pace=Pace(maximum_duration=timedelta(hours=6)), confirmation=Confirmation(minimum_labels=500))


def run(scenario: Scenario, rollout: Rollout = QUICK, workload: Workload = SERVICE, size: int = 40) -> Outcomes:
    return simulate(rollout, world_of(rollout, workload, scenario), np.random.default_rng(0), size)


def share(outcomes: Outcomes, *results: Result) -> float:
    return float(np.isin(outcomes.result, results).mean())


def named(outcomes: Outcomes) -> set[str]:
    return {outcomes.guards[guard] if guard >= 0 else "none" for guard in outcomes.guard}


def test_a_healthy_canary_is_promoted_and_confirmed() -> None:
    outcomes = run(HEALTHY)
    assert share(outcomes, Result.CONFIRMED) == 1
    assert (outcomes.seconds > 15 * 60).all()
    assert named(outcomes) == {"none"}


@pytest.mark.parametrize(
    ("change", "result", "guard"),
    [
        (Change(errors=6), Result.ROLLED_BACK, "errors"),
        (Change(latency_p99=2), Result.ROLLED_BACK, "slow"),
        (Change(problems=4), Result.ROLLED_BACK, "features"),
        (Change(logit=1.5), Result.ROLLED_BACK, "predictions"),
        (Change(routed=2), Result.PAUSED, "sample-ratio"),
        (Change(quality=0.05), Result.UNDONE, "quality"),
        (Change(estimated=0.1), Result.ROLLED_BACK, "estimate"),
    ],
)
def test_what_is_wrong_is_caught_by_the_guard_for_it(change: Change, result: Result, guard: str) -> None:
    rollout = QUICK if guard != "quality" else QUICK.model_copy(update={"pace": Pace()})
    delayed = SERVICE if guard != "quality" else SERVICE.model_copy(update={"label_delay": timedelta(hours=2)})
    outcomes = run(Scenario(name="bad", change=change), rollout, delayed)
    assert share(outcomes, result) == 1
    assert guard in named(outcomes)
    assert outcomes.caught.all()


@pytest.mark.parametrize(
    "scenario", [Scenario(name="blind", metrics=False), Scenario(name="silent", stops=timedelta(minutes=2))]
)
@pytest.mark.parametrize("policy", ["pause", "rollback"])
def test_nothing_is_promoted_without_evidence(scenario: Scenario, policy: str) -> None:
    outcomes = run(scenario, QUICK.model_copy(update={"inconclusive": policy}))
    assert not outcomes.promoted.any()
    assert share(outcomes, Result.INCONCLUSIVE if policy == "pause" else Result.ROLLED_BACK) == 1
    assert (outcomes.seconds == 6 * 3600).all()


def test_an_incident_of_both_holds_no_canary_back_for_ever() -> None:
    outcomes = run(Scenario(name="incident", incident=Incident()))
    assert not outcomes.taken_back.any()
    assert outcomes.promoted.all()
    assert np.median(outcomes.seconds) > np.median(run(HEALTHY).seconds) - 600


def test_a_shadow_gives_no_answers() -> None:
    rollout = QUICK.model_copy(update={"shadow": Shadow()})
    outcomes = run(Scenario(name="bad", change=Change(errors=10)), rollout)
    assert [stage.name for stage in stages(rollout)][:2] == ["shadow", "5 %"]
    assert (outcomes.result == Result.ROLLED_BACK).all()
    assert (outcomes.served == 0).all()


def test_outcomes_that_predictions_change_need_the_randomised_arms() -> None:
    guards = QUICK.guards.model_copy(
        update={"quality": QUICK.guards.quality.model_copy(update={"predictions_change_outcomes": True})}
    )
    late = SERVICE.model_copy(update={"label_delay": timedelta(hours=2)})
    worse = Scenario(name="worse", change=Change(quality=0.01))
    randomised = run(worse, QUICK.model_copy(update={"guards": guards}), late)
    paired = run(worse, QUICK, late)
    assert share(paired, Result.UNDONE) == 1
    assert share(randomised, Result.KEPT) > 0.5
    clear = run(Scenario(name="clear", change=Change(quality=0.1)), QUICK.model_copy(update={"guards": guards}), late)
    assert share(clear, Result.UNDONE) == 1


def test_the_same_seed_gives_the_same_outcomes() -> None:
    bad = Scenario(name="bad", change=Change(errors=3))
    first, second = run(bad), run(bad)
    assert (first.result == second.result).all()
    assert (first.seconds == second.seconds).all()


@given(st.floats(1, 3600), st.floats(1, 1e6), st.sampled_from([0.0, 0.05, 0.1, 0.5]))
def test_looks_are_multiples_of_the_interval_and_the_last_is_the_end(
    interval: float, maximum: float, growth: float
) -> None:
    if maximum / interval > 3000:
        return
    looks = np.array(schedule(interval, maximum, growth))
    ticks = np.rint(looks / interval)
    assert np.allclose(looks, ticks * interval)
    assert ticks[0] == 1
    assert (np.diff(ticks) >= 1).all()
    assert (np.diff(ticks) <= np.maximum(1, growth * ticks[:-1])).all()
    assert looks[-1] >= maximum * (1 - 1e-6)
    assert looks[-1] < maximum + interval


def look(size: int, seconds: float, weight: float = 0.05) -> Look:
    one = np.ones(size)
    return Look(0 * one, seconds * one, 0 * one, weight * one, 0 * one)


def test_counts_have_the_means_that_the_workload_says() -> None:
    world = World(SERVICE, Scenario(name="bad", change=Change(errors=4, problems=2, routed=1.5)))
    traffic = world.draw(np.random.default_rng(0), look(4000, 600.0))
    canary, stable = traffic.canary, traffic.stable
    odds = 0.05 / 0.95 * 1.5
    assert canary.requests.mean() == pytest.approx(30_000 * odds / (1 + odds), rel=0.01)
    assert (canary.requests + stable.requests).mean() == pytest.approx(30_000, rel=0.01)
    assert canary.errors.sum() / canary.requests.sum() == pytest.approx(0.02, rel=0.05)
    assert stable.errors.sum() / stable.requests.sum() == pytest.approx(0.005, rel=0.05)
    assert canary.problems.sum() / canary.rows.sum() == pytest.approx(0.04, rel=0.05)
    assert (canary.latency.sum(axis=-1) == canary.requests - canary.errors).all()
    assert (canary.predictions.sum(axis=-1) == canary.rows).all()


def test_a_daily_cycle_moves_requests_but_not_their_number() -> None:
    world = World(Workload(rate=1.0, daily=0.8), HEALTHY)
    start, day = np.zeros(1), np.full(1, 86_400.0)
    assert world.expected(start, day, start) == pytest.approx(86_400)
    quarter = [float(world.expected(day * part / 4, day * (part + 1) / 4, start)[0]) for part in range(4)]
    assert quarter[0] + quarter[1] > 1.5 * (quarter[2] + quarter[3])
    assert min(quarter) > 0


def test_latency_has_the_quantile_that_was_asked_for() -> None:
    world = World(Workload(latency_p99=0.1), Scenario(name="slow", change=Change(latency_p99=1.5)))
    ours, theirs = world.latencies
    edge = world.workload.latency_edges.index(0.1)
    assert theirs[: edge + 1].sum() == pytest.approx(0.99)
    edge = world.workload.latency_edges.index(0.15)
    assert ours[: edge + 1].sum() == pytest.approx(0.99)


def test_some_rollouts_of_a_panels_states_are_those_rollouts() -> None:
    panel = panel_of(QUICK, SERVICE)
    traffic = world_of(QUICK, SERVICE, HEALTHY).draw(np.random.default_rng(0), look(6, 3600.0))
    states = panel.update(panel.start((6,)), traffic)
    some = np.array([True, False, True, True, False, False])
    assert (panel.codes(take(states, some)) == panel.codes(states)[some]).all()
    assert (panel.codes(states) != Verdict.HARM).all()
