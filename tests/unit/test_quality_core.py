"""Losses and their sums, calibration against scikit-learn's, and when an estimate can be believed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.isotonic import IsotonicRegression

from serinus.core.evidence import LossSums
from serinus.core.quality import (
    Calibration,
    Calibrations,
    Metric,
    calibrate,
    closed_stretches,
    difference_range,
    differences,
    enough,
    expected_differences,
    loss_range,
    losses,
    sum_up,
    together,
    unseen_since,
)
from serinus.core.sequential.means import BernsteinMixture, Sums
from serinus.core.version import Lineage

METRICS: list[Metric] = ["log_loss", "brier"]
START = datetime(2024, 5, 1, tzinfo=UTC)
chances = st.floats(0, 1)
metrics = st.sampled_from(METRICS)


@st.composite
def scored(draw: Any, least: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outcomes and two versions' probabilities."""
    rows = draw(st.integers(least, 40))
    values = [draw(arrays(np.float64, rows, elements=chances)) for _ in range(2)]
    return draw(arrays(np.int64, rows, elements=st.integers(0, 1))), values[0], values[1]


@given(scored(), metrics)
def test_losses_stay_in_the_range_that_guards_are_told(rows: Any, metric: Metric) -> None:
    outcomes, canary, stable = rows
    lost, difference = losses(outcomes, canary, metric), differences(outcomes, canary, stable, metric)
    for values, bounds in ((lost, loss_range(metric)), (difference, difference_range(metric))):
        assert np.all((values >= bounds.low - 1e-12) & (values <= bounds.high + 1e-12))
    # What guards do with the sums must not refuse them.
    found = sum_up(difference)
    BernsteinMixture(difference_range(metric), 0.0).log_e(Sums(found.rows, found.total, found.squares), 1, 0.0)  # type: ignore[arg-type]


def test_losses_are_what_they_are_called() -> None:
    from sklearn.metrics import brier_score_loss, log_loss

    random = np.random.default_rng(0)
    outcomes, predicted = random.integers(0, 2, 500), random.uniform(0.02, 0.98, 500)
    assert losses(outcomes, predicted, "log_loss").mean() == pytest.approx(log_loss(outcomes, predicted))
    assert losses(outcomes, predicted, "brier").mean() == pytest.approx(brier_score_loss(outcomes, predicted))
    assert losses([1, 0], [0.0, 1.0], "log_loss") == pytest.approx(-np.log(0.01))
    assert losses([1, 0], [1.0, 0.0], "log_loss") == pytest.approx(-np.log(0.99))


@given(scored(), metrics)
def test_swapped_roles_turn_the_difference_round(rows: Any, metric: Metric) -> None:
    outcomes, canary, stable = rows
    ours, theirs = (sum_up(differences(outcomes, *pair, metric)) for pair in ((canary, stable), (stable, canary)))
    assert (ours.rows, ours.total, ours.squares) == (theirs.rows, -theirs.total, theirs.squares)


@given(scored(), metrics, st.lists(st.integers(0, 40), max_size=5), st.randoms())
def test_sums_are_the_same_in_any_parts_and_order(rows: Any, metric: Metric, cuts: list[int], random: Any) -> None:
    values = differences(*rows, metric)
    bounds = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    parts = [values[since:until] for since, until in pairwise(bounds)]
    random.shuffle(parts)
    shuffled = random.sample(values.tolist(), len(values))
    assert together(map(sum_up, parts)) == sum_up(values) == sum_up(np.array(shuffled))


def test_sums_of_a_million_rows_do_not_depend_on_order_either() -> None:
    values = np.random.default_rng(0).normal(0.01, 0.3, 1_000_000)
    found = sum_up(values)
    assert found == sum_up(values[::-1]) == together(sum_up(part) for part in np.split(values, 100)[::-1])
    assert (found.total, found.squares) == pytest.approx((values.sum(), np.square(values).sum()), rel=1e-6)
    assert together([]) == sum_up(np.empty(0)) == LossSums()


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 1)), min_size=1, max_size=60), st.lists(chances, min_size=1)
)
def test_calibration_is_scikit_learns_isotonic_regression(rows: list[tuple[int, int]], asked: list[float]) -> None:
    predicted, outcomes = np.array([each[0] / 8 for each in rows]), np.array([each[1] for each in rows])
    ours = calibrate(predicted, outcomes)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(predicted, outcomes)
    for values in (np.array(asked), np.unique(predicted)):
        np.testing.assert_allclose(ours(values), theirs.predict(values), atol=1e-9)
    along = ours(np.linspace(-0.5, 1.5, 50))
    assert np.all(np.diff(along) >= 0)
    assert ours.rows == len(rows)
    assert 0 <= along[0] <= along[-1] <= 1


