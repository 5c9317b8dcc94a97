"""The state machine of rollouts: what evidence does to a canary in each case, and what it never does."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serinus.core.evidence import Arm, Snapshot
from serinus.core.rollout import Candidate, Shares, Situation, decide
from serinus.core.spec.rollout import Confirmation, Shadow
from tests.support_rollout import (
    BINS,
    MINUTE,
    PLAIN,
    THREE,
    WELL,
    Behaviour,
    World,
    command,
    labelled,
    replace_arm,
)


def test_a_healthy_canary_goes_through_every_stage_and_is_promoted() -> None:
    world = World(PLAIN.model_copy(update={"shadow": Shadow(percent=50)}))
    weights = []
    while world.state.stable == 1:
        world.minute()
        weights.append((world.shares.weight, world.shares.shadow))
    assert world.actions() == ["start", "advance", "advance", "advance", "advance", "promote"]
    assert list(dict.fromkeys(weights)) == [(0, 0), (0, 50), (5, 0), (20, 0), (50, 0)]
    assert world.shares == Shares(stable=2)
    assert world.state.last is not None
    assert world.state.last.result == "promoted"


@pytest.mark.parametrize(
    ("canary", "guard"),
    [
        (Behaviour(errors=0.02), "errors"),
        (Behaviour(seconds=0.2), "slow"),
        (Behaviour(problems=0.2), "features"),
        (Behaviour(prediction=11), "predictions"),
    ],
)
@pytest.mark.parametrize("shadow", [None, Shadow()])
def test_a_bad_canary_is_taken_back_for_what_is_wrong_with_it(
    canary: Behaviour, guard: str, shadow: Shadow | None
) -> None:
    world = World(PLAIN.model_copy(update={"shadow": shadow}), canary=canary)
    decision = world.until("rollback", 200)
    assert guard in {each.guard for each in decision.readings if each.verdict == "harm"}
    assert any(reason.startswith(guard) for reason in decision.reasons)
    assert world.shares == Shares(stable=1)
    assert world.state.refusal(2) is not None
    if shadow is not None:
        assert all(each.shares.weight == 0 for each in world.decisions), "the shadow was to find it"


def test_one_that_errs_no_more_than_a_sick_stable_version_is_not_promoted_for_that() -> None:
    world = World(PLAIN, canary=Behaviour(errors=0.2), stable=Behaviour(errors=0.2))
    for _ in range(120):
        decision = world.minute()
    assert world.actions() == ["start", "advance"]
    assert any("the stable version itself errs too often" in reason for reason in decision.reasons)


def test_one_that_errs_little_replaces_a_sick_stable_version() -> None:
    world = World(PLAIN, canary=Behaviour(errors=0.001), stable=Behaviour(errors=0.2))
    assert world.until("promote").shares.stable == 2


def test_answers_without_features_earn_a_version_nothing() -> None:
    lost = Behaviour(problems=0.99)
    world = World(PLAIN, canary=lost, stable=lost)
    for _ in range(30):
        decision = world.minute()
    assert world.actions() == ["start", "advance"]
    assert any("the stable version itself lacks too many features" in reason for reason in decision.reasons)
    world.canary = world.stable = WELL
    assert world.until("promote").shares.stable == 2


def test_missing_evidence_is_neither_good_nor_bad() -> None:
    world = World(PLAIN)
    world.until("advance")
    world.missing = ("version 2 was not scraped",)
    for _ in range(60):
        assert world.minute().action == "hold"
    assert any("was not scraped" in reason for reason in world.decisions[-1].reasons)
    world.missing = ()
    assert world.until("promote").shares.stable == 2


@pytest.mark.parametrize("policy", ["pause", "rollback"])
def test_without_any_evidence_a_stage_ends_inconclusive_as_the_policy_says(policy: str) -> None:
    world = World(PLAIN.model_copy(update={"inconclusive": policy}))
    world.until("advance")
    decision = world.until(policy, 400) if world.missing else None
    assert decision is None
    for _ in range(400):
        decision = world.minute(traffic=None)
        if decision.action != "hold":
            break
    assert decision is not None
    assert decision.action == policy
    assert "still undecided after 6h" in decision.reasons[0]
    assert decision.state.stable == 1


def test_a_split_that_is_not_the_configured_one_pauses_and_blames_nobody() -> None:
    world = World(PLAIN)
    world.until("advance")
    while world.state.paused is None:
        world.minute()
        world.live[2] = replace_arm(world.live.get(2, Arm()), routed=world.live.get(2, Arm()).routed + 400)
    assert world.state.canary is not None
    assert "sample-ratio" in world.state.paused.why
    assert world.decisions[-1].shares.weight == 5


def test_a_promotion_is_provisional_until_outcomes_confirm_it() -> None:
    world = World(PLAIN.model_copy(update={"confirmation": Confirmation()}))
    decision = world.until("promote")
    assert decision.shares == Shares(stable=1, canary=2, weight=100)
    world.quality = labelled(500, -0.05)
    assert "500 of 1,000 outcomes" in world.minute().reasons[0]
    world.quality = labelled(5000, -0.05)
    assert world.minute().action == "confirm"
    assert world.shares == Shares(stable=2)


def test_outcomes_undo_a_promotion() -> None:
    world = World(PLAIN.model_copy(update={"confirmation": Confirmation()}))
    world.until("promote")
    world.quality = labelled(5000, 0.1)
    decision = world.minute()
    assert (decision.action, decision.shares) == ("undo", Shares(stable=1))
    assert decision.reasons[0].startswith("quality")
    assert world.state.refusal(2) is not None


@pytest.mark.parametrize(("policy", "stable"), [("confirm", 2), ("undo", 1)])
def test_outcomes_that_never_come_end_as_the_policy_says(policy: str, stable: int) -> None:
    confirmation = Confirmation(maximum_duration=timedelta(hours=1), inconclusive=policy)
    world = World(PLAIN.model_copy(update={"confirmation": confirmation}))
    world.until("promote")
    assert world.until(policy, 100).shares == Shares(stable=stable)


def test_a_version_that_does_not_get_ready_is_taken_back() -> None:
    world = World(PLAIN, ready=False)
    decision = world.until("rollback", 60)
    assert "was not ready for 10m" in decision.reasons[0]
    assert all(each.shares.weight == 0 for each in world.decisions)


def test_a_version_that_can_never_be_served_is_taken_back_at_once() -> None:
    world = World(PLAIN, ready=False)
    world.until("start")
    decision = world.minute(broken="its archive has another digest than was registered")
    assert decision.action == "rollback"
    assert "another digest" in decision.reasons[0]


def test_a_canary_that_dies_during_a_step_is_taken_back() -> None:
    world = World(PLAIN)
    world.until("advance")
    world.ready = False
    assert "not ready" in world.until("rollback", 60).reasons[0]


def test_a_clock_that_jumps_neither_shortens_nor_ends_a_stage() -> None:
    world = World(PLAIN)
    world.until("advance")
    world.now += timedelta(days=400)
    assert world.minute().action == "hold"
    assert world.state.paused is None
    world.now -= timedelta(days=400)
    for _ in range(5):
        assert world.minute().action == "hold"
    assert world.state.watched <= 8 * MINUTE


def test_a_fallen_counter_makes_comparing_begin_anew() -> None:
    world = World(PLAIN)
    world.until("advance")
    world.minute()
    world.minute()
    before = world.state.tests
    world.live = {}
    assert any("fell" in reason for reason in world.minute().reasons)
    assert world.state.tests == before


def test_evidence_of_shares_that_are_not_in_force_counts_for_nothing() -> None:
    world = World(PLAIN)
    world.until("advance")
    decision = world.minute(applied=False)
    assert any("not in force" in reason for reason in decision.reasons)
    assert world.state.baseline is None


HOSTILE = st.fixed_dictionaries(
    {},
    optional={
        "applied": st.booleans(),
        "traffic": st.none(),
        "trouble": st.just("the front door does not answer"),
        "target": st.sampled_from([None, Candidate(version=1, digest="sha256:one"), THREE]),
        "ready": st.sampled_from([{}, {1: True}, {2: True}, {1: True, 2: False}]),
        "commands": st.lists(
            st.builds(
                command,
                st.sampled_from(["pause", "resume", "rollback", "approve", "start"]),
                id=st.text("abc", min_size=1, max_size=3),
                weight=st.sampled_from([5.0, 100.0]),
            ),
            max_size=2,
        ).map(tuple),
    },
)


@settings(max_examples=40)
@given(st.lists(HOSTILE, min_size=5, max_size=30), st.integers(0, 2**16), st.sampled_from([0.0005, 0.005, 0.05, 0.5]))
def test_whatever_happens_the_shares_follow_the_steps(given: list[dict[str, object]], seed: int, errors: float) -> None:
    world = World(PLAIN, canary=Behaviour(errors=errors), seed=seed)
    world.until("advance")
    weight = world.shares.weight
    for each in given:
        was = world.state
        decision = world.minute(**each)
        assert decision.shares.stable == decision.state.stable
        assert decision.shares.weight in (0, 5, 20, 50)
        if decision.shares.weight > weight and was.phase == "step":
            assert decision.action == "advance"
            assert "traffic" not in each
            assert each.get("applied", True)
            blocking = [reading for reading in decision.readings if reading.blocking]
            assert blocking
            assert all(reading.verdict == "safe" for reading in blocking)
        weight = decision.shares.weight


def test_evidence_that_comes_twice_or_late_counts_once() -> None:
    world = World(PLAIN)
    world.until("advance")
    world.minute()
    early = Snapshot(at=world.now, source="scrape", live=dict(world.live))
    world.minute()
    newest = Snapshot(at=world.now, source="scrape", live=dict(world.live))
    before = world.state
    for snapshot in (newest, early, newest):
        situation = Situation(target=world.target, ready={1: True, 2: True}, traffic=snapshot)
        decision = decide(PLAIN, before, situation, world.now)
        assert decision.action == "hold"
        assert (decision.state.tests, decision.state.requests) == (before.tests, before.requests)
        assert decision.state.baseline == newest


def test_the_first_evidence_is_only_where_comparing_begins() -> None:
    world = World(PLAIN)
    world.live = {1: replace_arm(Arm(), requests=10_000, errors=9_000), 2: replace_arm(Arm(), requests=500, errors=500)}
    world.until("advance")
    world.minute()
    assert world.state.requests == 0
    world.minute()
    assert world.decisions[-1].readings
    assert world.until("promote").shares.stable == 2


def test_a_canary_whose_held_out_predictions_cannot_be_read_again_goes_on() -> None:
    world = World(PLAIN, target=Candidate(version=2, digest="sha256:two", expected=(1.0,) * BINS))
    world.until("advance")
    world.target = Candidate(version=2, digest="sha256:two")
    assert world.minute().action == "hold"
    world.target = Candidate(version=2, digest="sha256:other")
    assert world.minute().action == "supersede"
