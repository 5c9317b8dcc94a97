"""Means of two randomised arms: exact expectations, drift in common, and what pairing saves."""

from __future__ import annotations

from itertools import product
from math import inf, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serinus.core.errors import InvalidInput
from serinus.core.sequential import ArmsTest, BernsteinMixture, Range, Sums, Verdict

UNIT = Range(0, 1)
BOTH = [Verdict.HARM, Verdict.SAFE]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.sampled_from(BOTH), st.integers(1, 4), st.integers(1, 4), st.floats(0, 1), st.floats(0, 1),
    st.floats(0.05, 0.95), st.floats(0, 1),
)  # fmt: skip
def test_expected_evidence_at_the_true_difference_is_at_most_one(
    direction: Verdict, n_c: int, n_s: int, canary: float, stable: float, guess: float, low: float
) -> None:
    """Exact: values are `low` or 1, the latter with the chance `canary` or `stable`."""
    ours, theirs = (np.array(list(product((0, 1), repeat=n))) for n in (n_c, n_s))
    mass = np.prod(np.where(ours, canary, 1 - canary), 1)[:, np.newaxis] * np.prod(
        np.where(theirs, stable, 1 - stable), 1
    )
    a, b = Sums.of(np.where(ours, 1.0, low)), Sums.of(np.where(theirs, 1.0, low))
    test = ArmsTest(direction, UNIT, guess)
    rows = Sums(*(np.asarray(field)[:, np.newaxis] for field in a))
    state = test.update(test.start(mass.shape), rows, b)
    difference = (canary - stable) * (1 - low)
    assert (mass * np.exp(test.log_e(state, difference))).sum() <= 1 + 1e-9


def test_the_difference_is_covered_at_every_look_while_the_level_drifts() -> None:
    rng = np.random.default_rng(1)
    rollouts, alpha = 400, 0.1
    tests = [ArmsTest(direction, UNIT, 0.2) for direction in BOTH]
    states, missed = [test.start((rollouts,)) for test in tests], np.zeros(rollouts, bool)
    for look in range(40):
        level = 0.2 + 0.1 * np.sin(look / 4)
        size = (10, 200) if look < 20 else (150, 60)
        canary = Sums.of(rng.random((rollouts, size[0])) < level + 0.05)
        stable = Sums.of(rng.random((rollouts, size[1])) < level)
        states = [test.update(state, canary, stable) for test, state in zip(tests, states, strict=True)]
        low, high = (test.bound(state, alpha / 2) for test, state in zip(tests, states, strict=True))
        missed |= (low > 0.05) | (high < 0.05)
    assert missed.mean() <= alpha
    assert np.median(high - low) < 0.15


def test_pairing_needs_a_twentieth_of_the_requests() -> None:
    """A loss worse by 0.01, 5% weight: rows of both versions differ by 0.05, rows among themselves by 0.2."""
    rng = np.random.default_rng(2)
    level, rollouts, minutes = log(1 / 0.01), 40, 400
    arms, paired = ArmsTest(Verdict.HARM, UNIT, 0.3), BernsteinMixture(Range(-1, 1), 0.0)
    state, total = arms.start((rollouts,)), [np.zeros(rollouts)] * 3
    found_arms, found_paired = np.full(rollouts, inf), np.full(rollouts, inf)
    for minute in range(1, minutes + 1):
        stable = np.clip(rng.normal(0.3, 0.2, (rollouts, 250)), 0, 1)
        canary = np.clip(stable + rng.normal(0.01, 0.05, (rollouts, 250)), 0, 1)
        state = arms.update(state, Sums.of(canary[:, :13]), Sums.of(stable[:, 13:]))
        total = [old + new for old, new in zip(total, Sums.of(canary - stable), strict=True)]
        found_arms = np.where(np.isinf(found_arms) & (arms.log_e(state, 0.0) >= level), minute, found_arms)
        evidence = paired.log_e(Sums(*total), Verdict.HARM, 0.0)
        found_paired = np.where(np.isinf(found_paired) & (evidence >= level), minute, found_paired)
    assert np.median(found_paired) * 20 <= np.median(found_arms) < inf
    assert np.median(found_paired) < 12


@pytest.mark.parametrize("direction", BOTH)
def test_no_data_or_one_arm_only_is_no_evidence(direction: Verdict) -> None:
    test, some, none = ArmsTest(direction, UNIT), Sums(9, 3.0, 2.0), Sums(0, 0.0, 0.0)
    for canary, stable in ((none, none), (some, none), (none, some)):
        state = test.update(test.start(), canary, stable)
        assert test.log_e(state, 0.0) == pytest.approx(0.0)
        assert test.bound(state, 0.05) == pytest.approx(-float(direction))


def test_nonsense_is_refused() -> None:
    with pytest.raises(InvalidInput):
        ArmsTest(Verdict.UNDECIDED, UNIT)
    with pytest.raises(InvalidInput):
        ArmsTest(Verdict.HARM, UNIT, 1.5)
