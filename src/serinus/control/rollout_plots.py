"""Pictures of one rollout: who got how much of the traffic, and how each guard's interval narrowed.

Each picture is an SVG of its own, so that a page can lay them out by the width that it has.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from numpy.typing import NDArray

from serinus.core.guards.reading import Reading
from serinus.core.rollout import Action, Shares

CANARY, HARM, SAFE, QUIET = "#0b6e99", "#c0392b", "#2d8a4e", "#8a8a8a"
_GRID = "#e3e3e3"
_SHAPES: dict[str, tuple[str, str]] = {"rollback": ("X", HARM), "undo": ("X", HARM), "pause": ("s", "#d9730d")}
# Thresholds take the middle of an axis; an interval that is wider than this many times their distance is cut off.
_SPANS = 2.5


class Look(NamedTuple):
    """One decision, as far as pictures need it."""

    at: datetime
    action: Action
    shares: Shares
    readings: tuple[Reading, ...]


class Series(NamedTuple):
    """A guard's numbers by look, NaN where there are none: after each decision that began a stage, too."""

    at: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    harm_above: NDArray[np.float64]
    safe_below: NDArray[np.float64]
    value: NDArray[np.float64]
    reference: NDArray[np.float64]
    harm_evidence: NDArray[np.float64]
    safe_evidence: NDArray[np.float64]


def weights(looks: Sequence[Look]) -> str:
    """The canary's percent of the requests over time, and each decision but to hold."""
    figure = Figure(figsize=(9.0, 2.4), layout="constrained")
    axis = figure.subplots()
    at = [date2num(each.at) for each in looks]
    answered = [each.shares.weight for each in looks]
    axis.fill_between(at, answered, step="post", color=CANARY, alpha=0.15, linewidth=0)
    axis.step(at, answered, where="post", color=CANARY, label="answered by the canary")
    if any(each.shares.shadow for each in looks):
        copied = [each.shares.shadow for each in looks]
        axis.step(at, copied, where="post", color=QUIET, linestyle="--", label="copied to it")
    for each in looks:
        if each.action != "hold":
            _mark(axis, each)
    axis.set(ylim=(0, 105), yticks=(0, 25, 50, 75, 100), ylabel="% of the requests")
    _finish((axis,), looks)
    return _svg(figure)


def _mark(axis: Any, look: Look) -> None:
    shape, colour = _SHAPES.get(look.action, ("o", CANARY))
    axis.plot(date2num(look.at), look.shares.weight, shape, color=colour, markersize=6, clip_on=False)
    if look.action not in ("start", "advance", "promote"):
        place = {"xytext": (3, 6), "textcoords": "offset points", "fontsize": 8, "color": colour}
        axis.annotate(look.action, (date2num(look.at), look.shares.weight), **place)


def guard(looks: Sequence[Look], name: str) -> str | None:
    """A guard's interval between its thresholds, and below it how far evidence is from a verdict; None without any."""
    read = [each for look in looks for each in look.readings if each.guard == name]
    if not any(each.canary or each.stable for each in read):
        return None
    series, unit = _series(looks, name), read[-1].unit
    scale, rate = _scale(unit), unit.startswith("share of")
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axis, evidence = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.2))
    bounded = bool(np.isfinite(series.low).any() or np.isfinite(series.high).any())
    if bounded:
        _interval(axis, series, scale)
    if not bounded or not rate:
        axis.plot(series.at, series.value * scale, color="#222222", linewidth=1, label="observed")
    if not bounded:
        axis.plot(series.at, series.reference * scale, color=QUIET, linewidth=1.2, label="expected")
    axis.set_ylabel(_label(unit, bounded))
    for values, colour, word in ((series.harm_evidence, HARM, "harm"), (series.safe_evidence, SAFE, "safe")):
        if np.nansum(np.abs(values)):
            evidence.plot(series.at, np.clip(values, 0, 1), color=colour, linewidth=1.4, label=f"for {word}")
    evidence.axhline(1, color="#444444", linewidth=0.8, linestyle=":")
    evidence.set(ylim=(0, 1.1), yticks=(0, 1), yticklabels=("0", "verdict"), ylabel="evidence")
    _finish((axis, evidence), looks)
    return _svg(figure)


