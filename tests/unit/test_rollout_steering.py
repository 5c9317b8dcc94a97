"""Rollouts under way when somebody wants something: a command, an approval, a freeze, another version or policy."""

from __future__ import annotations

from datetime import timedelta

import pytest

from serinus.core.rollout import Candidate, Command, RolloutState, Shares, Situation, decide, shares
from serinus.core.spec.rollout import Confirmation, Errors, FreezeWindow, Guards
from tests.support_rollout import (
    PLAIN,
    START,
    THREE,
    WELL,
    Behaviour,
    World,
    command,
)


def test_a_version_that_was_taken_back_is_not_tried_again_unless_somebody_asks() -> None:
    world = World(PLAIN, canary=Behaviour(errors=0.05))
    world.until("rollback")
    assert "is not tried again" in world.minute().reasons[0]
    world.minute(commands=(command("start", candidate=world.target),))
    world.canary = WELL
    assert world.until("promote").shares == Shares(stable=2)


def test_harm_acts_on_a_paused_rollout_and_safe_does_not() -> None:
    world = World(PLAIN)
    world.until("advance")
    world.minute(commands=(command("pause"),))
    for _ in range(60):
        assert world.minute().action == "hold"
    world.canary = Behaviour(errors=0.3)
    assert world.until("rollback", 60).shares == Shares(stable=1)


def test_a_resumed_rollout_goes_on() -> None:
    world = World(PLAIN)
    world.until("advance")
    world.minute(commands=(command("pause"),))
    assert world.minute(commands=(command("resume"),)).action == "resume"
    assert world.until("promote").shares.stable == 2


def test_a_step_waits_for_its_approval() -> None:
    world = World(PLAIN.model_copy(update={"approvals": [100.0]}))
    for _ in range(120):
        world.minute()
    assert world.shares.weight == 50
    assert "waits for `serinus rollout approve 100`" in world.decisions[-1].reasons[0]
    world.minute(commands=(command("approve", weight=50),))
    assert "steps that wait for an approval: 100" in world.decisions[-1].reasons[1]
    world.minute(commands=(command("approve", id="approve-2", weight=100),))
    assert world.minute().action == "promote"


def test_nothing_goes_forward_in_a_freeze_window_but_harm_goes_back() -> None:
    frozen = PLAIN.model_copy(update={"freeze": [FreezeWindow(start="30 12 * * *", duration=timedelta(hours=5))]})
    world = World(frozen)
    for _ in range(200):
        world.minute()
    weight = world.shares.weight
    assert any("freeze window" in reason for reason in world.decisions[-1].reasons)
    world.canary = Behaviour(errors=0.3)
    assert world.until("rollback", 60).shares == Shares(stable=1)
    assert weight < 50


def test_a_newer_version_takes_the_place_of_one_that_is_rolled_out() -> None:
    world = World(PLAIN)
    world.until("advance")
    world.target = THREE
    assert world.minute().action == "supersede"
    assert world.shares == Shares(stable=1)
    assert world.minute().action == "start"
    assert world.until("promote").shares == Shares(stable=3)


def test_a_newer_version_waits_for_a_provisional_one() -> None:
    world = World(PLAIN.model_copy(update={"confirmation": Confirmation()}))
    world.until("promote")
    world.target = THREE
    assert world.minute().action == "hold"
    assert world.state.canary is not None
    assert world.state.canary.version == 2


def test_a_version_that_is_asked_for_no_longer_is_withdrawn_without_blame() -> None:
    world = World(PLAIN)
    world.until("advance")
    world.target = Candidate(version=1, digest="sha256:one")
    assert world.minute().action == "rollback"
    assert world.state.refusal(2) is None
    world.target = Candidate(version=2, digest="sha256:two")
    assert world.minute().action == "start"


def test_another_policy_begins_the_stage_anew_and_gives_no_more_than_before() -> None:
    world = World(PLAIN)
    while world.shares.weight != 20:
        world.minute()
    world.rollout = PLAIN.model_copy(update={"steps": [10.0], "guards": Guards(errors=Errors(ratio=2.0))})
    decision = world.minute()
    assert "policy has changed" in decision.reasons[0]
    assert decision.shares.weight == 10
    assert world.until("promote").shares.stable == 2


def test_a_policy_of_larger_steps_gives_nothing_until_its_first_step_is_earned() -> None:
    world = World(PLAIN)
    world.until("advance")
    before = world.shares.weight
    world.rollout = PLAIN.model_copy(update={"steps": [40.0, 80.0]})
    decision = world.minute()
    assert "policy has changed" in decision.reasons[0]
    assert decision.shares.weight == 0 < before
    assert world.until("advance").shares.weight == 40


def test_a_command_under_a_policy_with_fewer_steps_changes_no_share() -> None:
    world = World(PLAIN)
    while world.shares.weight != 50:
        world.minute()
    world.rollout = PLAIN.model_copy(update={"steps": [10.0]})
    asked = Command(id="a", verb="pause", who="ann", why="lunch", at=world.now)
    decision = decide(world.rollout, world.state, Situation(commands=(asked,)), world.now)
    assert (decision.action, decision.shares.weight) == ("pause", 50)
    assert shares(world.rollout, world.state).weight == 50


@pytest.mark.parametrize("verb", ["approve", "pause", "resume", "promote", "rollback"])
def test_a_command_without_a_rollout_is_answered(verb: str) -> None:
    asked = command(verb, weight=5.0 if verb == "approve" else None)
    decision = decide(PLAIN, RolloutState(stable=1), Situation(commands=(asked,)), START)
    assert decision.action == "hold"
    assert "there is no rollout" in decision.reasons[1]
    assert decision.who == "ada"
    assert asked.id in decision.state.handled


def test_a_command_is_obeyed_once() -> None:
    world = World(PLAIN)
    world.until("advance")
    asked = (command("pause"),)
    assert world.minute(commands=asked).action == "pause"
    world.minute(commands=(command("resume"),))
    assert world.minute(commands=asked).action == "hold"
    assert world.state.paused is None


def test_people_may_promote_and_roll_back_by_hand() -> None:
    world = World(PLAIN.model_copy(update={"confirmation": Confirmation()}))
    world.until("advance")
    assert world.minute(commands=(command("promote"),)).shares == Shares(stable=1, canary=2, weight=100)
    assert world.minute(commands=(command("rollback"),)).action == "undo"
    assert world.shares == Shares(stable=1)
