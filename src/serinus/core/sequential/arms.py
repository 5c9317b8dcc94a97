"""The difference of two bounded means between randomised arms, for when predictions change what happens.

Then both versions cannot be scored on one row, and only what each arm did to its own rows counts. Rows of the canary
are bet on with l, those of stable against with l n_c / n_s, where n_c and n_s are the interval's rows. By the
inequality in `means`, for a fixed guess g,

    exp(l n_c (m_c - m_s - d)) times a supermartingale

is what the evidence against `m_c - m_s <= d` multiplies by, because both bets have the same size in total: whatever
the common level m_s does from interval to interval drops out. It needs far more traffic than the paired test, as the
smaller arm sets the pace and the level's own spread does not cancel row by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from serinus.core.errors import InvalidInput
from serinus.core.sequential.means import BETS, LOG_BET_WEIGHTS, Range, Sums, psi
from serinus.core.sequential.mixture import bisect, log_mix
from serinus.core.sequential.verdict import Floats, Verdict, threshold


class ArmsState(NamedTuple):
    """For each bet, [..., K]: log evidence at difference 0, and what a difference of the whole range takes off."""

    gain: Floats
    stake: Floats


@dataclass(frozen=True)
class ArmsTest:
    """HARM rejects `mean_canary - mean_stable <= difference`, SAFE rejects `>=`. `guess` is the usual mean."""

    direction: Verdict
    range: Range
    guess: float | None = None

    def __post_init__(self) -> None:
        if self.direction is Verdict.UNDECIDED:
            raise InvalidInput("a test of two arms needs the direction HARM or SAFE")
        if self.guess is not None and not self.range.low < self.guess < self.range.high:
            raise InvalidInput(f"the guess {self.guess:g} must lie inside the values' range")

    def start(self, shape: tuple[int, ...] = ()) -> ArmsState:
        """The state before any rows."""
        zeros = np.zeros((*shape, len(BETS)))
        return ArmsState(zeros, zeros)

    def update(self, state: ArmsState, canary: Sums, stable: Sums) -> ArmsState:
        """Add one interval's rows of both arms; an interval with rows of one arm only says nothing."""
        guess = self.range.unit(self.guess)
        ours, theirs = self._arm(canary, guess), self._arm(stable, guess)
        both = (ours.rows > 0) & (theirs.rows > 0)
        share = np.where(both, ours.rows / np.where(both, theirs.rows, 1.0), 1.0)
        room, other = (guess, 1 - guess) if self.direction is Verdict.HARM else (1 - guess, guess)
        # Neither arm's bet may reach 1 / room, the other's being `share` times as large.
        bet = BETS * np.minimum(1 / room, 1 / (other * share))
        gain = float(self.direction) * bet * (ours.total - share * theirs.total)
        gain -= ours.spread * psi(bet * room) / room**2 + theirs.spread * psi(bet * share * other) / other**2
        stake = bet * ours.rows
        return ArmsState(state.gain + np.where(both, gain, 0.0), state.stake + np.where(both, stake, 0.0))

    def _arm(self, sums: Sums, guess: float) -> _Arm:
        rows, total, squares = (value[..., np.newaxis] for value in self.range.scale(sums))
        spread = np.maximum(squares - 2 * guess * total + rows * guess**2, 0.0)
        return _Arm(rows, total, spread)

    def log_e(self, state: ArmsState, difference: ArrayLike) -> Floats:
        """log of the evidence against the null, [...], the difference in the values' unit."""
        units = float(self.direction) * np.asarray(difference, dtype=np.float64)[..., np.newaxis] / self.range.width
        return log_mix(state.gain - units * state.stake, LOG_BET_WEIGHTS)

    def bound(self, state: ArmsState, alpha: float) -> Floats:
        """Lower (HARM) or upper (SAFE) bound of the difference, [...]: plus or minus the range's width without data."""
        width, sign = np.full(state.gain.shape[:-1], self.range.width), float(self.direction)
        low, _ = bisect(lambda z: threshold(alpha) - self.log_e(state, sign * z), -width, width)
        return np.asarray(sign * low, dtype=np.float64)


class _Arm(NamedTuple):
    """One arm's rows, total and squared distances from the guess, scaled to [0, 1], each [..., 1]."""

    rows: Floats
    total: Floats
    spread: Floats
