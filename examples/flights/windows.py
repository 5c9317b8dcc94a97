"""Sums over sliding windows of time, for many entities and many moments at once.

Times and values are integers, so a sum is exact and does not depend on where an interval of ingestion begins: rows of
adjoining intervals are the rows of the whole. A window `[t - width, t)` never holds what happens at `t` or later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_SPAN = 2**32  # more minutes than any time here: an entity's events lie together on one line of keys


@dataclass(frozen=True)
class Grid:
    """Every entity at every moment: `entity` and `time` have shape `(moments * entities,)`, in order of time."""

    entity: Ints
    time: Ints

    @classmethod
    def over(cls, entities: int, moments: Ints) -> Grid:
        return cls(entity=np.tile(np.arange(entities), len(moments)), time=np.repeat(moments, entities))

    def where(self, keep: NDArray[np.bool_]) -> Grid:
        return Grid(entity=self.entity[keep], time=self.time[keep])


class Events:
    """Things that happened to entities, each at a time, with values that can be summed over windows."""

    def __init__(self, entity: Ints, time: Ints, values: Mapping[str, Ints]) -> None:
        """`entity` (codes from 0), `time` (minutes) and each value have one element an event, in any order."""
        key = entity * _SPAN + time
        order = np.argsort(key, kind="stable")
        self._key = key[order]
        self.values = {name: value[order] for name, value in values.items()}
        self._sums = {name: np.concatenate([[0], np.cumsum(value)]) for name, value in self.values.items()}

    def bounds(self, grid: Grid, width: int) -> tuple[Ints, Ints]:
        """First event of the window `[t - width, t)` and first one after it, for each element of the grid."""
        until = grid.entity * _SPAN + grid.time
        return np.searchsorted(self._key, until - width), np.searchsorted(self._key, until)

    def count(self, grid: Grid, width: int) -> Ints:
        """Events in each window."""
        first, after = self.bounds(grid, width)
        return after - first

    def mean(self, name: str, grid: Grid, width: int) -> NDArray[np.float64]:
        """Mean of a value over each window, NaN where it is empty."""
        first, after = self.bounds(grid, width)
        return ratio(self._sums[name][after] - self._sums[name][first], after - first)

    def members(self, grid: Grid, width: int) -> tuple[Ints, Ints]:
        """Pairs (element of the grid, event in its window), for what cannot be had from running sums."""
        first, after = self.bounds(grid, width)
        size = after - first
        element = np.repeat(np.arange(len(size)), size)
        within = np.arange(len(element)) - np.repeat(np.cumsum(size) - size, size)
        return element, first[element] + within


def ratio(total: Ints, count: Ints) -> NDArray[np.float64]:
    """`total / count`, NaN where the count is 0."""
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def moments(since: int, until: int, step: int) -> Ints:
    """Multiples of `step` minutes in `[since, until)`."""
    return np.arange(-(-since // step) * step, until, step, dtype=np.int64)
