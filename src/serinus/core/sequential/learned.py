"""Do canary and stable predict alike? A bet that learns where they differ.

`two_sample` bets on shapes of shifts that are thought of beforehand. With a margin of total variation m, a bet on one
bin can win only if that bin alone differs by more than m, and a bet on a slope only if the difference is about as
smooth as it. The best bet divides the bins in two: those of which the canary has more, S, and the others. Then the
difference on S is the whole total variation.

S is not known, but what the earlier intervals suggest may be bet on in the next one: given the past it is fixed, so the
bound of `two_sample` holds interval by interval, and the product is a supermartingale whenever every interval's total
variation is at most m. In bins of S the ratio bet on is t, elsewhere (1 - t q) / (1 - q), where q is S's share of
stable's rows so far: the likelihood ratio of a canary of whose rows a share t q lies in S. The first interval with
rows of both versions only teaches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from serinus.core.errors import InvalidInput
from serinus.core.sequential.mixture import Prior, log_mix
from serinus.core.sequential.rate_ratio import RateState
from serinus.core.sequential.verdict import Floats

LEARNED_PRIOR = Prior(sizes=(0.05, 0.1, 0.2, 0.4, 0.8, 1.6), weights=(1, 1, 1, 1, 1, 1))
# The canary is never bet to have nearly all of its rows in S: one row elsewhere would then ruin the bet.
_MOST = 0.95


class LearnedState(NamedTuple):
    """The bets, [..., K], and rows by bin so far, [..., B], from which the next ones are made."""

    bets: RateState
    canary: Floats
    stable: Floats


@dataclass(frozen=True)
class LearnedTest:
    """Evidence that the total variation over `bins` bins is above a margin."""

    bins: int

    def start(self, shape: tuple[int, ...] = ()) -> LearnedState:
        """The state before any rows."""
        zeros, rows = np.zeros((*shape, len(LEARNED_PRIOR.sizes))), np.zeros((*shape, self.bins))
        return LearnedState(RateState(zeros, zeros), rows, rows)

    def update(self, state: LearnedState, canary: ArrayLike, stable: ArrayLike) -> LearnedState:
        """Add one interval's new counts, each [..., B]."""
        ours, theirs = np.asarray(canary, dtype=np.float64), np.asarray(stable, dtype=np.float64)
        if not ours.shape[-1] == theirs.shape[-1] == self.bins or not (np.all(ours >= 0) and np.all(theirs >= 0)):
            raise InvalidInput(f"expected counts of {self.bins} bins, each at least 0")
        rows, other = (each.sum(axis=-1, keepdims=True) for each in (ours, theirs))
        high, low, chosen = self._ratios(state)
        inside, other_inside = ((each * chosen).sum(axis=-1, keepdims=True) for each in (ours, theirs))
        weight = rows / np.where(rows + other > 0, rows + other, 1.0)
        mean_high, mean_low = np.log1p((high - 1) * weight), np.log1p((low - 1) * weight)
        evidence = inside * np.log(high) + (rows - inside) * np.log(low)
        evidence -= (inside + other_inside) * mean_high + (rows - inside + other - other_inside) * mean_low
        drift = rows * (high / np.exp(mean_high) - low / np.exp(mean_low))
        # Rows of one version only say nothing.
        both = (rows > 0) & (other > 0)
        bets = RateState(
            state.bets.evidence + np.where(both, evidence, 0.0), state.bets.drift + np.where(both, drift, 0.0)
        )
        return LearnedState(bets, state.canary + ours, state.stable + theirs)

    def _ratios(self, state: LearnedState) -> tuple[Floats, Floats, Floats]:
        """The ratios bet on within S and elsewhere, [..., K], and S as zeros and ones, [..., B]."""
        rows, other = (each.sum(axis=-1, keepdims=True) for each in (state.canary, state.stable))
        chosen = (state.canary * other > state.stable * rows).astype(np.float64)
        share = ((state.stable * chosen).sum(axis=-1, keepdims=True) + 0.5) / (other + 1.0)
        share = np.where(chosen.any(axis=-1, keepdims=True), share, 0.0)
        with np.errstate(divide="ignore"):
            most = np.maximum(_MOST / share, 1.0)
        high = np.where(share > 0, np.minimum(np.exp(np.array(LEARNED_PRIOR.sizes)), most), 1.0)
        return high, (1 - high * share) / (1 - share), chosen

    def log_e(self, state: LearnedState, margin: ArrayLike = 0.0) -> Floats:
        """log of the evidence, [...], that the total variation is above the margin; reject at log(1 / alpha)."""
        margin = np.asarray(margin, dtype=np.float64)[..., np.newaxis]
        return log_mix(state.bets.evidence - margin * state.bets.drift, LEARNED_PRIOR.log_weights)
