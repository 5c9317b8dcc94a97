"""What an operator writes into `status` from the decisions of a rollout."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from jsonschema import Draft4Validator

from serinus.core.crd import status_schema
from serinus.core.guards.reading import Reading
from serinus.core.rollout.state import Action, Candidate, Decision, Pause, RolloutState, Shares
from serinus.core.status import DECISIONS, Condition, ContinuousTrainingStatus, ModelDeploymentStatus, Run

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
SICK = Reading(
    guard="errors", verdict="harm", blocking=True, unit="share", value=0.04, reference=0.01, low=1.7, high=None,
    canary=900, stable=17000, harm_evidence=1.2, text="errors: 4% against 1%",
)  # fmt: skip
STATE = RolloutState(stable=3, phase="step", canary=Candidate(version=4, digest="sha256:4"), started=NOON)


def decision(action: Action, minute: int = 0, state: RolloutState = STATE, **values: Any) -> Decision:
    canary = state.canary.version if state.canary else None
    shares = Shares(stable=state.stable, canary=canary, weight=5 if canary else 0)
    at = NOON + timedelta(minutes=minute)
    return Decision(at=at, action=action, reasons=(f"{action} {minute}",), shares=shares, state=state, **values)


def written(status: ModelDeploymentStatus | ContinuousTrainingStatus) -> dict[str, Any]:
    """The status as it goes to the API server."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def valid(kind: str, status: dict[str, Any]) -> bool:
    return Draft4Validator(status_schema(kind)).is_valid(status)


def test_a_decision_is_what_the_status_says() -> None:
    status = ModelDeploymentStatus().after(decision("hold", readings=(SICK,)), generation=7)
    assert (status.phase, status.stable, status.canary, status.weight, status.shadow) == ("step", 3, 4, 5, 0)
    assert (status.observed_generation, status.started) == (7, NOON)
    [evidence] = status.evidence
    assert (evidence.guard, evidence.verdict, evidence.low, evidence.high) == ("errors", "harm", 1.7, None)
    assert valid("ModelDeployment", written(status))
    assert ModelDeploymentStatus.model_validate(written(status)) == status


def test_without_a_canary_it_has_no_share() -> None:
    status = ModelDeploymentStatus().after(decision("adopt", state=RolloutState(stable=3)), generation=1)
    assert written(status).keys() == {"observedGeneration", "conditions", "phase", "stable", "evidence", "decisions"}


def test_a_pause_says_whose_it_is() -> None:
    paused = STATE.model_copy(update={"paused": Pause(who="ada", why="holidays", since=NOON)})
    status = ModelDeploymentStatus().after(decision("pause", state=paused), generation=1)
    assert status.paused is not None
    assert (status.paused.who, status.paused.why) == ("ada", "holidays")


def test_looks_that_change_nothing_do_not_push_decisions_out() -> None:
    status = ModelDeploymentStatus()
    for minute, action in enumerate(("start", "hold", "hold", "hold", "advance", "hold")):
        status = status.after(decision(action, minute), generation=1)
    assert [each.reasons[0] for each in status.decisions] == ["hold 5", "advance 4", "hold 3", "start 0"]
    for minute in range(30):
        status = status.after(decision("advance", minute), generation=1)
    assert len(status.decisions) == DECISIONS
    assert status.decisions[0].at == NOON + timedelta(minutes=29)


def test_conditions_outlive_a_decision() -> None:
    ready = Condition(
        type="Ready", status="True", last_transition_time=NOON, reason="Answers", message="version 3 does"
    )
    status = ModelDeploymentStatus(conditions=(ready,)).after(decision("hold"), generation=1)
    assert status.conditions == (ready,)
    assert valid("ModelDeployment", written(status))


@pytest.mark.parametrize("wrong", [{"status": "Maybe"}, {"reason": "not one word"}, {"message": "x" * 32769}])
def test_conditions_are_kubernetes(wrong: dict[str, str]) -> None:
    right = {
        "type": "Ready",
        "status": "True",
        "lastTransitionTime": "2026-11-26T12:00:00Z",
        "reason": "A",
        "message": "",
    }
    assert valid("ModelDeployment", {"conditions": [right]})
    assert not valid("ModelDeployment", {"conditions": [right | wrong]})


def test_a_run_is_what_a_trainings_status_says() -> None:
    run = Run(id="r1", reason="schedule", as_of=NOON, started=NOON, result="registered", version=4)
    status = ContinuousTrainingStatus(observed_generation=1, last_run=run, next_run=NOON)
    assert written(status)["lastRun"]["asOf"] == "2026-11-26T12:00:00Z"
    assert valid("ContinuousTraining", written(status))
