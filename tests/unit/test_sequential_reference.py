"""Our numbers against independent implementations, on the same rows.

`ville` runs here; it computes the plug-in empirical-Bernstein and hedged-capital sequences of the same theorems, so
those agree to the last digit, and other constructions for rates and quantiles, which must come out about as wide.
`confseq` 0.0.11 (the authors' own) needs an old NumPy and a compiler, so its answers are written down below.
"""

from __future__ import annotations

import numpy as np
import pytest

from serinus.core.sequential import AlphaShare, HedgedCapital, PlugInBernstein, QuantileTest, Range, Sums, rate_bounds

ville = pytest.importorskip("ville")

SHARE = AlphaShare(0.025, 0.025)
ROWS = np.array([((7 * i * i + 3 * i) % 101) / 100 * 0.4 + 0.1 for i in range(400)])
EDGES = tuple((np.arange(100) * 0.004 + 0.102).tolist())
CONFSEQ_BERNSTEIN = (0.26361249015682153, 0.3132509513284264)
CONFSEQ_BETTING = (0.268, 0.308)


def test_plug_in_bernstein_agrees_at_every_row() -> None:
    reference = ville.EmpiricalBernsteinCS(alpha=0.05, intersect=False).fit(ROWS)
    test = PlugInBernstein(Range(0, 1))
    state, lows, highs = test.start(), [], []
    for value in ROWS:
        state = test.update(state, Sums.of([value]))
        bounds = test.bounds(state, SHARE)
        lows.append(float(bounds.low))
        highs.append(float(bounds.high))
    np.testing.assert_allclose(lows, reference.lower_, atol=1e-12)
    np.testing.assert_allclose(highs, reference.upper_, atol=1e-12)
    # Their first guesses of mean and variance are others, which the theorem leaves free.
    assert (lows[-1], highs[-1]) == pytest.approx(CONFSEQ_BERNSTEIN, abs=1e-3)


@pytest.mark.parametrize("rows", [1, 17, 100, 400])
def test_hedged_capital_agrees(rows: int) -> None:
    reference = ville.BettingCS(alpha=0.05, grid=1001, intersect=False).fit(ROWS[:rows])
    test = HedgedCapital(Range(0, 1))
    bounds = test.bounds(test.update(test.start(), ROWS[:rows]), SHARE)
    assert (float(bounds.low), float(bounds.high)) == pytest.approx(reference.interval(), abs=1e-9)
    if rows == len(ROWS):
        assert (float(bounds.low), float(bounds.high)) == pytest.approx(CONFSEQ_BETTING, abs=1e-9)


@pytest.mark.parametrize("above", [0.3, 0.45, 0.49])
def test_rates_are_about_as_narrow_as_the_beta_binomial_mixture(above: float) -> None:
    events = (above < ROWS).astype(float)
    low, high = ville.BernoulliCS(alpha=0.05, intersect=False).fit(events).interval()
    bounds = rate_bounds(events.sum(), len(events), SHARE)
    assert bounds.high - bounds.low < 1.1 * (high - low)
    assert max(bounds.low, low) < events.mean() < min(bounds.high, high)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_quantiles_are_about_as_narrow_from_buckets_as_from_rows(quantile: float) -> None:
    low, high = ville.QuantileCS(q=quantile, alpha=0.05, t_opt=400, intersect=False).fit(ROWS).interval()
    counts = np.bincount(np.searchsorted(EDGES, ROWS), minlength=len(EDGES) + 1)
    bounds = QuantileTest(quantile, EDGES).bounds(counts, SHARE)
    assert bounds.high - bounds.low < 1.1 * (high - low) + 2 * 0.004
    assert bounds.low < np.quantile(ROWS, quantile) < bounds.high