def _interval(axis: Any, series: Series, scale: float) -> None:
    marks = np.concatenate((series.harm_above, series.safe_below)) * scale
    bottom, top = _limits(marks[np.isfinite(marks)], np.concatenate((series.low, series.high)) * scale)
    low, high = series.low * scale, series.high * scale
    known = ~(np.isnan(low) & np.isnan(high))
    both = bool(np.isfinite(low).any() and np.isfinite(high).any())
    if both:
        edges = (
            np.clip(np.where(np.isnan(edge), end, edge), bottom, top) for edge, end in ((low, bottom), (high, top))
        )
        axis.fill_between(series.at, *edges, where=known, color=CANARY, alpha=0.22, linewidth=0, label="interval")
    for edge, word in ((low, "at least"), (high, "at most")):
        if np.isfinite(edge).any():
            shown = np.where((edge >= bottom) & (edge <= top), edge, np.nan)
            axis.plot(series.at, shown, color=CANARY, linewidth=1.4, label=None if both else word)
    for values, colour, word in ((series.harm_above, HARM, "harm above"), (series.safe_below, SAFE, "safe below")):
        if np.isfinite(values).any():
            axis.plot(series.at, values * scale, color=colour, linewidth=1.4, linestyle="--", label=word)
    room = 0.03 * (top - bottom)  # a line on the border would be cut in half
    axis.set_ylim(bottom - room, top + room)


def _limits(marks: NDArray[np.float64], bounds: NDArray[np.float64]) -> tuple[float, float]:
    """An axis on which the thresholds can be told apart, wide enough for most of what was seen between them."""
    bounds = bounds[np.isfinite(bounds)]
    if not len(marks):
        marks = np.quantile(bounds, (0.25, 0.75))
    middle, span = float(marks.min() + marks.max()) / 2, float(marks.max() - marks.min()) or abs(float(marks[0])) or 1.0
    reach = float(np.quantile(np.abs(bounds - middle), 0.8)) if len(bounds) else span
    half = min(max(reach, span), _SPANS * span)
    return middle - half, middle + half


def _series(looks: Sequence[Look], name: str) -> Series:
    rows: list[list[float]] = []
    for look in looks:
        found = next((each for each in look.readings if each.guard == name), None)
        if found is None:
            continue
        at = date2num(look.at)
        rows.append([at, *(_float(getattr(found, field)) for field in Series._fields[1:])])
        if look.action in ("advance", "promote"):
            rows.append([at, *[np.nan] * (len(Series._fields) - 1)])  # the next stage's tests begin afresh
    return Series(*np.array(rows, dtype=np.float64).T)


def _float(value: float | None) -> float:
    return np.nan if value is None else value


def _scale(unit: str) -> float:
    return 100.0 if unit.startswith("share of") else 1000.0 if unit == "seconds" else 1.0


def _label(unit: str, bounded: bool) -> str:
    if unit.startswith("share of"):
        return "points above tolerated rate" if bounded else f"% of {unit.removeprefix('share of ')}"
    return "ms" if unit == "seconds" else unit


def _finish(axes: Sequence[Any], looks: Sequence[Look]) -> None:
    """Grid, names above, and the whole rollout's time."""
    for axis in axes:
        axis.grid(color=_GRID, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0, ncols=4)
    first, last = date2num(looks[0].at), date2num(looks[-1].at)
    axes[-1].set_xlim(first, max(last, first + 1 / 1440))
    locator = AutoDateLocator(minticks=3, maxticks=7)
    axes[-1].xaxis.set_major_locator(locator)
    axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def thinned(looks: Iterator[Look], most: int) -> list[Look]:
    """At most about twice `most` of them, evenly; decisions but to hold are all kept."""
    kept: list[Look] = []
    every = 1
    for number, look in enumerate(looks):
        if look.action != "hold" or number % every == 0:
            kept.append(look)
        if len(kept) >= 2 * most:
            every *= 2
            kept = [each for place, each in enumerate(kept) if each.action != "hold" or place % 2 == 0]
    return kept
