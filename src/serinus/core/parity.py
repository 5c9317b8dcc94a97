"""Was a model served what it was trained on? A row-by-row comparison of values, because distributions miss it.

A leak or a late pipeline can change most rows and hardly move a histogram; equality of each value with its
point-in-time twin is the only check that sees it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict


class ColumnParity(BaseModel):
    """How many rows of one column agree, and the first few that do not (row position, served, expected)."""

    model_config = ConfigDict(frozen=True)

    column: str
    equal: int
    different: int
    examples: tuple[tuple[int, str, str], ...] = ()


class Parity(BaseModel):
    """The comparison of served values with point-in-time ones over the same rows."""

    model_config = ConfigDict(frozen=True)

    rows: int
    rows_different: int
    columns: tuple[ColumnParity, ...]

    @property
    def equal(self) -> int:
        """Values that agree, over all columns."""
        return sum(column.equal for column in self.columns)

    @property
    def different(self) -> int:
        """Values that differ, over all columns."""
        return sum(column.different for column in self.columns)


def compare(served: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], examples: int = 5) -> Parity:
    """Compare columns of equal length, row by row; both missing (None or NaN) counts as equal.

    Raises:
        ValueError: the columns or their lengths do not match.
    """
    if set(served) != set(expected):
        raise ValueError(f"columns differ: {sorted(set(served) ^ set(expected))}")
    lengths = {len(values) for values in (*served.values(), *expected.values())}
    if len(lengths) > 1:
        raise ValueError(f"columns have different lengths: {sorted(lengths)}")
    rows = lengths.pop() if lengths else 0
    any_different = np.zeros(rows, dtype=bool)
    columns = []
    for name in served:
        left, right = served[name], expected[name]
        different = ~_same(left, right)
        any_different |= different
        shown = tuple((int(row), str(left[row]), str(right[row])) for row in np.flatnonzero(different)[:examples])
        count = int(different.sum())
        columns.append(ColumnParity(column=name, equal=rows - count, different=count, examples=shown))
    return Parity(rows=rows, rows_different=int(any_different.sum()), columns=tuple(columns))


def _same(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.bool_]:
    left_missing, right_missing = _missing(left), _missing(right)
    with np.errstate(invalid="ignore"):
        equal = np.asarray(left == right, dtype=bool)
    both_missing = left_missing & right_missing
    same: NDArray[np.bool_] = (equal & ~left_missing & ~right_missing) | both_missing
    return same


def _missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    if values.dtype.kind == "f":
        missing: NDArray[np.bool_] = np.isnan(values)
        return missing
    if values.dtype != object:
        return np.zeros(len(values), dtype=bool)
    return np.array([value is None or value != value for value in values], dtype=bool)
