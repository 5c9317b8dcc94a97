"""The two-sample test that learns: exact expectations over two intervals, drift, and power that fixed bets lack."""

from __future__ import annotations

from itertools import product
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serinus.core.errors import InvalidInput
from serinus.core.sequential import LearnedTest, TwoSampleTest

quick = settings(max_examples=25, deadline=None, derandomize=True)


def outcomes(rows: int, shares: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Every sequence of so many rows: its counts by bin, [S, B], and its probability, [S]."""
    which = np.array(list(product(range(len(shares)), repeat=rows)))
    return np.eye(len(shares))[which].sum(axis=1), shares[which].prod(axis=1)


def pair(
    canary: tuple[int, NDArray[np.float64]], stable: tuple[int, NDArray[np.float64]]
) -> tuple[NDArray[np.float64], ...]:
    """Every outcome of one interval: canary's and stable's counts, [S, B], and probabilities."""
    (ours, our_mass), (theirs, their_mass) = outcomes(*canary), outcomes(*stable)
    first, second = (index.ravel() for index in np.indices((len(ours), len(theirs))))
    return ours[first], theirs[second], our_mass[first] * their_mass[second]


shares = st.lists(st.floats(0.02, 1), min_size=3, max_size=3).map(lambda each: np.array(each) / sum(each))


@quick
@given(shares, shares, shares, st.floats(0, 0.5))
def test_expected_evidence_within_the_margin_is_at_most_one(
    stable: NDArray[np.float64], canary: NDArray[np.float64], later: NDArray[np.float64], extra: float
) -> None:
    """Exact, over all outcomes of two intervals between which the common level jumps."""
    apart = canary - stable
    margin = float(0.5 * np.abs(apart).sum()) + extra
    moved = np.clip(later + apart, 0, None)
    moved = moved / moved.sum() if 0.5 * np.abs(moved / moved.sum() - later).sum() <= margin else later
    test = LearnedTest(3)
    ours, theirs, mass = pair((2, canary), (3, stable))
    more, others, more_mass = pair((2, moved), (2, later))
    state = test.update(test.start((len(ours), 1)), ours[:, np.newaxis], theirs[:, np.newaxis])
    assert test.log_e(state, margin) == pytest.approx(0.0)
    state = test.update(state, more, others)
    expected = (mass[:, np.newaxis] * more_mass * np.exp(test.log_e(state, margin))).sum()
    assert expected <= 1 + 1e-9


def test_drift_in_common_is_no_difference_and_the_border_is_rarely_crossed() -> None:
    rng = np.random.default_rng(5)
    bins, rollouts, alpha, margin = 8, 1000, 0.1, 0.1
    test = LearnedTest(bins)
    state, worst = test.start((rollouts,)), np.full(rollouts, -np.inf)
    for look in range(60):
        stable = np.full(bins, 1 / bins) + 0.06 * np.sin(look / 9 + np.arange(bins) * np.pi / 4)
        stable /= stable.sum()
        canary = stable + margin * np.array([0.5, -0.5, 0.5, -0.5, 0, 0, 0, 0])
        rows = rng.binomial(600, 0.2, rollouts)
        state = test.update(state, rng.multinomial(rows, canary), rng.multinomial(600 - rows, stable))
        worst = np.maximum(worst, test.log_e(state, margin))
    assert float((worst >= log(1 / alpha)).mean()) <= alpha


@pytest.mark.parametrize("pattern", ["zigzag", "step"])
def test_a_shift_of_many_bins_is_found_where_single_bins_stay_within_the_margin(pattern: str) -> None:
    rng = np.random.default_rng(6)
    bins, level, margin = 20, log(1 / 0.001), 0.1
    sign = np.where(np.arange(bins) % 2 == 0, 1, -1) if pattern == "zigzag" else np.where(np.arange(bins) < 10, -1, 1)
    stable, canary = np.full(bins, 1 / bins), 1 / bins + 0.025 * sign
    learned, fixed = LearnedTest(bins), TwoSampleTest(tuple(float(step) for step in range(bins)))
    ours, theirs = learned.start((200,)), fixed.start((200,))
    for _ in range(20):
        rows = rng.multinomial(50, canary, 200), rng.multinomial(950, stable, 200)
        ours, theirs = learned.update(ours, *rows), fixed.update(theirs, *rows)
    assert float((learned.log_e(ours, margin) >= level).mean()) > 0.95
    assert float((fixed.log_e(theirs, margin) >= level).mean()) < 0.2


def test_rows_of_one_version_only_and_no_rows_say_nothing() -> None:
    test = LearnedTest(3)
    for canary, stable in (([5, 0, 0], [0, 0, 0]), ([0, 0, 0], [0, 9, 0]), ([0, 0, 0], [0, 0, 0])):
        state = test.start((2,))
        for _ in range(3):
            state = test.update(state, canary, stable)
        assert np.all(test.log_e(state, 0.1) == pytest.approx(0.0))


@quick
@given(st.lists(st.tuples(*[st.integers(0, 30)] * 6), min_size=1, max_size=6), st.floats(0, 1), st.floats(0, 1))
def test_evidence_is_finite_and_falls_as_the_margin_rises(rows: list[tuple[int, ...]], a: float, b: float) -> None:
    test = LearnedTest(3)
    state = test.start()
    for row in rows:
        state = test.update(state, row[:3], row[3:])
    low, high = (float(test.log_e(state, margin)) for margin in sorted((a, b)))
    assert np.isfinite([low, high]).all()
    assert low >= high


def test_nonsense_is_refused() -> None:
    test = LearnedTest(3)
    for canary, stable in (([1, 2], [1, 2, 3]), ([1, 2, 3], [1, -2, 3])):
        with pytest.raises(InvalidInput, match="3 bins"):
            test.update(test.start(), canary, stable)
