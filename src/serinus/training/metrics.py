"""Metrics of predicted probabilities, and the rule that every model must beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from serinus.core.evaluation import Scores
from serinus.core.signature import category_text

CALIBRATION_BINS = 15
_SMALLEST = 1e-7
_RULE_WEIGHT = 20.0

Metric = Literal["log_loss", "brier"]


def row_losses(labels: NDArray[np.int64], probabilities: NDArray[np.float64], metric: Metric) -> NDArray[np.float64]:
    """Each row's loss; its mean is the metric. Log loss counts a probability as at least 1e-7 from 0 and 1."""
    if metric == "brier":
        return np.square(probabilities - labels)
    clipped = np.clip(probabilities, _SMALLEST, 1 - _SMALLEST)
    return -np.log(np.where(labels == 1, clipped, 1 - clipped))


def score(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> Scores:
    """All metrics of one model on one set of rows; the AUCs are None where only one class occurs."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    both = 0 < labels.sum() < len(labels)
    return Scores(
        rows=len(labels),
        positives=int(labels.sum()),
        roc_auc=float(roc_auc_score(labels, probabilities)) if both else None,
        pr_auc=float(average_precision_score(labels, probabilities)) if both else None,
        log_loss=float(row_losses(labels, probabilities, "log_loss").mean()),
        brier=float(row_losses(labels, probabilities, "brier").mean()),
        calibration_error=calibration_bins(labels, probabilities, CALIBRATION_BINS).error,
    )


@dataclass(frozen=True)
class Calibration:
    """Mean predicted and observed rate in bins of equal mass, lowest predictions first."""

    rows: NDArray[np.int64]
    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error: mean absolute gap, weighted by rows."""
        return float(np.average(np.abs(self.predicted - self.observed), weights=self.rows))


def calibration_bins(labels: NDArray[np.int64], probabilities: NDArray[np.float64], bins: int) -> Calibration:
    """Split rows, ordered by prediction, into `bins` of about equal size; equal predictions stay in one bin."""
    edges = np.unique(np.quantile(probabilities, np.arange(1, bins) / bins))
    place = np.searchsorted(edges, probabilities, side="right")
    rows = np.bincount(place)
    held = rows > 0
    predicted = np.bincount(place, weights=probabilities)[held] / rows[held]
    observed = np.bincount(place, weights=labels)[held] / rows[held]
    return Calibration(rows[held], predicted, observed)


class RuleBaseline:
    """The outcome's past rate for each combination of some columns' values, drawn towards the overall rate.

    A combination with `n` rows weighs `n` against 20 rows at the overall rate; one never seen gets the overall rate.
    A missing value is a value of its own. Without columns the rule is the overall rate.
    """

    def __init__(self, columns: Mapping[str, NDArray[Any]], labels: NDArray[np.int64]) -> None:
        self._names = list(columns)
        self._base = float(labels.mean())
        if self._names:
            grouped = pd.DataFrame({**_plain(columns), "": labels}).groupby(self._names, dropna=False)[""]
            rates = (grouped.sum() + _RULE_WEIGHT * self._base) / (grouped.count() + _RULE_WEIGHT)
            self._rates = rates.rename("rate").reset_index()

    def probabilities(self, columns: Mapping[str, NDArray[Any]], rows: int) -> NDArray[np.float64]:
        """The rule's probability for each of `rows` rows."""
        if not self._names:
            return np.full(rows, self._base)
        found = pd.DataFrame(_plain(columns)).merge(self._rates, how="left", on=self._names)["rate"]
        return found.fillna(self._base).to_numpy(dtype=np.float64)


def _plain(columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.object_]]:
    """Values as text or None, so that a column compares equal whether or not some of its numbers are missing."""
    return {name: texts(values) for name, values in columns.items()}


def texts(values: Sequence[Any] | NDArray[Any]) -> NDArray[np.object_]:
    """Each value as the text of a category; None where missing."""
    written = np.empty(len(values), dtype=object)
    written[:] = [category_text(value) for value in values]
    return written