def test_calibration_of_many_rows_is_small_quick_and_kept_as_text() -> None:
    random = np.random.default_rng(1)
    predicted = random.beta(2, 5, 20_000)
    outcomes = (random.random(20_000) < predicted**1.5).astype(np.int64)
    found = calibrate(predicted, outcomes)
    assert len(found.points) < 500
    assert Calibration.model_validate_json(found.model_dump_json()) == found
    grid = np.linspace(0.1, 0.7, 20)
    np.testing.assert_allclose(found(grid), grid**1.5, atol=0.05)
    np.testing.assert_allclose(
        found(predicted), IsotonicRegression(out_of_bounds="clip").fit_transform(predicted, outcomes), atol=1e-9
    )


def world(random: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two inputs, outcomes, a version that uses both and predicts too high, and one that knows only the first."""
    first, second = random.normal(size=rows), random.normal(size=rows)
    chance = 1 / (1 + np.exp(-(first + second - 1)))
    outcomes = (random.random(rows) < chance).astype(np.int64)
    return outcomes, chance**0.7, 1 / (1 + np.exp(-(0.9 * first - 0.8))), second


@pytest.mark.parametrize("metric", METRICS)
def test_the_estimate_is_unbiased_where_calibration_holds(metric: Metric) -> None:
    """Over 60 rollouts, each calibrated on 4,000 past rows, with no outcome of its own 2,000 rows looked at."""
    random = np.random.default_rng(2)
    errors, realised = [], []
    for _ in range(60):
        outcomes, stable, canary, _ = world(random, 4000)
        curves = Calibrations(canary=calibrate(canary, outcomes), stable=calibrate(stable, outcomes))
        outcomes, stable, canary, _ = world(random, 2000)
        estimate = expected_differences(curves, canary, stable, metric).mean()
        truth = differences(outcomes, canary, stable, metric).mean()
        errors.append(estimate - truth)
        realised.append(truth)
    assert np.mean(realised) > 0.015, "the canary is worse"
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(60) + 0.001
    assert np.std(errors) < 0.3 * np.mean(realised)


def test_what_an_estimate_cannot_see() -> None:
    """If the second input comes to mean the opposite, the version that uses it fails and its estimate stays."""
    random = np.random.default_rng(3)
    outcomes, canary, stable, _ = world(random, 20_000)
    curves = Calibrations(canary=calibrate(canary, outcomes), stable=calibrate(stable, outcomes))
    usual = expected_differences(curves, canary, stable, "log_loss").mean()
    _, canary, stable, second = world(random, 20_000)
    first = (np.log(stable / (1 - stable)) + 0.8) / 0.9
    outcomes = (random.random(20_000) < 1 / (1 + np.exp(-(first - second - 1)))).astype(np.int64)
    estimate = expected_differences(curves, canary, stable, "log_loss").mean()
    assert estimate == pytest.approx(usual, abs=0.01)
    assert estimate < 0 < 0.1 < differences(outcomes, canary, stable, "log_loss").mean()


@pytest.mark.parametrize(
    ("ones", "zeros", "is_enough"), [(0, 0, False), (500, 499, False), (49, 5000, False), (50, 950, True)]
)
def test_too_few_outcomes_are_no_calibration(ones: int, zeros: int, is_enough: bool) -> None:
    assert enough(np.repeat([1, 0], [ones, zeros])) is is_enough


def test_rows_that_a_version_was_not_fitted_on() -> None:
    lineage = Lineage(as_of=START, data_digest="", code_digest="", schema_digest="", parameters={}, pipeline_run="")
    hour = timedelta(hours=1)
    assert unseen_since(lineage, None, hour) == START
    assert unseen_since(lineage, 10 * hour, hour) == START - 11 * hour


@given(st.integers(0, 10**6), st.integers(10**4, 10**5), st.integers(0, 10**5), st.integers(0, 10**6))
def test_stretches_follow_from_the_start_alone(seconds: int, length: int, delay: int, later: int) -> None:
    step, wait = timedelta(seconds=length), timedelta(seconds=delay)
    now = START + timedelta(seconds=seconds)
    found = closed_stretches(START, now, step, wait)
    assert closed_stretches(START, now + timedelta(seconds=later), step, wait)[: len(found)] == found
    assert all(each.until + wait <= now for each in found)
    assert all(before.until == after.since for before, after in pairwise(found))
    assert START + (len(found) + 1) * step + wait > now
    assert closed_stretches(START, START - step, step, wait) == []
