"""Mixtures of bets: one e-process out of several, without knowing in advance which bet is the right one.

A weighted average of e-processes is an e-process, and it trails the best of them by at most log(1 / its weight), for
ever. A finite mixture needs no special functions and updates in O(points).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np

from serinus.core.errors import InvalidInput
from serinus.core.sequential.verdict import Floats

# A round of a bisection tries 63 points at once where there are at most so many elements.
_FEW = 32
_WIDE_BITS = 6


@dataclass(frozen=True)
class Prior:
    """Sizes of effect to bet on (as |log ratio|, rising) and the capital given to each (made to sum to 1)."""

    sizes: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.sizes, self.sizes[1:], strict=False))
        if len(self.sizes) != len(self.weights) or not self.sizes or not rising or self.sizes[0] <= 0:
            raise InvalidInput("a prior needs as many weights as sizes, and sizes that are positive and rise")
        if any(not weight > 0 for weight in self.weights):
            raise InvalidInput("a prior's weights must be positive")

    @property
    def log_weights(self) -> Floats:
        weights = np.array(self.weights)
        logs: Floats = np.log(weights / weights.sum())
        return logs


def log_mix(log_e: Floats, log_weights: Floats) -> Floats:
    """log of the weighted sum of exp(log_e) over the last axis: [..., K] -> [...].

    Point by point: numpy reduces a long array of short rows several times slower than a few long ones.
    """
    terms = np.asarray(log_e + log_weights)
    top = reduce(np.maximum, (terms[..., point] for point in range(terms.shape[-1])))
    top = np.where(np.isfinite(top), top, 0.0)
    terms = np.exp(terms - top[..., np.newaxis])
    with np.errstate(divide="ignore"):
        mixed: Floats = np.log(terms @ np.ones(terms.shape[-1])) + top
    return mixed


def bisect(rises: Callable[[Floats], Floats], low: Floats, high: Floats, rounds: int = 50) -> tuple[Floats, Floats]:
    """Brackets of where a rising function crosses zero, elementwise: `rises(low) < 0 <= rises(high)` is kept.

    Both ends are returned, so that the caller can take the conservative one. `rises` is given points of the shape of
    `low` with one more axis in front: for few elements each round tries many points at once, which costs numpy hardly
    more than one.
    """
    low, high = np.broadcast_arrays(np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64))
    bits = _WIDE_BITS if low.size <= _FEW else 1
    inner = (np.arange(1, 2**bits) / 2**bits).reshape(-1, *(1,) * low.ndim)
    columns = np.arange(low.size)
    for _ in range(-(-rounds // bits)):
        points = low + inner * (high - low)
        below = np.asarray(rises(points) < 0).sum(axis=0)
        ends = np.concatenate([low[np.newaxis], points, high[np.newaxis]]).reshape(len(inner) + 2, low.size)
        # `np.take_along_axis` gives the same, and took a quarter of the time of a decision.
        at = below.reshape(-1)
        low, high = ends[at, columns].reshape(low.shape), ends[at + 1, columns].reshape(low.shape)
    return low, high
