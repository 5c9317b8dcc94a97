"""Warnings say where a policy cannot decide, and only there; a running service's totals become a workload."""

from __future__ import annotations

import re
from datetime import timedelta

import numpy as np
import pytest

from serinus.control.simulate import workload_of
from serinus.control.simulate_page import short
from serinus.core.evidence import Arm
from serinus.core.simulation import simulate, world_of
from serinus.core.simulation_limits import warnings
from serinus.core.simulation_summary import default_scenarios, summarise
from serinus.core.simulation_traffic import Change, Look, Scenario, Workload, World
from serinus.core.spec.rollout import Confirmation, Errors, Guards, Latency, Pace, Quality, Rollout, Shadow, Slow

FINE = tuple(0.001 * 1.04**step for step in range(1, 220))
QUIET = Rollout(guards=Guards(latency=Latency(enabled=False)))


def test_a_policy_that_fits_its_traffic_is_not_warned_of() -> None:
    assert warnings(QUIET, Workload(rate=50)) == ()


def test_too_little_traffic_is_said_with_what_would_be_needed() -> None:
    (said,) = warnings(QUIET.model_copy(update={"steps": [5]}), Workload(rate=0.1))
    assert "in the stage 5 % the canary gets about 432 requests in 1d: too few" in said
    assert "errors needs about" in said


def test_what_a_warning_says_is_needed_is_about_what_simulated_rollouts_need() -> None:
    policy = QUIET.model_copy(update={"steps": [5], "confirmation": None})
    (said,) = warnings(policy, Workload(rate=0.1))
    found = re.search(r"errors needs about ([0-9,]+)", said)
    assert found is not None
    needed = float(found[1].replace(",", ""))
    policy = policy.model_copy(update={"pace": Pace(maximum_duration=timedelta(days=5))})
    load = Workload(rate=1.0)
    outcomes = simulate(policy, world_of(policy, load, Scenario(name="healthy")), np.random.default_rng(0), 100)
    assert outcomes.promoted.mean() >= 1 - policy.alpha / 2
    assert 0.5 * needed < np.median(outcomes.judged) < 1.5 * needed


def test_a_minimum_of_requests_beyond_the_traffic_never_ends_well() -> None:
    policy = QUIET.model_copy(update={"steps": [1], "pace": Pace(minimum_requests=10_000)})
    (said,) = warnings(policy, Workload(rate=1))
    assert "pace.minimumRequests is 10,000" in said


def test_a_shadow_is_a_stage_too() -> None:
    policy = QUIET.model_copy(update={"shadow": Shadow(percent=1)})
    assert any("stage shadow" in said for said in warnings(policy, Workload(rate=1)))


def test_a_margin_that_a_healthy_canary_cannot_keep_is_named() -> None:
    errors = Guards(latency=Latency(enabled=False), errors=Errors(ratio=1, margin=0.0001))
    assert any("errors" in said for said in warnings(Rollout(guards=errors), Workload(rate=1)))


@pytest.mark.parametrize(
    ("delay", "words"),
    [
        (timedelta(days=2), "a blocking guard on quality can never be satisfied"),
        (timedelta(days=9), "hardly anything will be known by then"),
    ],
)
def test_outcomes_that_come_too_late_are_said(delay: timedelta, words: str) -> None:
    guards = Guards(latency=Latency(enabled=False), quality=Quality(blocking=True))
    said = warnings(Rollout(guards=guards), Workload(rate=50, label_delay=delay))
    assert any(words in each for each in said)


def test_fewer_outcomes_than_a_confirmation_asks_for_are_said() -> None:
    policy = QUIET.model_copy(update={"confirmation": Confirmation(minimum_labels=10_000_000)})
    (said,) = warnings(policy, Workload(rate=10))
    assert "confirmation.minimumLabels is 10,000,000" in said


def test_latency_thresholds_that_the_buckets_do_not_know_are_said() -> None:
    slow = Guards(latency=Latency(enabled=False), slow=Slow(threshold=timedelta(seconds=8)))
    assert any(
        "latency is counted up to 5 s only" in said for said in warnings(Rollout(guards=slow), Workload(rate=50))
    )
    assert any("higher only beyond 150 ms" in said for said in warnings(Rollout(), Workload(rate=50)))
    assert warnings(Rollout(), Workload(rate=50, latency_edges=FINE)) == ()


def totals(load: Workload, seconds: float) -> Arm:
    one = np.ones(1)
    look = Look(0 * one, seconds * one, 0 * one, 0 * one, 0 * one)
    drawn = World(load, Scenario(name="any")).draw(np.random.default_rng(0), look).stable
    return Arm(
        requests=drawn.requests[0],
        errors=drawn.errors[0],
        latency_edges=load.latency_edges,
        latency=tuple(drawn.latency[0]),
        rows=drawn.rows[0],
        problems=drawn.problems[0],
        predictions=tuple(drawn.predictions[0]),
    )


def test_a_running_services_totals_say_what_its_traffic_is() -> None:
    real = Workload(
        rate=40, errors=0.02, latency_median=0.03, latency_p99=0.2, problems=0.1, logit=-0.5, logit_spread=0.8
    )
    found = workload_of(totals(real, 7200), 7200, Workload(label_delay=timedelta(days=1)))
    assert found.label_delay == timedelta(days=1)
    for name in ("rate", "errors", "latency_median", "latency_p99", "problems", "logit", "logit_spread"):
        assert getattr(found, name) == pytest.approx(getattr(real, name), rel=0.15), name


def test_few_requests_tell_the_rate_only_and_none_tell_nothing() -> None:
    assumed = Workload(errors=0.123)
    found = workload_of(totals(Workload(rate=1), 100), 100, assumed)
    assert found.rate == pytest.approx(1, rel=0.3)
    assert found.errors == assumed.errors
    assert workload_of(Arm(), 100, assumed) == assumed


def test_a_summary_says_who_was_stopped_by_what_and_when() -> None:
    bad = Scenario(name="bad", change=Change(errors=10), bad=True)
    policy = Rollout()
    outcomes = simulate(policy, world_of(policy, Workload(rate=50), bad), np.random.default_rng(0), 50)
    summary = summarise(bad, outcomes)
    assert summary.caught == summary.rolled_back == 1
    assert set(summary.guards) == {"errors"}
    assert summary.requests is not None
    assert summary.requests.median <= summary.requests.p90
    assert summary.promotion_seconds is None
    assert sum((summary.promoted, summary.inconclusive, summary.caught)) == pytest.approx(1)


def test_default_scenarios_have_names_of_their_own() -> None:
    names = [each.name for each in default_scenarios()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("count", "text"), [(950, "950"), (999.6, "1k"), (9_700, "9.7k"), (123_456, "123k"), (2.1e6, "2.1M")]
)
def test_numbers_are_said_in_few_characters(count: float, text: str) -> None:
    assert short(count) == text
