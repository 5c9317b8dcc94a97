"""Pictures of training and evaluation, as PNG files. Drawn without a display and without matplotlib's global state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from serinus.core.evaluation import Difference
from serinus.engines.files import replacing

CURVES = "curves.png"
CALIBRATION = "calibration.png"
BY_DAY = "by-day.png"
BY_SLICE = "by-slice.png"
DIFFERENCES = "differences.png"
COLOURS = {"candidate": "#0b6e99", "champion": "#d9730d", "baseline": "#8a8a8a"}
_GRID = "#e3e3e3"
_FEWEST_CALLED = 50  # precision of fewer rows is noise that hides the curve


@contextmanager
def _drawing(path: Path, columns: int = 1, size: tuple[float, float] = (6.4, 4.0)) -> Iterator[Any]:
    """Axes side by side; the figure is written to the path, atomically, when the block ends."""
    figure = Figure(figsize=(size[0] * columns, size[1]), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.grid(color=_GRID, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    yield axes[0] if columns == 1 else axes
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=110, metadata={"Software": None})


def training_curve(losses: Sequence[tuple[float, float]], best: int, path: Path) -> None:
    """Training and validation loss by epoch, the best epoch marked."""
    epochs = np.arange(1, len(losses) + 1)
    train, validation = np.array(losses).T
    with _drawing(path) as axis:
        axis.plot(epochs, train, marker="o", color=COLOURS["baseline"], label="training (while learning)")
        axis.plot(epochs, validation, marker="o", color=COLOURS["candidate"], label="validation (averaged weights)")
        axis.axvline(best, color=COLOURS["champion"], linestyle=":", label=f"best: epoch {best}")
        axis.set(xlabel="epoch", ylabel="log loss", xticks=epochs, title="Training")
        axis.legend(frameon=False)


Scored = Mapping[str, NDArray[np.float64]]
"""Predicted probabilities of the same rows by model: candidate, champion, baseline."""


def curves(labels: NDArray[np.int64], scored: Scored, path: Path) -> None:
    """ROC and precision-recall curves, side by side."""
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    with _drawing(path, columns=2, size=(5.4, 4.4)) as (roc, recall):
        for name, found in scored.items():
            false, true, _ = roc_curve(labels, found)
            style = {"color": COLOURS[name], "linewidth": 1.8 if name != "baseline" else 1.2}
            roc.plot(false, true, label=f"{name}: {roc_auc_score(labels, found):.3f}", **style)
            precision, covered, _ = precision_recall_curve(labels, found)
            enough = covered * labels.sum() >= _FEWEST_CALLED * precision
            label = f"{name}: {average_precision_score(labels, found):.3f}"
            recall.plot(covered[enough], precision[enough], label=label, **style)
        roc.plot([0, 1], [0, 1], color=_GRID, linestyle="--")
        roc.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC (area)")
        recall.axhline(labels.mean(), color=_GRID, linestyle="--")
        recall.set(xlabel="recall", ylabel="precision", title="Precision and recall (average precision)", ylim=(0, 1))
        for axis in (roc, recall):
            axis.legend(frameon=False)


def calibration(labels: NDArray[np.int64], scored: Scored, bins: int, path: Path) -> None:
    """Predicted against observed rate over equal-mass bins, and how predictions spread."""
    from serinus.training.metrics import calibration_bins

    with _drawing(path, columns=2, size=(5.4, 4.4)) as (reliability, spread):
        reliability.plot([0, 1], [0, 1], color=_GRID, linestyle="--")
        highest = 0.0
        for name, found in scored.items():
            table = calibration_bins(labels, found, bins)
            reliability.plot(table.predicted, table.observed, marker="o", markersize=4, color=COLOURS[name], label=name)
            highest = max(highest, table.predicted.max(), table.observed.max())
            spread.hist(found, bins=np.linspace(0, 1, 41), histtype="step", color=COLOURS[name], label=name)
        edge = min(1.0, highest * 1.08)
        reliability.set(xlabel="predicted", ylabel="observed", title="Calibration", xlim=(0, edge), ylim=(0, edge))
        spread.set(xlabel="predicted probability", ylabel="rows", title="Predictions")
        for axis in (reliability, spread):
            axis.legend(frameon=False)


def by_day(days: NDArray[np.int64], losses: Scored, metric: str, path: Path) -> None:
    """Mean loss of each day by model."""
    first = int(days.min())
    counts = np.bincount(days - first)
    known = counts > 0
    dates = [date(1970, 1, 1) + timedelta(days=int(day) + first) for day in np.flatnonzero(known)]
    with _drawing(path, size=(10.8, 3.8)) as axis:
        for name, found in losses.items():
            mean = np.bincount(days - first, weights=found)[known] / counts[known]
            axis.plot(dates, mean, marker="o", markersize=3.5, color=COLOURS[name], label=name)
        axis.set(ylabel=metric.replace("_", " "), title="Loss by day (lower is better)")
        axis.tick_params(axis="x", rotation=30)
        axis.legend(frameon=False, ncols=3)


def by_slice(scores: Mapping[str, Sequence[tuple[str, float | None]]], metric: str, path: Path) -> None:
    """One row a slice, one mark a model."""
    names = [name for name, _ in next(iter(scores.values()))]
    places = np.arange(len(names))[::-1]
    with _drawing(path, size=(8.0, max(2.2, 0.26 * len(names) + 1.2))) as axis:
        for model, found in scores.items():
            values = [np.nan if value is None else value for _, value in found]
            axis.plot(values, places, linestyle="", marker="o", markersize=5, color=COLOURS[model], label=model)
        axis.set_yticks(places, names)
        axis.set(xlabel=metric.replace("_", " "), title="By slice")
        axis.legend(frameon=False)


def differences(found: Sequence[Difference], tolerance: float, path: Path) -> None:
    """Bootstrap intervals of the loss difference, with zero and the champion's tolerance marked."""
    with _drawing(path, size=(8.0, 0.6 * len(found) + 1.5)) as axis:
        places = np.arange(len(found))[::-1]
        for place, difference in zip(places, found, strict=True):
            axis.plot([difference.low, difference.high], [place, place], color=COLOURS["candidate"], linewidth=2.5)
            axis.plot([difference.value], [place], marker="o", color=COLOURS["candidate"])
        axis.axvline(0, color="#444444", linewidth=1)
        if any(difference.against == "champion" for difference in found):
            axis.axvline(tolerance, color=COLOURS["champion"], linestyle=":", label=f"tolerance {tolerance:g}")
            axis.legend(frameon=False, loc="lower left")
        axis.set_yticks(places, [f"against {difference.against}" for difference in found])
        metric = found[0].metric.replace("_", " ")
        axis.set(xlabel=f"difference in {metric} (negative is better)", ylim=(-0.6, len(found) - 0.4))
