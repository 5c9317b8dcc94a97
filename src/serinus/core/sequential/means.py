"""The mean of a bounded quantity from sums alone: empirical-Bernstein confidence sequences.

For the paired quality guard: the difference of two versions' losses on the same row lies in [-b, b] and varies little,
and these intervals shrink with the variance instead of with the range. An interval of time counts as a number of rows,
their sum and their sum of squares, in any order of rows; nothing else need be kept or logged.

Both rest on one inequality (Fan et al.; Howard et al.): for X with mean m and X >= g - c, where the guess g is made
before X was seen, and f in [0, 1), the expectation of exp(f / c (X - m) - psi(f) ((X - g) / c)^2) is at most 1, where
psi(f) = -log(1 - f) - f. For log(1 + f y) >= f y - psi(f) y^2 for y = (X - g) / c >= -1, and then
E (1 + f y) = 1 + f (m - g) / c <= exp(f (m - g) / c). A bad guess costs width, never validity.

- `BernsteinMixture` averages over a fixed grid of l with a fixed guess, so that it is a function of three cumulative
  sums. All rows weigh the same, and if the means drift the bounds hold for their running average. Prefer it.
- `PlugInBernstein` is Theorem 2 of Waudby-Smith and Ramdas, arXiv:2010.09686: l follows the variance seen so far. With
  one row an interval it is that paper's, to the last digit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from serinus.core.errors import InvalidInput
from serinus.core.sequential.mixture import bisect, log_mix
from serinus.core.sequential.verdict import AlphaShare, Bounds, Floats, Verdict, threshold

BETS = np.array([0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 0.75, 0.9])
LOG_BET_WEIGHTS = np.full(len(BETS), -np.log(len(BETS)))
_ROUNDING = 1e-9


class Sums(NamedTuple):
    """Rows, [...]: how many, the sum of their values, and the sum of their squares."""

    rows: ArrayLike
    total: ArrayLike
    squares: ArrayLike

    @classmethod
    def of(cls, values: ArrayLike) -> Sums:
        """Sums over the last axis of raw values, [..., n]."""
        array = np.asarray(values, dtype=np.float64)
        return cls(np.full(array.shape[:-1], array.shape[-1]), array.sum(axis=-1), np.square(array).sum(axis=-1))


@dataclass(frozen=True)
class Range:
    """What the values can be at all: known before any data, not estimated from it."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InvalidInput(
                f"values from {self.low:g} to {self.high:g} leave no room", hint="low must be below high"
            )

    @property
    def width(self) -> float:
        return self.high - self.low

    def unit(self, guess: float | None) -> float:
        """Where in [0, 1] a guess lies; in the middle without one."""
        return 0.5 if guess is None else (guess - self.low) / self.width

    def scale(self, sums: Sums) -> tuple[Floats, Floats, Floats]:
        """Count, total and squares of the values moved to [0, 1]; refuses sums that no values in range can have."""
        n, total, squares = (np.asarray(value, dtype=np.float64) for value in sums)
        unit = (total - n * self.low) / self.width
        unit_squares = (squares - 2 * self.low * total + n * self.low**2) / self.width**2
        slack = _ROUNDING * (1 + n)
        # In [0, 1] a square is at most its root, and the squares sum to at least n times the squared mean.
        possible = (n >= 0) & (unit >= -slack) & (unit_squares <= unit + slack)
        possible &= n * unit_squares >= unit**2 - slack * (1 + n)
        if not np.all(possible):
            raise InvalidInput(f"sums of an interval do not come from values in [{self.low:g}, {self.high:g}]")
        return n, unit, unit_squares


def psi(bet: Floats) -> Floats:
    """What a squared distance costs at a bet in [0, 1)."""
    penalty: Floats = -np.log1p(-bet) - bet
    return penalty


