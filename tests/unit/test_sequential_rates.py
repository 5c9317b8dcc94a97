"""One version's own rate: exact expectations, coverage at every look, zero events."""

from __future__ import annotations

from math import comb, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serinus.core.sequential import AlphaShare, Verdict, rate_bounds, rate_log_e

SHARE = AlphaShare(0.025, 0.025)
quick = settings(max_examples=60, deadline=None, derandomize=True)


@quick
@given(st.sampled_from([Verdict.HARM, Verdict.SAFE]), st.integers(0, 12), st.floats(0.001, 0.999), st.floats(0, 1))
def test_expected_evidence_under_the_null_is_at_most_one(direction: Verdict, n: int, rate: float, share: float) -> None:
    true = rate * share if direction is Verdict.HARM else rate + (1 - rate) * share
    x = np.arange(n + 1)
    mass = np.array([comb(n, k) * true**k * (1 - true) ** (n - k) for k in range(n + 1)])
    assert (mass * np.exp(rate_log_e(direction, x, n, rate))).sum() <= 1 + 1e-9


@pytest.mark.parametrize("rate", [0.005, 0.3])
def test_the_running_average_rate_is_covered_at_every_look(rate: float) -> None:
    rng = np.random.default_rng(2)
    rollouts, alpha = 250, 0.1
    events, requests, sum_rate, missed = np.zeros(rollouts), 0, 0.0, np.zeros(rollouts, bool)
    for look in range(80):
        now = rate * (1 + 0.8 * np.sin(look))
        events, requests, sum_rate = events + rng.binomial(200, now, rollouts), requests + 200, sum_rate + 200 * now
        bounds = rate_bounds(events, requests, AlphaShare(alpha / 2, alpha / 2))
        missed |= (bounds.low > sum_rate / requests) | (bounds.high < sum_rate / requests)
    assert missed.mean() <= alpha


def test_zero_events_bound_the_rate_near_the_rule_of_three() -> None:
    bounds = rate_bounds(0, [0, 1000, 100_000], SHARE)
    assert bounds.low.tolist() == [0, 0, 0]
    assert bounds.high[0] == 1
    assert bounds.high[1] < (log(40) + 2) / 1000
    assert bounds.high[2] < (log(40) + 2) / 100_000


@quick
@given(st.integers(0, 50), st.integers(1, 2000))
def test_bounds_enclose_the_observed_rate_and_rise_with_events(x: int, more: int) -> None:
    n = x + more
    bounds = rate_bounds([x, x + 1], n, SHARE)
    assert bounds.low[0] <= x / n <= bounds.high[0]
    assert bounds.low[0] <= bounds.low[1]
    assert bounds.high[0] <= bounds.high[1]
    assert np.all((bounds.low >= 0) & (bounds.high <= 1))
    assert np.all(np.isfinite(bounds.high))
