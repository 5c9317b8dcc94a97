"""The mean of a bounded quantity from the values themselves: the hedged capital confidence sequence.

Theorem 3 of Waudby-Smith and Ramdas, arXiv:2010.09686. For each candidate mean m a gambler bets on values above m and
another on values below; a candidate whose gambler grows rich is no longer believed. It is the tightest of the
sequences here at small samples, where labels are few and late, and it needs every value in the order in which it
came: adding a batch equals adding its rows one by one. For counts and sums see `means`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from serinus.core.errors import InvalidInput
from serinus.core.sequential.means import Range
from serinus.core.sequential.verdict import AlphaShare, Bounds, Floats, threshold

_CHUNK = 1_000_000


class CapitalState(NamedTuple):
    """Rows, total and squared residuals, [...]; log capital of the upward and downward gamblers, [..., M]."""

    rows: Floats
    total: Floats
    residuals: Floats
    up: Floats
    down: Floats


@dataclass(frozen=True)
class HedgedCapital:
    """`grid` candidate means span the range; `alpha` (both sides) tunes the bets, `cap` keeps capital positive."""

    range: Range
    alpha: float = 0.05
    cap: float = 0.5
    grid: int = 1001

    def start(self, shape: tuple[int, ...] = ()) -> CapitalState:
        """The state before any data."""
        zeros, capital = np.zeros(shape), np.zeros((*shape, self.grid))
        return CapitalState(zeros, zeros, zeros, capital, capital)

    @property
    def _candidates(self) -> Floats:
        return np.linspace(0.0, 1.0, self.grid)

    def update(self, state: CapitalState, values: ArrayLike) -> CapitalState:
        """Add values, [..., n], oldest first."""
        unit = (np.asarray(values, dtype=np.float64) - self.range.low) / self.range.width
        if not np.all((unit >= 0) & (unit <= 1)):
            raise InvalidInput(f"values must lie in [{self.range.low:g}, {self.range.high:g}]")
        if unit.shape[-1] == 0:
            return state
        bets, count, total, residuals = self._bets(state, unit)
        up, down = state.up, state.down
        rows = max(1, _CHUNK // max(1, up.size))
        for first in _slices(unit.shape[-1], rows):
            more_up, more_down = self._gains(unit[..., first], bets[..., first])
            up, down = up + more_up, down + more_down
        return CapitalState(count, total, residuals, up, down)

    def _bets(self, state: CapitalState, unit: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Each row's bet from the rows before it, and the sums after the last row."""
        count = state.rows[..., np.newaxis] + np.arange(1, unit.shape[-1] + 1)
        total = state.total[..., np.newaxis] + np.cumsum(unit, axis=-1)
        squared = np.square(unit - (0.5 + total) / (1.0 + count))
        residuals = state.residuals[..., np.newaxis] + np.cumsum(squared, axis=-1)
        before = np.concatenate([state.residuals[..., np.newaxis], residuals[..., :-1]], axis=-1)
        variance = (0.25 + before) / count
        bets = np.sqrt(2 * np.log(2 / self.alpha) / (variance * count * np.log1p(count)))
        return bets, count[..., -1], total[..., -1], residuals[..., -1]

    def _gains(self, unit: Floats, bets: Floats) -> tuple[Floats, Floats]:
        candidates = self._candidates
        with np.errstate(divide="ignore"):
            cap_up, cap_down = self.cap / candidates, self.cap / (1.0 - candidates)
        apart = unit[..., np.newaxis] - candidates
        up = np.log1p(np.minimum(bets[..., np.newaxis], cap_up) * apart).sum(axis=-2)
        return up, np.log1p(-np.minimum(bets[..., np.newaxis], cap_down) * apart).sum(axis=-2)

    def bounds(self, state: CapitalState, share: AlphaShare) -> Bounds:
        """The mean's interval, [...], rounded outwards to the candidates; the whole range without data."""
        believed = (state.up < threshold(share.harm)) & (state.down < threshold(share.safe))
        poorest = np.argmin(np.maximum(state.up, state.down), axis=-1)
        some = believed.any(axis=-1)
        first = np.where(some, believed.argmax(axis=-1), poorest)
        last = np.where(some, self.grid - 1 - believed[..., ::-1].argmax(axis=-1), poorest)
        candidates = self._candidates
        low, high = candidates[np.maximum(first - 1, 0)], candidates[np.minimum(last + 1, self.grid - 1)]
        return Bounds(self.range.low + self.range.width * low, self.range.low + self.range.width * high)


def _slices(length: int, step: int) -> list[slice]:
    """Slices that cover `length` rows, `step` at a time."""
    return [slice(start, start + step) for start in range(0, length, step)]
