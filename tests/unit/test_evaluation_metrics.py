"""Our metrics agree with scikit-learn's, and the rule does what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from serinus.training.metrics import RuleBaseline, calibration_bins, row_losses, score


def _sample(rows: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    probabilities = rng.beta(1, 3, rows)
    return (rng.random(rows) < probabilities).astype(np.int64), probabilities


def test_metrics_agree_with_scikit_learn() -> None:
    labels, probabilities = _sample()
    scores = score(labels, probabilities)
    assert scores.roc_auc == pytest.approx(roc_auc_score(labels, probabilities))
    assert scores.log_loss == pytest.approx(log_loss(labels, probabilities))
    assert scores.brier == pytest.approx(brier_score_loss(labels, probabilities))
    assert scores.calibration_error < 0.03


def test_one_class_has_no_auc() -> None:
    scores = score(np.zeros(5, np.int64), np.full(5, 0.2))
    assert (scores.roc_auc, scores.pr_auc) == (None, None)
    assert scores.log_loss == pytest.approx(-math.log(0.8))


def test_certain_and_wrong_costs_a_finite_loss() -> None:
    assert np.isfinite(row_losses(np.array([0, 1]), np.array([1.0, 0.0]), "log_loss")).all()


def test_calibration_error_is_the_gap() -> None:
    labels = np.tile([1, 0, 0, 0], 250)
    assert calibration_bins(labels, np.full(1000, 0.65), 15).error == pytest.approx(0.4)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=80), st.integers(2, 20))
def test_calibration_bins_hold_every_row(values: list[float], bins: int) -> None:
    found = calibration_bins(np.ones(len(values), np.int64), np.array(values), bins)
    assert found.rows.sum() == len(values)
    assert (found.rows > 0).all()
    assert len(found.rows) <= bins


def test_rule_is_the_smoothed_rate_of_its_group() -> None:
    columns = {"carrier": np.array(["A"] * 80 + ["B"] * 20, dtype=object)}
    labels = np.array([1] * 20 + [0] * 60 + [1] * 20)
    rule = RuleBaseline(columns, labels)
    found = rule.probabilities({"carrier": np.array(["A", "B", "new", None], dtype=object)}, 4)
    assert found == pytest.approx([(20 + 20 * 0.4) / 100, (20 + 20 * 0.4) / 40, 0.4, 0.4])


def test_rule_takes_missing_as_a_value_and_numbers_by_value() -> None:
    train = {
        "hour": np.array([5.0, 5.0, math.nan, math.nan]),
        "carrier": np.array(["A", "A", None, None], dtype=object),
    }
    rule = RuleBaseline(train, np.array([1, 1, 0, 0]))
    asked = {"hour": np.array([5, 5]), "carrier": np.array(["A", None], dtype=object)}
    missing = {"hour": np.array([math.nan]), "carrier": np.array([None], dtype=object)}
    assert rule.probabilities(asked, 2) == pytest.approx([12 / 22, 0.5])
    assert rule.probabilities(missing, 1) == pytest.approx([10 / 22])


def test_rule_without_columns_is_the_overall_rate() -> None:
    assert RuleBaseline({}, np.array([1, 0, 0, 0])).probabilities({}, 2).tolist() == [0.25, 0.25]
