"""Rates of two versions: exact supermartingale checks, coverage at every look, power against Wald's test."""

from __future__ import annotations

from math import exp, inf, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serinus.core.errors import InvalidInput
from serinus.core.sequential import AlphaShare, Counts, RateTest, RatioSequence, Verdict

RATIO = 1.25
BOTH = [Verdict.HARM, Verdict.SAFE]
quick = settings(max_examples=60, deadline=None, derandomize=True)


def binomial(n: int, q: float) -> NDArray[np.float64]:
    mass = np.array([1.0])
    for _ in range(n):
        mass = np.convolve(mass, [1 - q, q])
    return mass


@quick
@given(
    st.sampled_from(BOTH), st.integers(0, 6), st.integers(0, 8), st.floats(0, 1), st.floats(0, 1),
    st.floats(0.5, 3), st.floats(0, 0.2),
)  # fmt: skip
def test_expected_evidence_under_the_null_is_at_most_one(
    direction: Verdict, n_c: int, n_s: int, stable: float, share: float, ratio: float, margin: float
) -> None:
    """Exact sum over all outcomes, for rates of any size and anywhere in the one-sided null."""
    edge = ratio * stable + margin
    canary = min(1.0, edge) * share if direction is Verdict.HARM else edge + share * max(0.0, 1 - edge)
    if canary > 1:
        return
    test = RateTest(direction, ratio)
    x_c, x_s = np.arange(n_c + 1)[:, np.newaxis], np.arange(n_s + 1)[np.newaxis]
    mass = binomial(n_c, canary)[:, np.newaxis] * binomial(n_s, stable)
    state = test.update(test.start((n_c + 1, n_s + 1)), Counts(x_c, x_s, n_c, n_s))
    assert (mass * np.exp(test.log_e(state, margin))).sum() <= 1 + 1e-9


@pytest.mark.parametrize("direction", BOTH)
def test_a_false_verdict_stays_rarer_than_alpha_at_every_look(direction: Verdict) -> None:
    """On the null's edge, with rates and weights that drift and an incident on both, and 300 looks."""
    rng = np.random.default_rng(11)
    test, alpha, rollouts = RateTest(direction, RATIO), 0.1, 2000
    state, worst = test.start((rollouts,)), np.full(rollouts, -inf)
    for look in range(300):
        weight = 0.05 if look < 150 else 0.3
        rate = 0.005 * (1 + np.sin(look / 10) / 2) + (0.2 if 100 <= look < 110 else 0)
        n_c = rng.binomial(500, weight, rollouts)
        counts = Counts(rng.binomial(n_c, RATIO * rate), rng.binomial(500 - n_c, rate), n_c, 500 - n_c)
        state = test.update(state, counts)
        worst = np.maximum(worst, test.log_e(state))
    wrong = float((worst >= log(1 / alpha)).mean())
    assert 0.001 < wrong <= alpha


def test_a_healthy_canary_is_almost_never_harm() -> None:
    rng = np.random.default_rng(3)
    test = RateTest(Verdict.HARM, RATIO)
    state, worst = test.start((2000,)), np.full(2000, -inf)
    for _ in range(200):
        n_c = rng.binomial(1000, 0.05, 2000)
        counts = Counts(rng.binomial(n_c, 0.005), rng.binomial(1000 - n_c, 0.005), n_c, 1000 - n_c)
        state = test.update(state, counts)
        worst = np.maximum(worst, test.log_e(state))
    assert float((worst >= log(1 / 0.05)).mean()) < 0.012


def first_at(log_e: NDArray[np.float64], level: float, requests: NDArray[np.int64]) -> float:
    hit = log_e >= level
    return float(np.median(np.where(hit.any(1), requests[np.arange(len(hit)), hit.argmax(1)], np.inf)))


@pytest.mark.parametrize(("error", "looks", "allowed"), [(2, 250, 1.3), (4, 50, 1.15), (10, 15, 1.3)])
def test_detection_is_close_to_walds_test_that_is_told_the_ratio(error: int, looks: int, allowed: float) -> None:
    """0.5% errors, 5% weight, 1,000 requests a minute, a look a minute, alpha 0.05 over two guards both ways."""
    rng = np.random.default_rng(error)
    level, rollouts = log(1 / 0.0125), 1200
    n_c = rng.binomial(1000, 0.05, (rollouts, looks))
    x_c, x_s = rng.binomial(n_c, error * 0.005), rng.binomial(1000 - n_c, 0.005)
    test = RateTest(Verdict.HARM, RATIO)
    state, ours = test.start((rollouts,)), []
    for look in range(looks):
        state = test.update(state, Counts(x_c[:, look], x_s[:, look], n_c[:, look], 1000 - n_c[:, look]))
        ours.append(test.log_e(state))
    told, null = error * n_c / (error * n_c + 1000 - n_c), RATIO * n_c / (RATIO * n_c + 1000 - n_c)
    oracle = np.cumsum(x_c * np.log(told / null) + x_s * np.log((1 - told) / (1 - null)), axis=1)
    requests = np.cumsum(n_c, axis=1)
    assert first_at(np.stack(ours, axis=1), level, requests) <= allowed * first_at(oracle, level, requests) < inf


def test_zero_errors_become_safe_by_the_margin() -> None:
    test = RateTest(Verdict.SAFE, RATIO)
    state = test.update(test.start(), Counts(0, 0, 1500, 28500))
    assert test.log_e(state, margin=0.005) >= log(1 / 0.0125)
    assert test.log_e(state) == pytest.approx(0.0)


