"""The split of the traffic: no false fault under random or deterministic routing, and real faults found quickly."""

from __future__ import annotations

from itertools import pairwise
from math import comb, inf, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serinus.core.errors import InvalidInput
from serinus.core.sequential import SampleRatioTest

quick = settings(max_examples=50, deadline=None, derandomize=True)


@quick
@given(st.integers(1, 12), st.floats(0, 1), st.floats(1, 2), st.floats(-1, 1), st.floats(0, 2))
def test_expected_evidence_under_the_null_is_at_most_one(
    n: int, weight: float, tolerance: float, place: float, slack: float
) -> None:
    odds = tolerance**place
    true = weight * odds / (weight * odds + 1 - weight)
    test = SampleRatioTest(tolerance, slack)
    x = np.arange(n + 1)
    state = test.update(test.start((n + 1,)), x, n - x, weight)
    mass = np.array([comb(n, k) * true**k * (1 - true) ** (n - k) for k in range(n + 1)])
    assert (mass * np.exp(test.log_e(state))).sum() <= 1 + 1e-9


def test_random_routing_is_rarely_called_a_fault_at_any_look() -> None:
    rng = np.random.default_rng(4)
    test, alpha = SampleRatioTest(slack=0), 0.1
    state, worst = test.start((2000,)), np.full(2000, -inf)
    for look in range(200):
        weight = (0.01, 0.05, 0.25, 0.5)[look // 50]
        x = rng.binomial(100, weight, 2000)
        state = test.update(state, x, 100 - x, weight)
        worst = np.maximum(worst, test.log_e(state))
    assert 0.001 < float((worst >= log(1 / alpha)).mean()) <= alpha


@quick
@given(st.lists(st.tuples(st.integers(1, 400), st.sampled_from([0.0, 0.01, 0.05, 1 / 3, 0.5, 1.0])), max_size=30))
def test_smooth_round_robin_is_never_called_a_fault(steps: list[tuple[int, float]]) -> None:
    """The canary's total is kept within one request of the exact one, whatever the weights do."""
    test = SampleRatioTest()
    state = test.start()
    exact = np.cumsum([0.0, *(requests * weight for requests, weight in steps)])
    for (requests, weight), (before, after) in zip(steps, pairwise(np.floor(exact + 1e-9)), strict=True):
        x = min(after - before, requests)
        state = test.update(state, x, requests - x, weight)
        assert test.log_e(state) <= 1e-6


@pytest.mark.parametrize(
    ("configured", "actual", "within"), [(0.05, 0.0, 400), (0.05, 0.5, 100), (0.05, 0.1, 1500), (0.5, 0.45, 6000)]
)
def test_faults_are_found(configured: float, actual: float, within: int) -> None:
    rng = np.random.default_rng(1)
    test = SampleRatioTest()
    x = rng.binomial(within, actual, 200)
    state = test.update(test.start((200,)), x, within - x, configured)
    assert np.mean(test.log_e(state) >= log(100)) > 0.5


def test_no_traffic_and_exact_traffic_are_no_evidence() -> None:
    test = SampleRatioTest()
    assert test.log_e(test.start()) <= 0
    assert test.log_e(test.update(test.start(), 5_000, 95_000, 0.05)) < 0


def test_traffic_at_weight_zero_is_a_fault_soon() -> None:
    test = SampleRatioTest()
    assert test.log_e(test.update(test.start(), 8, 1000, 0.0)) > log(100)


def test_nonsense_is_refused() -> None:
    with pytest.raises(InvalidInput):
        SampleRatioTest(tolerance=0.9)
    with pytest.raises(InvalidInput):
        SampleRatioTest().update(SampleRatioTest().start(), 1, 1, 1.5)
