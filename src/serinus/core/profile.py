"""Reference histograms of every input and of the prediction, over bins that never move.

Bins are fixed when a model is trained and travel with it, so that any number of predictors can count into them and any
two stretches of time can be compared by adding counts.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from serinus.core.signature import Signature

PREDICTION = "prediction"
PREDICTION_EDGES = tuple(round(step / 20, 2) for step in range(1, 20))


class Histogram(BaseModel):
    """Counts of one column.

    A number column with `k` edges has bins `missing`, `(-inf, e0)`, `[e0, e1)`, ..., `[ek-1, inf)`: `k + 2` counts.
    A category column has `missing`, `other`, then one bin a listed category: `len(categories) + 2` counts, where
    `other` takes values outside the list.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Literal["number", "category"]
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    counts: tuple[int, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Histogram:
        bins = (len(self.edges) + 1 if self.kind == "number" else len(self.categories) + 1) + 1
        if len(self.counts) != bins:
            raise ValueError(f"{self.name}: {bins} bins but {len(self.counts)} counts")
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError(f"{self.name}: edges must rise")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each bin, in the order of the counts."""
        if self.kind == "category":
            return ("missing", "other", *self.categories)
        bounds = ("-inf", *(f"{edge:g}" for edge in self.edges), "+inf")
        return ("missing", *(f"[{low},{high})" for low, high in pairwise(bounds)))


class Profile(BaseModel):
    """One histogram for each of the signature's columns, and the prediction's."""

    model_config = ConfigDict(frozen=True)

    rows: int
    columns: tuple[Histogram, ...]
    prediction: Histogram | None = None


def bin_numbers(values: NDArray[np.floating[Any]], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bin index of each value: 0 for NaN, then 1 + the number of edges that are at most the value."""
    return np.where(np.isnan(values), 0, 1 + np.searchsorted(edges, values, side="right"))


def number_edges(values: NDArray[np.floating[Any]], bins: int) -> tuple[float, ...]:
    """Inner edges that split the values into at most `bins` bins of about equal size; heavy ties make fewer."""
    present = values[~np.isnan(values)].astype(np.float64)
    if present.size == 0:
        return ()
    edges = np.unique(np.quantile(present, np.arange(1, bins) / bins))
    return tuple(float(edge) for edge in edges if edge > present.min())


def build_profile(
    signature: Signature, numbers: NDArray[np.float32], categories: NDArray[np.int64], bins: int = 10
) -> Profile:
    """Histograms of encoded rows (see `Signature.encode`): numbers in quantile bins, categories by frequency.

    A category column keeps at most `4 * bins` named categories, the most frequent ones, so that the number of series
    a predictor exposes stays bounded; the rest count as `other`.
    """
    histograms = {}
    for position, column in enumerate(signature.numbers):
        values = numbers[:, position]
        edges = number_edges(values, bins)
        counts = np.bincount(bin_numbers(values, np.array(edges)), minlength=len(edges) + 2)
        histograms[column.name] = Histogram(name=column.name, kind="number", edges=edges, counts=tuple(counts.tolist()))
    for position, column in enumerate(signature.categories):
        histograms[column.name] = _category_histogram(column.name, column.categories, categories[:, position], 4 * bins)
    return Profile(rows=len(numbers), columns=tuple(histograms[column.name] for column in signature.columns))


def _category_histogram(name: str, known: tuple[str, ...], codes: NDArray[np.int64], limit: int) -> Histogram:
    counts = np.bincount(codes, minlength=len(known) + 2)
    order = np.argsort(-counts[2:], kind="stable")[:limit]
    other = int(counts[1:].sum() - counts[2:][order].sum())
    return Histogram(
        name=name,
        kind="category",
        categories=tuple(known[position] for position in order),
        counts=(int(counts[0]), other, *(int(counts[2:][position]) for position in order)),
    )


def profile_predictions(profile: Profile, probabilities: NDArray[np.floating[Any]]) -> Profile:
    """The profile with the histogram of predicted probabilities in twenty even bins."""
    counts = np.bincount(bin_numbers(probabilities, np.array(PREDICTION_EDGES)), minlength=len(PREDICTION_EDGES) + 2)
    histogram = Histogram(name=PREDICTION, kind="number", edges=PREDICTION_EDGES, counts=tuple(counts.tolist()))
    return profile.model_copy(update={"prediction": histogram})
