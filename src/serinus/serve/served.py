"""One batch's rows as the prediction log takes them: the arrays that its answers were made from, not copied."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serinus.core.signature import Column
from serinus.serve.lookup import LookedUp


class Origins(NamedTuple):
    """Where requests came from: their ids, and whether each is a copy whose answer nobody gets."""

    ids: Sequence[str | None]
    shadow: Sequence[bool]


@dataclass(frozen=True, slots=True)
class Served:
    """The rows of one batch that were answered, by column, each of length `n`.

    `served_at` is the batch's time and `moments` what values' ages were measured against, both in microseconds.
    `origins` has one entry a request, and `request_rows` how many of the rows are each one's. `fields` holds join keys
    and `id` as lists; `columns` the signature's columns; `known_at` and `states` arrays by feature view.
    """

    served_at: int
    ids: Sequence[str]
    probabilities: NDArray[np.float64]
    moments: NDArray[np.int64]
    origins: Origins
    request_rows: Sequence[int]
    fields: Mapping[str, Sequence[Any]]
    columns: Mapping[str, NDArray[Any]]
    known_at: Mapping[str, NDArray[np.int64]]
    states: Mapping[str, NDArray[np.int8]]

    @property
    def rows(self) -> int:
        return len(self.ids)


@dataclass(slots=True)
class Tried:
    """What a batch learns on its way about `rows`, the rows that reach the model.

    `fields`, `moments`, `columns` and what was looked up have an entry for each of `rows`; `ids` and `probabilities`
    one for each row of the batch.
    """

    rows: list[int]
    fields: Mapping[str, list[Any]]
    moments: NDArray[np.int64]
    looked: LookedUp
    columns: Mapping[str, NDArray[Any]]
    ids: list[str] = field(default_factory=list)
    probabilities: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def served(self, origins: Origins, starts: Sequence[int], failed: Collection[int]) -> Served:
        """The rows that were answered.

        Args:
            origins: of the batch's requests.
            starts: each request's first row in the batch, and the end.
            failed: the batch's rows that were not.
        """
        now = time.time_ns() // 1000
        looked = self.looked
        if not failed:
            sizes = [end - start for start, end in pairwise(starts)]
            return Served(
                now, self.ids, self.probabilities, self.moments, origins, sizes, self.fields, self.columns,
                looked.known_at, looked.states,
            )  # fmt: skip
        good = [at for at, row in enumerate(self.rows) if row not in failed]
        rows = [self.rows[at] for at in good]
        owners = np.searchsorted(starts, rows, side="right") - 1
        return Served(
            now,
            [self.ids[row] for row in rows],
            self.probabilities[rows],
            self.moments[good],
            Origins([origins.ids[owner] for owner in owners], [origins.shadow[owner] for owner in owners]),
            [1] * len(rows),
            {name: [values[at] for at in good] for name, values in self.fields.items()},
            _rows(self.columns, good),
            _rows(looked.known_at, good),
            _rows(looked.states, good),
        )


def _rows(arrays: Mapping[str, NDArray[Any]], rows: list[int]) -> dict[str, NDArray[Any]]:
    return {name: values[rows] for name, values in arrays.items()}


def plain_rows(
    columns: Sequence[Column], rows: Sequence[int], values: Mapping[str, NDArray[Any]]
) -> dict[int, dict[str, Any]]:
    """By row, its values by column as the model was given them: null where missing."""
    names = [column.name for column in columns]
    of_columns = [_plain(column, values[column.name]) for column in columns]
    return {
        row: dict(zip(names, of_row, strict=True))
        for row, of_row in zip(rows, zip(*of_columns, strict=True), strict=True)
    }


def _plain(column: Column, values: NDArray[Any]) -> list[Any]:
    """A column for JSON: integers and booleans as such, None for NaN."""
    if column.kind == "category":
        return list(values)
    dtype = column.dtype.lower()
    kind: type = int if dtype.startswith("int") else bool if dtype == "bool" else float
    return [None if value != value else kind(value) for value in values.tolist()]
