"""Latency quantiles from buckets: coverage at every look, shifts found, and what too coarse buckets cannot see."""

from __future__ import annotations

from math import inf, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serinus.core.errors import InvalidInput
from serinus.core.sequential import AlphaShare, QuantileTest, Verdict

EDGES = tuple((0.02 * 1.05 ** np.arange(70)).tolist())
Z99 = 2.3263
P99 = 0.05 * np.exp(0.5 * Z99)


def draws(rng: np.random.Generator, rollouts: int, size: int, scale: float = 1.0) -> NDArray[np.int64]:
    """Histograms of log-normal latencies around 50 ms, [rollouts, buckets]."""
    latencies = scale * rng.lognormal(np.log(0.05), 0.5, (rollouts, size))
    buckets = np.searchsorted(EDGES, latencies) + np.arange(rollouts)[:, np.newaxis] * (len(EDGES) + 1)
    return np.bincount(buckets.ravel(), minlength=rollouts * (len(EDGES) + 1)).reshape(rollouts, -1)


@pytest.mark.parametrize("quantile", [0.5, 0.99])
def test_the_quantile_is_covered_at_every_look(quantile: float) -> None:
    rng = np.random.default_rng(1)
    true = 0.05 if quantile == 0.5 else P99
    test, alpha = QuantileTest(quantile, EDGES), 0.1
    counts, missed = np.zeros((300, len(EDGES) + 1)), np.zeros(300, bool)
    for _ in range(30):
        counts = counts + draws(rng, 300, 100)
        bounds = test.bounds(counts, AlphaShare(alpha / 2, alpha / 2))
        missed |= (bounds.low > true) | (bounds.high < true)
    assert missed.mean() <= alpha
    assert np.all(bounds.high > bounds.low)
    assert np.median(bounds.high / bounds.low) < (1.25 if quantile == 0.5 else 2.2)


@pytest.mark.parametrize(("direction", "scale"), [(Verdict.HARM, 1.1), (Verdict.SAFE, 1.1)])
def test_a_false_verdict_stays_rarer_than_alpha_at_every_look(direction: Verdict, scale: float) -> None:
    rng = np.random.default_rng(2)
    test, alpha = QuantileTest(0.9, EDGES), 0.1
    canary, stable = np.zeros((200, len(EDGES) + 1)), np.zeros((200, len(EDGES) + 1))
    worst = np.full(200, -inf)
    for _ in range(20):
        canary, stable = canary + draws(rng, 200, 100, scale), stable + draws(rng, 200, 300)
        worst = np.maximum(worst, test.log_e(direction, canary, stable, 0.1))
    assert float((worst >= log(1 / alpha)).mean()) <= alpha


def test_a_fifth_slower_is_harm_and_no_slower_is_safe() -> None:
    rng = np.random.default_rng(3)
    test, level = QuantileTest(0.99, EDGES), log(1 / 0.01)
    stable, slow, same = draws(rng, 20, 38_000), draws(rng, 20, 12_000, 1.3), draws(rng, 20, 12_000)
    assert np.mean(test.log_e(Verdict.HARM, slow, stable, 0.05) >= level) > 0.9
    assert np.all(test.log_e(Verdict.HARM, same, stable, 0.05) < 0)
    assert np.mean(test.log_e(Verdict.SAFE, same, stable, 0.25) >= level) > 0.9
    assert np.all(test.log_e(Verdict.SAFE, slow, stable, 0.25) < 0)


def test_comparison_takes_less_than_two_bands_that_must_not_overlap() -> None:
    rng = np.random.default_rng(4)
    test, share = QuantileTest(0.99, EDGES), AlphaShare(0.005, 0.005)
    stable, slow = draws(rng, 60, 19_000), draws(rng, 60, 1_500, 1.5)
    bands = test.bounds(slow, share).low > 1.05 * test.bounds(stable, share).high
    together = test.log_e(Verdict.HARM, slow, stable, 0.05) >= log(1 / 0.01)
    assert together.mean() > bands.mean()


def test_buckets_coarser_than_the_shift_are_undecided_not_wrong() -> None:
    coarse = QuantileTest(0.9, (0.05, 0.1, 0.2))
    counts = np.array([8000, 1500, 480, 20])
    for direction in (Verdict.HARM, Verdict.SAFE):
        assert coarse.log_e(direction, counts, counts * 10, 0.1) < 0


def test_no_data_is_no_evidence() -> None:
    test, nothing = QuantileTest(0.99, EDGES), np.zeros((2, len(EDGES) + 1))
    bounds = test.bounds(nothing, AlphaShare(0.05, 0.05))
    assert bounds.low.tolist() == [0, 0]
    assert bounds.high.tolist() == [inf, inf]
    data = draws(np.random.default_rng(0), 2, 5000)
    for direction in (Verdict.HARM, Verdict.SAFE):
        for canary, stable in ((nothing, nothing), (nothing, data), (data, nothing)):
            assert np.all(test.log_e(direction, canary, stable, 0.1) < log(1.2))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 400), min_size=4, max_size=4), st.integers(0, 2))
def test_moving_canary_requests_up_a_bucket_never_lessens_harm(counts: list[int], bucket: int) -> None:
    test, stable = QuantileTest(0.9, (0.05, 0.1, 0.2)), np.array([5000, 300, 40, 10])
    slower = list(counts)
    moved = min(slower[bucket], 7)
    slower[bucket] -= moved
    slower[bucket + 1] += moved
    before, after = (test.log_e(Verdict.HARM, row, stable, 0.1) for row in (counts, slower))
    assert after >= before - 1e-9


def test_nonsense_is_refused() -> None:
    for quantile, edges in ((1.0, EDGES), (0.5, ()), (0.5, (2.0, 1.0)), (0.5, (0.0, 1.0))):
        with pytest.raises(InvalidInput):
            QuantileTest(quantile, edges)
    with pytest.raises(InvalidInput, match="3 edges need 4 counts"):
        QuantileTest(0.5, (1.0, 2.0, 3.0)).bounds(np.zeros(3), AlphaShare(0.05, 0.05))
