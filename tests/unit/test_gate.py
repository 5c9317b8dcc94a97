"""The verdict follows from bounds alone, and better evidence never turns a pass into a refusal."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.core.evaluation import BASELINE, CANDIDATE, CHAMPION, Difference, ModelScores, Scorecard, Scores
from serinus.core.gate import GateVerdict, judge
from serinus.core.spec.training import Gate
from serinus.core.times import Interval

SCORES = Scores(rows=10, positives=5, roc_auc=0.7, pr_auc=0.6, log_loss=0.5, brier=0.2, calibration_error=0.01)
PERIOD = Interval(since=datetime(2020, 1, 1, tzinfo=UTC), until=datetime(2020, 2, 1, tzinfo=UTC))
GATE = Gate(champion_tolerance=0.002)
Bounds = tuple[float, float]


def _card(baseline: Bounds | None, champion: Bounds | None = None, with_champion: bool | None = None) -> Scorecard:
    differences = [
        Difference(
            against=name,
            metric="log_loss",
            value=sum(bounds) / 2,
            low=bounds[0],
            high=bounds[1],
            confidence=0.95,
            days=31,
        )
        for name, bounds in ((BASELINE, baseline), (CHAMPION, champion))
        if bounds is not None
    ]
    present = champion is not None if with_champion is None else with_champion
    return Scorecard(
        period=PERIOD,
        candidate=ModelScores(name=CANDIDATE, overall=SCORES),
        baseline=ModelScores(name=BASELINE, overall=SCORES),
        champion=ModelScores(name=CHAMPION, overall=SCORES) if present else None,
        champion_version=1 if present else None,
        differences=tuple(differences),
    )


GOOD = (-0.1, -0.05)


@pytest.mark.parametrize(
    ("baseline", "champion", "passed", "words"),
    [
        (GOOD, None, True, "better than the baseline beyond noise"),
        ((-0.1, 0.0), None, False, "not shown to be better than the baseline"),
        ((-0.1, 0.01), None, False, "not shown to be better than the baseline"),
        ((0.01, 0.02), None, False, "not shown to be better than the baseline"),
        (GOOD, (-0.02, -0.01), True, "not worse than the champion by more than 0.002"),
        (GOOD, (-0.02, 0.002), True, "not worse than the champion by more than 0.002"),
        (GOOD, (-0.02, 0.003), False, "not shown to be within 0.002 of the champion"),
        (GOOD, (0.003, 0.004), False, "worse than the champion by more than 0.002"),
        ((-0.1, 0.01), (-0.02, -0.01), False, "not shown to be better than the baseline"),
    ],
)
def test_verdicts(baseline: Bounds, champion: Bounds | None, passed: bool, words: str) -> None:
    verdict = judge(_card(baseline, champion), GATE)
    assert verdict.passed is passed
    assert any(reason.text.startswith(words) for reason in verdict.reasons)
    assert verdict.passed == all(reason.passed for reason in verdict.reasons)
    assert GateVerdict.model_validate_json(verdict.model_dump_json()) == verdict


@pytest.mark.parametrize("card", [_card(None), _card(GOOD, None, with_champion=True)])
def test_a_missing_comparison_is_an_error_and_not_a_pass(card: Scorecard) -> None:
    with pytest.raises(ValueError, match="no comparison against"):
        judge(card, GATE)


bounds = st.tuples(st.floats(-1, 1), st.floats(0, 0.5)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(bounds, bounds, st.floats(0, 1), st.floats(0, 0.1))
def test_lower_losses_never_turn_a_pass_into_a_refusal(
    base: Bounds, champ: Bounds, shift: float, margin: float
) -> None:
    gate = Gate(champion_tolerance=margin)
    before = judge(_card(base, champ), gate)
    after = judge(_card((base[0] - shift, base[1] - shift), (champ[0] - shift, champ[1] - shift)), gate)
    assert after.passed or not before.passed


@given(bounds, bounds, st.floats(0, 0.5))
def test_less_certainty_never_turns_a_refusal_into_a_pass(base: Bounds, champ: Bounds, wider: float) -> None:
    before = judge(_card(base, champ), GATE)
    after = judge(_card((base[0] - wider, base[1] + wider), (champ[0] - wider, champ[1] + wider)), GATE)
    assert before.passed or not after.passed
