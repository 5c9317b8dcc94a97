"""Distributions over bins: exact expectations, coverage under peeking, tolerances, and shifts found."""

from __future__ import annotations

from itertools import product
from math import inf, lgamma, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from serinus.core.errors import InvalidInput
from serinus.core.sequential import AlphaShare, CloseTest, ExpectedTest, TwoSampleTest, smoothed
from serinus.core.sequential.multinomial import log_gamma

quick = settings(max_examples=40, deadline=None, derandomize=True)
shares = hnp.arrays(np.float64, 3, elements=st.floats(0.02, 1)).map(lambda weights: weights / weights.sum())
EVEN = tuple([0.1] * 10)
LINE = tuple(range(10))


def sequences(length: int, bins: int) -> NDArray[np.int64]:
    """Every sequence of rows, [bins ** length, length]."""
    return np.array(list(product(range(bins), repeat=length)), dtype=np.int64).reshape(bins**length, length)


def counted(rows: NDArray[np.int64], bins: int) -> NDArray[np.float64]:
    return (rows[..., np.newaxis] == np.arange(bins)).sum(axis=1).astype(float)


def nearby(p: NDArray[np.float64], q: NDArray[np.float64], distance: float) -> NDArray[np.float64]:
    """From p towards q, at most `distance` away in total variation."""
    apart = 0.5 * np.abs(p - q).sum()
    return p + (q - p) * min(1.0, distance / apart if apart else 0.0)


def test_log_gamma_agrees_with_the_standard_library() -> None:
    points = np.concatenate([np.geomspace(1e-3, 1e7, 300), np.arange(1, 50) / 2])
    np.testing.assert_allclose(log_gamma(points), [lgamma(point) for point in points], rtol=1e-11, atol=1e-12)


@quick
@given(shares, shares, st.floats(0, 0.4))
def test_expected_evidence_within_the_tolerance_is_at_most_one(
    expected: NDArray[np.float64], direction: NDArray[np.float64], tolerance: float
) -> None:
    test, true = ExpectedTest(tuple(expected.tolist())), nearby(expected, direction, tolerance)
    rows = sequences(5, 3)
    mass = np.prod(true[rows], axis=1)
    total = (mass * np.exp(test.log_e(counted(rows, 3), tolerance))).sum()
    assert total <= 1 + 1e-9
    if tolerance == 0:
        assert total == pytest.approx(1)


@quick
@given(hnp.arrays(np.int64, 4, elements=st.integers(0, 60)), st.floats(0, 0.6), st.integers(0, 10_000))
def test_nearest_is_within_the_tolerance_and_no_neighbour_is_likelier(
    counts: NDArray[np.int64], tolerance: float, seed: int
) -> None:
    expected = np.array([0.4, 0.3, 0.2, 0.1])
    test = ExpectedTest(tuple(expected.tolist()))
    best = test.nearest(counts, tolerance)
    seen = counts > 0
    likelihood = (counts[seen] * np.log(best[seen])).sum()
    others = np.random.default_rng(seed).dirichlet(np.ones(4) * 2, 200)
    for other in [nearby(expected, q, tolerance) for q in others]:
        assert (counts[seen] * np.log(other[seen])).sum() <= likelihood + 1e-9
    if np.all(seen):
        assert best.sum() == pytest.approx(1, abs=1e-6)
        assert 0.5 * np.abs(best - expected).sum() <= tolerance + 1e-6


def test_expectation_is_rarely_rejected_and_its_distance_covered_at_every_look() -> None:
    rng = np.random.default_rng(1)
    rollouts, alpha = 400, 0.1
    true = nearby(np.array(EVEN), np.array([0.3, *[0.7 / 9] * 9]), 0.05)
    test, counts = ExpectedTest(EVEN), np.zeros((rollouts, 10))
    worst, missed = np.full(rollouts, -inf), np.zeros(rollouts, bool)
    for look in range(60):
        counts = counts + rng.multinomial(50, true, rollouts)
        worst = np.maximum(worst, test.log_e(counts, 0.05))
        if look % 10 == 9:
            bounds = test.bounds(counts, AlphaShare(alpha / 2, alpha / 2))
            missed |= (bounds.low > 0.05 + 1e-9) | (bounds.high < 0.05)
    assert float((worst >= log(1 / alpha)).mean()) <= alpha
    assert missed.mean() <= alpha
    assert float(np.mean(test.log_e(counts) >= log(100))) > 0.9


