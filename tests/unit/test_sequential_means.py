"""Bounded means: exact expectations, coverage at every look, agreement of batches, and power on paired losses."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serinus.core.errors import InvalidInput
from serinus.core.sequential import (
    AlphaShare,
    BernsteinMixture,
    Bounds,
    HedgedCapital,
    PlugInBernstein,
    Range,
    Sums,
    Verdict,
)

SHARE = AlphaShare(0.05, 0.05)
UNIT, DIFFERENCE = Range(0, 1), Range(-1, 1)
quick = settings(max_examples=40, deadline=None, derandomize=True)
values = st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=12)


def added(*parts: Sums) -> Sums:
    return Sums(*(sum(np.asarray(part[field], dtype=float) for part in parts) for field in range(3)))


@quick
@given(
    st.sampled_from([Verdict.HARM, Verdict.SAFE]),
    st.integers(1, 6),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    st.floats(0, 1),
    st.floats(-0.9, 0.9),
)
def test_expected_evidence_at_the_true_mean_is_at_most_one(
    direction: Verdict, n: int, atoms: tuple[float, float], chance: float, guess: float
) -> None:
    """Exact, over all sequences of a value with two atoms, whatever the guess."""
    test = BernsteinMixture(DIFFERENCE, guess)
    which = np.array(list(product((0, 1), repeat=n)))
    mass = np.prod(np.where(which == 1, chance, 1 - chance), axis=1)
    mean = chance * atoms[1] + (1 - chance) * atoms[0]
    evidence = np.exp(test.log_e(Sums.of(np.array(atoms)[which]), direction, mean))
    assert (mass * evidence).sum() <= 1 + 1e-9


def beta_draws(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return rng.beta(0.5, 4.0, shape)


@pytest.mark.parametrize("method", ["mixture", "plug-in"])
def test_the_mean_is_covered_at_every_look(method: str) -> None:
    rng = np.random.default_rng(6)
    rollouts, mean = 500, 0.5 / 4.5
    plug_in, mixture = PlugInBernstein(UNIT, alpha=0.1), BernsteinMixture(UNIT, guess=0.15)
    state, sums = plug_in.start((rollouts,)), Sums(np.zeros(rollouts), 0.0, 0.0)
    missed = np.zeros(rollouts, bool)
    for size in (1, 2, 3, 5, 8, 13, 20, 30, 40, 60, 80, 100, 150, 200, 300):
        more = Sums.of(beta_draws(rng, (rollouts, size)))
        state, sums = plug_in.update(state, more), added(sums, more)
        bounds = mixture.bounds(sums, SHARE) if method == "mixture" else plug_in.bounds(state, SHARE)
        missed |= (bounds.low > mean) | (bounds.high < mean)
    assert missed.mean() <= 0.1
    assert np.median(bounds.high - bounds.low) < 0.06


def test_betting_covers_at_every_row_and_is_tightest_when_rows_are_few() -> None:
    rng = np.random.default_rng(7)
    betting, mixture, mean = HedgedCapital(UNIT, alpha=0.1, grid=201), BernsteinMixture(UNIT), 0.5 / 4.5
    state, missed = betting.start((200,)), np.zeros(200, bool)
    rows = beta_draws(rng, (200, 100))
    for row in range(100):
        state = betting.update(state, rows[:, row : row + 1])
        bounds = betting.bounds(state, SHARE)
        missed |= (bounds.low > mean) | (bounds.high < mean)
    assert missed.mean() <= 0.1
    other = mixture.bounds(Sums.of(rows), SHARE)
    assert np.median(bounds.high - bounds.low) < 0.8 * np.median(other.high - other.low)


def test_a_small_paired_difference_is_found_with_few_rows() -> None:
    """Losses that differ by 0.01 with a spread of 0.05: ranges of Hoeffding's kind would need 40 times the rows."""
    rng = np.random.default_rng(9)
    test = BernsteinMixture(DIFFERENCE, guess=0.0)
    rows = np.clip(rng.normal(0.01, 0.05, (200, 4000)), -1, 1)
    evidence = test.log_e(Sums.of(rows), Verdict.HARM, 0.002)
    assert np.mean(evidence >= np.log(1 / 0.01)) > 0.9
    healthy = test.log_e(Sums.of(rows - 0.01), Verdict.SAFE, 0.008)
    assert np.mean(healthy >= np.log(1 / 0.01)) > 0.9


@quick
@given(values, values)
def test_batches_and_order_do_not_matter(first: list[float], second: list[float]) -> None:
    whole, parts = Sums.of(second[::-1] + first), added(Sums.of(first), Sums.of(second))
    test = BernsteinMixture(DIFFERENCE)
    for direction in (Verdict.HARM, Verdict.SAFE):
        assert test.log_e(whole, direction, 0.1) == pytest.approx(test.log_e(parts, direction, 0.1), abs=1e-6)
    plug_in = PlugInBernstein(DIFFERENCE)
    one = plug_in.bounds(plug_in.update(plug_in.start(), Sums.of(first)), SHARE)
    other = plug_in.bounds(plug_in.update(plug_in.start(), Sums.of(first[::-1])), SHARE)
    assert one.low == pytest.approx(other.low, abs=1e-6)
    betting = HedgedCapital(DIFFERENCE, grid=51)
    together = betting.update(betting.start(), first + second)
    apart = betting.start()
    for value in first + second:
        apart = betting.update(apart, [value])
    np.testing.assert_allclose(together.up, apart.up, atol=1e-9)
    np.testing.assert_allclose(together.down, apart.down, atol=1e-9)


@quick
@given(values, st.floats(-1, 1), st.floats(-1, 1))
def test_evidence_falls_as_the_null_rises(rows: list[float], a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    test, sums = BernsteinMixture(DIFFERENCE), Sums.of(rows)
    assert test.log_e(sums, Verdict.HARM, low) >= test.log_e(sums, Verdict.HARM, high) - 1e-9
    assert test.log_e(sums, Verdict.SAFE, low) <= test.log_e(sums, Verdict.SAFE, high) + 1e-9


def test_no_data_leaves_the_whole_range() -> None:
    plug_in, betting = PlugInBernstein(DIFFERENCE), HedgedCapital(DIFFERENCE)
    nothing = Sums(np.zeros(2), 0.0, 0.0)
    everything: list[Bounds] = [
        BernsteinMixture(DIFFERENCE).bounds(nothing, SHARE),
        plug_in.bounds(plug_in.start((2,)), SHARE),
        plug_in.bounds(plug_in.update(plug_in.start((2,)), nothing), SHARE),
        betting.bounds(betting.update(betting.start((2,)), np.empty((2, 0))), SHARE),
    ]
    for bounds in everything:
        assert bounds.low.tolist() == [-1, -1]
        assert bounds.high.tolist() == [1, 1]


@pytest.mark.parametrize("sums", [(3, 4.0, 4.0), (3, 1.0, 1.5), (2, 2.0, 0.5), (-1, 0.0, 0.0), (1, float("nan"), 0.0)])
def test_impossible_sums_are_refused(sums: tuple[float, float, float]) -> None:
    with pytest.raises(InvalidInput):
        BernsteinMixture(UNIT).log_e(Sums(*sums), Verdict.HARM, 0.5)


def test_values_outside_the_range_are_refused() -> None:
    with pytest.raises(InvalidInput):
        HedgedCapital(UNIT).update(HedgedCapital(UNIT).start(), [1.1])
    with pytest.raises(InvalidInput):
        Range(1, 1)
    with pytest.raises(InvalidInput):
        BernsteinMixture(UNIT, guess=1.0)