@pytest.mark.parametrize("direction", BOTH)
def test_no_data_is_no_evidence(direction: Verdict) -> None:
    test = RateTest(direction, RATIO)
    for state in (test.start((2,)), test.update(test.start((2,)), Counts(0, 0, 0, 0))):
        assert test.log_e(state, 0.01) == pytest.approx(0.0)
        assert np.all(test.excess(state, 0.05) == (-inf if direction is Verdict.HARM else inf))
    sequence = RatioSequence(RATIO)
    bounds = sequence.bounds(sequence.start((2,)), AlphaShare(0.05, 0.05))
    assert bounds.low.tolist() == [0, 0]
    assert bounds.high.tolist() == [inf, inf]


def test_exposure_of_one_side_only_says_nothing() -> None:
    for direction in BOTH:
        test = RateTest(direction, RATIO)
        alone = test.update(test.start(), Counts(40, 0, 100, 0))
        assert test.log_e(alone, 0.05) == pytest.approx(0.0)
        assert test.log_e(test.update(test.start(), Counts(0, 9, 0, 100)), 0.05) == pytest.approx(0.0)


counts_of_interval = st.tuples(st.integers(0, 9), st.integers(0, 30), st.integers(10, 60), st.integers(30, 900))


@quick
@given(st.sampled_from(BOTH), st.lists(counts_of_interval, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_order_and_splitting_of_intervals_do_not_matter(
    direction: Verdict, rows: list[tuple[int, ...]], random
) -> None:  # type: ignore[no-untyped-def]
    test = RateTest(direction, RATIO)
    there = back = halves = test.start()
    for row in rows:
        there = test.update(there, Counts(*row))
        x_c, x_s, n_c, n_s = row
        halves = test.update(halves, Counts(x_c, 0, n_c / 2, n_s / 2))
        halves = test.update(halves, Counts(0, x_s, n_c / 2, n_s / 2))
    random.shuffle(rows)
    for row in rows:
        back = test.update(back, Counts(*row))
    assert test.log_e(there, 0.01) == pytest.approx(test.log_e(back, 0.01), abs=1e-9)
    assert test.log_e(there, 0.01) == pytest.approx(test.log_e(halves, 0.01), abs=1e-9)


@quick
@given(counts_of_interval)
def test_more_canary_errors_are_more_harm_and_less_safety(row: tuple[int, ...]) -> None:
    x_c, x_s, n_c, n_s = row
    for direction in BOTH:
        test = RateTest(direction, RATIO)
        few, many = (test.update(test.start(), Counts(x, x_s, n_c, n_s)) for x in (x_c, x_c + 1))
        assert float(direction) * (test.log_e(many) - test.log_e(few)) > 0
        assert test.excess(many, 0.05) >= test.excess(few, 0.05)


def test_sequence_and_test_agree_on_every_ratio_of_the_grid() -> None:
    rng = np.random.default_rng(5)
    sequence, share = RatioSequence(anchor=RATIO), AlphaShare(0.02, 0.03)
    state, history = sequence.start(), []
    for _ in range(40):
        row = Counts(rng.binomial(50, 0.04), rng.binomial(950, 0.01), 50, 950)
        state, history = sequence.update(state, row), [*history, row]
    bounds = sequence.bounds(state, share)
    assert 1 < bounds.low < 4 < bounds.high < 12
    for step in range(-30, 60):
        ratio = RATIO * exp(0.05 * step)
        harm, safe = RateTest(Verdict.HARM, ratio), RateTest(Verdict.SAFE, ratio)
        up, down = harm.start(), safe.start()
        for row in history:
            up, down = harm.update(up, row), safe.update(down, row)
        assert (harm.log_e(up) >= log(1 / share.harm)) == (ratio <= bounds.low * (1 + 1e-9))
        assert (safe.log_e(down) >= log(1 / share.safe)) == (ratio >= bounds.high * (1 - 1e-9))


def test_ratio_and_difference_are_covered_at_every_look() -> None:
    rng = np.random.default_rng(8)
    rollouts, alpha = 200, 0.1
    sequence, above, below = RatioSequence(), RateTest(Verdict.HARM), RateTest(Verdict.SAFE)
    state, up, down = sequence.start((rollouts,)), above.start((rollouts,)), below.start((rollouts,))
    missed_ratio, missed_difference = np.zeros(rollouts, bool), np.zeros(rollouts, bool)
    for _ in range(60):
        counts = Counts(rng.binomial(100, 0.03, rollouts), rng.binomial(900, 0.02, rollouts), 100, 900)
        state, up, down = sequence.update(state, counts), above.update(up, counts), below.update(down, counts)
        bounds = sequence.bounds(state, AlphaShare(alpha / 2, alpha / 2))
        missed_ratio |= (bounds.low > 1.5) | (bounds.high < 1.5)
        missed_difference |= above.excess(up, alpha / 2) > 0.01
        missed_difference |= below.excess(down, alpha / 2) < 0.01
    assert missed_ratio.mean() <= alpha
    assert missed_difference.mean() <= alpha
    assert np.median(below.excess(down, alpha / 2) - above.excess(up, alpha / 2)) < 0.03


def test_bad_counts_are_refused() -> None:
    test = RateTest(Verdict.HARM)
    for bad in (Counts(-1, 0, 5, 5), Counts(0, float("nan"), 5, 5), Counts(0, 0, inf, 5)):
        with pytest.raises(InvalidInput, match="finite"):
            test.update(test.start(), bad)
    with pytest.raises(InvalidInput):
        RateTest(Verdict.UNDECIDED)
    with pytest.raises(InvalidInput, match="multiples"):
        RatioSequence(step=0.07).start()