@dataclass(frozen=True)
class BernsteinMixture:
    """Evidence about, and confidence sequence of, the mean of values in `range`, from cumulative sums.

    `guess` is where the mean is expected before any data, in the values' unit: 0 for differences, the offline loss for
    losses. The middle of the range without one.
    """

    range: Range
    guess: float | None = None

    def __post_init__(self) -> None:
        if self.guess is not None and not self.range.low < self.guess < self.range.high:
            raise InvalidInput(f"the guess {self.guess:g} must lie inside the values' range")

    def log_e(self, sums: Sums, direction: Verdict, mean: ArrayLike) -> Floats:
        """log of the evidence, [...], that the mean is above (HARM) or below (SAFE) `mean`, in the values' unit."""
        return self._log_e(self.range.scale(sums), direction, mean)

    def _log_e(self, scaled: tuple[Floats, Floats, Floats], direction: Verdict, mean: ArrayLike) -> Floats:
        count, total, squares = scaled
        guess = self.range.unit(self.guess)
        room = guess if direction is Verdict.HARM else 1 - guess
        spread = np.maximum(squares - 2 * guess * total + count * guess**2, 0.0) / room**2
        unit = (np.asarray(mean, dtype=np.float64) - self.range.low) / self.range.width
        gain = float(direction) * (total - count * unit) / room
        return log_mix(gain[..., np.newaxis] * BETS - spread[..., np.newaxis] * psi(BETS), LOG_BET_WEIGHTS)

    def bounds(self, sums: Sums, share: AlphaShare) -> Bounds:
        """The mean's interval, [...]: low at alpha `share.harm`, high at `share.safe`; the whole range without data."""
        scaled = self.range.scale(sums)
        low, high = (np.full(scaled[0].shape, edge) for edge in (self.range.low, self.range.high))
        lower, _ = bisect(lambda m: threshold(share.harm) - self._log_e(scaled, Verdict.HARM, m), low, high)
        _, upper = bisect(lambda m: self._log_e(scaled, Verdict.SAFE, m) - threshold(share.safe), low, high)
        return Bounds(lower, upper)


class PlugInState(NamedTuple):
    """Sums of rows, values, squared residuals, bets, bets times values, and penalties. Each [...]."""

    rows: Floats
    total: Floats
    residuals: Floats
    bets: Floats
    bet_values: Floats
    penalty: Floats


@dataclass(frozen=True)
class PlugInBernstein:
    """The predictable plug-in sequence. `alpha` (both sides) tunes the bets, `cap` bounds them."""

    range: Range
    alpha: float = 0.05
    cap: float = 0.5

    def start(self, shape: tuple[int, ...] = ()) -> PlugInState:
        """The state before any data."""
        zeros = np.zeros(shape)
        return PlugInState(zeros, zeros, zeros, zeros, zeros, zeros)

    def update(self, state: PlugInState, sums: Sums) -> PlugInState:
        """Add the rows of one interval, all with the bet that the earlier intervals suggest for its last row."""
        count, total, squares = self.range.scale(sums)
        guess = (0.5 + state.total) / (1.0 + state.rows)
        bet = self._bet(state, count)
        spread = np.maximum(squares - 2 * guess * total + count * guess**2, 0.0)
        rows, sum_values = state.rows + count, state.total + total
        mean = (0.5 + sum_values) / (1.0 + rows)
        residuals = state.residuals + np.maximum(squares - 2 * mean * total + count * mean**2, 0.0)
        return PlugInState(
            rows,
            sum_values,
            residuals,
            state.bets + bet * count,
            state.bet_values + bet * total,
            state.penalty + spread * psi(bet),
        )

    def _bet(self, state: PlugInState, count: Floats) -> Floats:
        """The paper's bet sqrt(2 log(2 / alpha) / (variance t log(1 + t))), at the interval's last row t."""
        variance = (0.25 + state.residuals) / (1.0 + state.rows)
        last = np.maximum(state.rows + count, 1.0)
        wanted = np.sqrt(2 * np.log(2 / self.alpha) / (variance * last * np.log1p(last)))
        return np.asarray(np.minimum(wanted, self.cap), dtype=np.float64)

    def bounds(self, state: PlugInState, share: AlphaShare) -> Bounds:
        """The mean's interval, [...], as `BernsteinMixture.bounds`."""
        bets = np.where(state.bets > 0, state.bets, np.nan)
        centre = state.bet_values / bets
        low = centre - (threshold(share.harm) + state.penalty) / bets
        high = centre + (threshold(share.safe) + state.penalty) / bets
        low, high = np.where(np.isnan(low), 0.0, low), np.where(np.isnan(high), 1.0, high)
        low, high = np.maximum(low, 0.0), np.minimum(high, 1.0)
        return Bounds(self.range.low + self.range.width * low, self.range.low + self.range.width * high)