def test_no_data_leaves_everything_possible() -> None:
    bounds = ExpectedTest(EVEN).bounds(np.zeros((2, 10)), AlphaShare(0.05, 0.05))
    assert bounds.low.tolist() == [0, 0]
    assert bounds.high.tolist() == [1, 1]
    assert ExpectedTest(EVEN).log_e(np.zeros(10)) == pytest.approx(0)
    two, close = TwoSampleTest(LINE), CloseTest(10)
    for canary, stable in ((0, 0), (0, 9), (9, 0)):
        rows, others = np.full(10, canary), np.full(10, stable)
        assert two.log_e(two.update(two.start(), rows, others), 0.02) == pytest.approx(0)
        assert close.log_e(close.update(close.start(), rows, others), 0.02) == pytest.approx(0)


@quick
@given(shares, shares, st.floats(0, 0.3), st.integers(0, 3), st.integers(0, 3))
def test_expected_two_sample_evidence_within_the_margin_is_at_most_one(
    stable: NDArray[np.float64], direction: NDArray[np.float64], margin: float, n_c: int, n_s: int
) -> None:
    canary = nearby(stable, direction, margin)
    ours, theirs = sequences(n_c, 3), sequences(n_s, 3)
    mass = np.prod(canary[ours], axis=1)[:, np.newaxis] * np.prod(stable[theirs], axis=1)
    a, b = np.broadcast_arrays(counted(ours, 3)[:, np.newaxis], counted(theirs, 3)[np.newaxis])
    test = TwoSampleTest((0, 1, 2))
    state = test.update(test.start(a.shape[:-1]), a, b)
    assert (mass * np.exp(test.log_e(state, margin))).sum() <= 1 + 1e-9


def test_drift_in_common_is_no_difference_and_a_shift_is_found() -> None:
    rng = np.random.default_rng(2)
    rollouts, alpha = 300, 0.1
    test = TwoSampleTest(LINE)
    same, moved = test.start((rollouts,)), test.start((rollouts,))
    worst = np.full(rollouts, -inf)
    for look in range(60):
        common = np.exp(np.sin(look / 5) * np.arange(10) / 10)
        stable = common / common.sum()
        shifted = stable * np.exp(0.08 * np.arange(10))
        theirs = rng.multinomial(450, stable, rollouts)
        same = test.update(same, rng.multinomial(50, stable, rollouts), theirs)
        moved = test.update(moved, rng.multinomial(50, shifted / shifted.sum(), rollouts), theirs)
        worst = np.maximum(worst, test.log_e(same))
    assert float((worst >= log(1 / alpha)).mean()) <= alpha
    assert float(np.mean(test.log_e(moved, 0.01) >= log(100))) > 0.9


def test_one_bin_that_grows_is_found_against_the_tolerance() -> None:
    rng = np.random.default_rng(3)
    test, stable = TwoSampleTest(LINE), np.array(EVEN)
    broken = nearby(stable, np.array([0, 0, 0, 1.0, 0, 0, 0, 0, 0, 0]), 0.2)
    state = test.start((50,))
    for _ in range(20):
        state = test.update(state, rng.multinomial(50, broken, 50), rng.multinomial(450, stable, 50))
    assert float(np.mean(test.log_e(state, 0.05) >= log(100))) > 0.9


def test_safe_needs_every_bin_within_the_margin() -> None:
    rng = np.random.default_rng(4)
    test, alpha, rollouts = CloseTest(10), 0.1, 400
    stable = np.array(EVEN)
    edge = stable.copy()
    edge[2], edge[7] = 0.15, 0.05
    same, apart, worst = test.start((rollouts,)), test.start((rollouts,)), np.full(rollouts, -inf)
    for _ in range(40):
        theirs = rng.multinomial(450, stable, rollouts)
        same = test.update(same, rng.multinomial(50, stable, rollouts), theirs)
        apart = test.update(apart, rng.multinomial(50, edge, rollouts), theirs)
        worst = np.maximum(worst, test.log_e(apart, 0.05))
    assert float((worst >= log(1 / alpha)).mean()) <= alpha
    assert float(np.mean(test.log_e(same, 0.05) >= log(1 / alpha))) > 0.9


def test_smoothing_leaves_no_bin_impossible() -> None:
    expected = smoothed([0, 90, 10])
    assert expected.sum() == pytest.approx(1)
    assert expected.min() > 0


def test_nonsense_is_refused() -> None:
    for expected in ((1.0,), (0.5, 0.0, 0.5), (0.5, 0.6)):
        with pytest.raises(InvalidInput):
            ExpectedTest(expected)
    with pytest.raises(InvalidInput):
        ExpectedTest(EVEN).log_e([1, 2])
    with pytest.raises(InvalidInput):
        TwoSampleTest((1.0, 1.0))
    with pytest.raises(InvalidInput):
        CloseTest(3).update(CloseTest(3).start(), [1, 2], [1, 2])
