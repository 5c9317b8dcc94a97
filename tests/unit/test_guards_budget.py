"""The error budget: whatever is enabled, all shares together spend what was promised."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serinus.core.guards.budget import estimates, shares, starts
from serinus.core.spec.rollout import GUARD_NAMES, Rollout

QUERY = {"numerator": 'bad{v="$version"}', "denominator": 'all{v="$version"}'}
FIELDS = ("errors", "slow", "latency", "features", "predictions", "quality", "sampleRatio")


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    steps = sorted(draw(st.sets(st.integers(1, 99), min_size=1, max_size=6)))
    guards: dict[str, object] = {field: {"enabled": draw(st.booleans())} for field in FIELDS}
    guards["quality"] = {
        "enabled": draw(st.booleans()),
        "estimated": draw(st.booleans()),
        "predictionsChangeOutcomes": draw(st.booleans()),
    }
    guards["queries"] = [{"name": f"q{number}", **QUERY} for number in range(draw(st.integers(0, 3)))]
    return Rollout.model_validate(
        {
            "alpha": draw(st.floats(0.001, 0.5)),
            "steps": steps,
            "shadow": draw(st.sampled_from([None, {}])),
            "confirmation": draw(st.sampled_from([None, {}])) if guards["quality"]["enabled"] else None,
            "guards": guards,
        }
    )


@settings(max_examples=80, deadline=None, derandomize=True)
@given(rollouts())
def test_all_shares_of_a_rollout_spend_alpha(rollout: Rollout) -> None:
    share, times = shares(rollout), starts(rollout)
    assert set(share) == set(times)
    if not share:
        return
    assert sum(share[name].harm * times[name] for name in share) == pytest.approx(rollout.alpha / 2)
    # A step forward that is wrong needs one particular guard's false safe, in one of the stages.
    assert max(each.safe for each in share.values()) * rollout.stages == pytest.approx(rollout.alpha / 2)


def test_every_built_in_guard_has_a_share_by_default() -> None:
    assert set(shares(Rollout())) == set(GUARD_NAMES)


def test_guards_start_as_often_as_there_are_stages_for_them() -> None:
    rollout = Rollout.model_validate({"steps": [5, 50], "shadow": {}})
    times = starts(rollout)
    assert {name: times[name] for name in ("errors", "sample-ratio", "quality", "estimate")} == {
        "errors": 3,
        "sample-ratio": 2,
        "quality": 1,
        "estimate": 1,
    }
    share = shares(rollout)
    assert share["quality"].harm == pytest.approx(3 * share["errors"].harm)
    assert share["sample-ratio"].harm == pytest.approx(1.5 * share["errors"].harm)
    assert share["errors"].safe == pytest.approx(0.05 / 2 / 4)


def test_nothing_is_estimated_where_predictions_change_outcomes() -> None:
    assert estimates(Rollout())
    changed = Rollout.model_validate({"guards": {"quality": {"predictionsChangeOutcomes": True}}})
    assert not estimates(changed)
    assert "estimate" not in shares(changed)


def test_a_rollout_without_guards_has_nothing_to_divide() -> None:
    rollout = Rollout.model_validate({"confirmation": None, "guards": {field: {"enabled": False} for field in FIELDS}})
    assert shares(rollout) == {}
