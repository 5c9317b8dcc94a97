"""Do canary and stable predict alike on concurrent traffic? Counts over the same bins, which may drift in common.

The null of *harm* is that in every interval the total variation between the two distributions is at most `margin`.
As in `rate_ratio`, bet on ratios t_b of the canary's share to stable's, one for each bin b. With n_c and n_s rows in
the interval, a canary row in bin b multiplies by r_b = t_b (n_c + n_s) / (t_b n_c + n_s) and a stable row by r_b / t_b.
Since n_c (r_b - 1) + n_s (r_b / t_b - 1) = 0, the inequality 1 + x <= exp(x), row by row, bounds the expectation by

    exp(sum_b n_c (r_b - 1) (c_b - s_b)),

for shares c and s. Under the null that is at most exp(n_c margin (max r - min r)), and also at most
exp(n_c margin sum_b |r_b - 1|): dividing by either leaves a supermartingale. Two kinds of bets are averaged:

- *sparse*: each bin goes up, down or (with capital 1 - 1 / B in B bins) stays. All combinations together are simply
  the product of the bins' own mixtures, though bins are dependent, because each combination is one vector t.
  Bins that did not move cost about one nat together; the evidence of those that did adds up.
- *tilts*: log t_b = size * shape_b, for the shapes that a changed model usually has: predictions moved up or down, or
  away from or towards the middle. A small shift of all bins shows here long before any bin shows it alone.

The null of *safe* is that some bin's shares differ by at least the margin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from serinus.core.errors import InvalidInput
from serinus.core.sequential.mixture import Prior, log_mix
from serinus.core.sequential.rate_ratio import Counts, RateState, RateTest
from serinus.core.sequential.verdict import Floats, Verdict

SHIFT_PRIOR = Prior(sizes=(0.1, 0.2, 0.4, 0.8, 1.6), weights=(1, 1, 1, 1, 1))
TILTS = (0.1, 0.25, 0.6, 1.5)

_MORE = RateTest(Verdict.HARM, 1.0, SHIFT_PRIOR)
_LESS_THAN_MARGIN = RateTest(Verdict.SAFE)


def _counts(canary: ArrayLike, stable: ArrayLike, bins: int) -> tuple[Counts, Counts]:
    """One interval's counts of each bin out of all rows, and the same with the versions' roles swapped."""
    ours, theirs = np.asarray(canary, dtype=np.float64), np.asarray(stable, dtype=np.float64)
    if not ours.shape[-1] == theirs.shape[-1] == bins:
        raise InvalidInput(f"expected counts of {bins} bins")
    rows, other = ours.sum(axis=-1, keepdims=True), theirs.sum(axis=-1, keepdims=True)
    return Counts(ours, theirs, rows, other), Counts(theirs, ours, other, rows)


class TwoSampleState(NamedTuple):
    """Bins' rate tests, [..., B, K], of the canary's share above and below stable's (sparse bets), and the tilts."""

    more: RateState
    less: RateState
    tilts: RateState


@dataclass(frozen=True)
class TwoSampleTest:
    """`positions` place each bin on a line, such as the middle of its predictions; only order and distance count."""

    positions: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(set(self.positions)) < 2:
            raise InvalidInput("a comparison of distributions needs bins at two positions at least")

    @property
    def _log_ratios(self) -> Floats:
        """log t of every tilt, [B, T]."""
        line = np.array(self.positions, dtype=np.float64)
        line = 2 * (line - line.min()) / (line.max() - line.min()) - 1
        shapes = [line, -line, 2 * line**2 - 1, 1 - 2 * line**2]
        return np.stack([size * shape for shape in shapes for size in TILTS], axis=-1)

    def start(self, shape: tuple[int, ...] = ()) -> TwoSampleState:
        """The state before any rows."""
        bins, zeros = _MORE.start((*shape, len(self.positions))), np.zeros((*shape, 4 * len(TILTS)))
        return TwoSampleState(bins, bins, RateState(zeros, zeros))

    def update(self, state: TwoSampleState, canary: ArrayLike, stable: ArrayLike) -> TwoSampleState:
        """Add one interval's new counts, each [..., B]."""
        counts, swapped = _counts(canary, stable, len(self.positions))
        more, less = _MORE.update(state.more, counts), _MORE.update(state.less, swapped)
        return TwoSampleState(more, less, self._tilt(state.tilts, counts))

    def _tilt(self, state: RateState, counts: Counts) -> RateState:
        canary, stable, rows, other = (value[..., 0] for value in counts.arrays())
        total = rows + other
        weight = np.where(total > 0, rows / np.where(total > 0, total, 1.0), 0.0)
        log_ratios = self._log_ratios
        log_means = np.log1p(np.expm1(log_ratios) * weight[..., np.newaxis])
        evidence = canary @ log_ratios - np.einsum("...b,...bt->...t", canary + stable, log_means)
        # r = t / (1 + (t - 1) weight) rises with t, so that its range over the bins is that of the extreme bins.
        high, low = np.exp(log_ratios.max(axis=0)), np.exp(log_ratios.min(axis=0))
        drift = rows * (high / (1 + (high - 1) * weight) - low / (1 + (low - 1) * weight))
        return RateState(state.evidence + evidence, state.drift + drift)

    def log_e(self, state: TwoSampleState, margin: ArrayLike = 0.0) -> Floats:
        """log of the evidence, [...], that the total variation is above the margin; reject at log(1 / alpha)."""
        bins = len(self.positions)
        margin = np.asarray(margin, dtype=np.float64)[..., np.newaxis]
        both = np.logaddexp(_MORE.log_e(state.more, margin), _MORE.log_e(state.less, margin))
        sparse = np.logaddexp(both + np.log(0.5 / bins), np.log1p(-1 / bins)).sum(axis=-1)
        tilts = state.tilts.evidence - margin * state.tilts.drift
        tilted = log_mix(tilts, np.full(tilts.shape[-1], -np.log(tilts.shape[-1])))
        return np.asarray(np.logaddexp(sparse, tilted) + np.log(0.5), dtype=np.float64)


class CloseState(NamedTuple):
    """Bins' rate tests, [..., B, K]: the canary's share is not above stable's by the margin, and not below."""

    not_more: RateState
    not_less: RateState


@dataclass(frozen=True)
class CloseTest:
    """Evidence for *safe*: the shares of each of `bins` bins differ by less than the margin.

    The least evidence over bins and directions counts. If any one bin is beyond the margin, its own test bounds the
    probability of a false *safe*, so nothing is divided over the bins.
    """

    bins: int

    def start(self, shape: tuple[int, ...] = ()) -> CloseState:
        """The state before any rows."""
        bins = _LESS_THAN_MARGIN.start((*shape, self.bins))
        return CloseState(bins, bins)

    def update(self, state: CloseState, canary: ArrayLike, stable: ArrayLike) -> CloseState:
        """Add one interval's new counts, each [..., B]."""
        counts, swapped = _counts(canary, stable, self.bins)
        return CloseState(
            _LESS_THAN_MARGIN.update(state.not_more, counts), _LESS_THAN_MARGIN.update(state.not_less, swapped)
        )

    def log_e(self, state: CloseState, margin: ArrayLike) -> Floats:
        """log of the evidence, [...]; reject at log(1 / alpha)."""
        margin = np.asarray(margin, dtype=np.float64)[..., np.newaxis]
        sides = (_LESS_THAN_MARGIN.log_e(side, margin) for side in state)
        return np.asarray(np.minimum(*sides).min(axis=-1), dtype=np.float64)
