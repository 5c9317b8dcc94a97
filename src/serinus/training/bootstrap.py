"""How sure is a difference of losses? A paired bootstrap that resamples whole days.

Rows of one day share its weather, its luck and its traffic, so that they tell less than as many independent rows would:
resampling single rows gives intervals that are too narrow. Days are resampled instead; two models' losses stay paired
within each row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MINIMUM_BLOCKS = 5
_WEIGHTS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Bounds:
    """A mean difference and the interval that holds it at the confidence asked for."""

    value: float
    low: float
    high: float
    blocks: int


def paired_bootstrap(
    differences: NDArray[np.float64], blocks: NDArray[np.int64], confidence: float, resamples: int, seed: int
) -> Bounds:
    """Percentile interval of the mean over resampled blocks, widened for few blocks.

    Percentiles of a bootstrap over `g` blocks are too narrow by what the normal distribution lacks against Student's
    t with `g - 1` degrees of freedom and by `sqrt((g - 1) / g)`; the levels are moved out by both (Hesterberg 2015,
    "What teachers should know about the bootstrap", expanded percentile interval).

    Args:
        differences: one row's loss of a model minus the other's, `[n]`.
        blocks: the block of each row, such as its day, `[n]`.

    Raises:
        ValueError: there are fewer than `MINIMUM_BLOCKS` blocks: they say nothing of the spread.
    """
    _, place = np.unique(blocks, return_inverse=True)
    rows = np.bincount(place).astype(np.float64)
    sums = np.bincount(place, weights=differences)
    if len(rows) < MINIMUM_BLOCKS:
        raise ValueError(f"{len(rows)} blocks are too few for a bootstrap: it needs {MINIMUM_BLOCKS} or more")
    means = np.concatenate([(weights @ sums) / (weights @ rows) for weights in _weights(len(rows), resamples, seed)])
    value = float(sums.sum() / rows.sum())
    tail = expanded_tail((1 - confidence) / 2, len(rows))
    low, high = np.quantile(means, (tail, 1 - tail))
    return Bounds(value=value, low=float(low), high=float(high), blocks=len(rows))


def expanded_tail(tail: float, blocks: int) -> float:
    """The share of resamples to leave out on each side so that `tail` of the probability lies beyond."""
    from scipy.special import ndtr, stdtrit

    return float(ndtr(np.sqrt(blocks / (blocks - 1)) * stdtrit(blocks - 1, tail)))


def _weights(blocks: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each block is drawn in each resample, in chunks of bounded memory `[r, blocks]`."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _WEIGHTS_AT_ONCE // blocks)
    even = np.full(blocks, 1 / blocks)
    for start in range(0, resamples, at_once):
        yield generator.multinomial(blocks, even, size=min(at_once, resamples - start)).astype(np.float64)
