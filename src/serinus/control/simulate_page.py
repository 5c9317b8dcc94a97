"""The page of a simulation: how each case ended, how soon bad canaries are caught, and what cannot work."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from datetime import timedelta
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from serinus.control.simulate import Simulated, SimulationReport
from serinus.core.simulation_summary import Spread, Summary
from serinus.core.times import format_duration
from serinus.engines.files import write_text
from serinus.training.report import page

PAGE_FILE = "report.html"
FIGURES_FILE = "simulation.json"
_COLOURS = {
    "rolled back": "#c0392b",
    "undone after promotion": "#d9730d",
    "paused": "#8e6bbf",
    "inconclusive": "#b8b8b8",
    "promoted": "#2d8a4e",
}


def write_page(folder: Path, simulated: Simulated) -> Path:
    """Write report.html and simulation.json; returns the page's path."""
    report = simulated.report
    write_text(folder / FIGURES_FILE, report.model_dump_json(indent=2, by_alias=True) + "\n")
    title = "What this rollout policy would do"
    parts = (f"<h1>{title}</h1>", *_facts(report), *_warnings(report), *_table(report), *_pictures(simulated))
    write_text(folder / PAGE_FILE, page(title, "\n".join(parts)))
    return folder / PAGE_FILE


def duration(seconds: float) -> str:
    """A length of time as people say it: two units at most."""
    whole = round(seconds / 60) * 60 if seconds >= 3600 else round(seconds)
    whole = round(seconds / 3600) * 3600 if seconds >= 172_800 else whole
    return format_duration(timedelta(seconds=whole))


def _facts(report: SimulationReport) -> Iterator[str]:
    load, policy = report.workload, report.policy
    steps = ", ".join(f"{weight:g} %" for weight in policy.steps)
    yield (
        f'<p class="facts">{report.rollouts:,} rollouts a case, seed {report.seed}. {load.rate:g} requests/s, errors '
        f"{load.errors:.2%}, p99 {1000 * load.latency_p99:.0f} ms, outcomes after {format_duration(load.label_delay)}. "
        f"Steps {escape(steps)}, a look every {format_duration(policy.interval)}, alpha {policy.alpha:g}.</p>"
    )


def _warnings(report: SimulationReport) -> Iterator[str]:
    if report.warnings:
        yield '<div class="verdict refused"><strong>At this traffic</strong>'
        yield from (f"<p>{escape(each)}</p>" for each in report.warnings)
        yield "</div>"


def _table(report: SimulationReport) -> Iterator[str]:
    heads = ("case", "rolled back", "undone", "paused", "inconclusive", "promoted", "caught by")
    more = ("requests until caught", "time until caught", "time until done")
    yield '<div class="wide"><table><tr>' + "".join(f"<th>{each}</th>" for each in (*heads, *more)) + "</tr>"
    for each in report.scenarios:
        shares = (each.rolled_back, each.undone, each.paused, each.inconclusive, each.promoted)
        cells = (*(f"{share:.1%}" for share in shares), guards(each), *_spreads(each))
        yield f"<tr><td>{escape(each.scenario)}</td>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
    yield "</table></div><p class='facts'>Requests and times: the median, and in brackets what 90 % stay below.</p>"


def guards(summary: Summary, most: int = 3) -> str:
    """Which guards stopped a scenario's rollouts, most first."""
    order = sorted(summary.guards.items(), key=lambda item: -item[1])[:most]
    return ", ".join(
        name if most == 1 or share > 0.995 * summary.caught else f"{name} {share:.1%}" for name, share in order
    )


def usual(summary: Summary) -> tuple[str, str]:
    """Requests until caught, and the time until what mostly happens: caught, or promoted and confirmed."""
    caught = summary.caught >= summary.promoted
    requests = summary.requests
    return (
        f"{short(requests.median)} ({short(requests.p90)})" if requests and caught else "-",
        _times(summary.seconds if caught else summary.promotion_seconds),
    )


def short(count: float) -> str:
    """A number in few characters: 950, 9.7k, 2.1M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            return f"{count / size:.3g}{unit}" if count < 99.5 * size else f"{count / size:.0f}{unit}"
    return f"{count:.0f}"


def _times(spread: Spread | None) -> str:
    return "-" if spread is None else f"{duration(spread.median)} ({duration(spread.p90)})"


def _spreads(summary: Summary) -> tuple[str, str, str]:
    requests = summary.requests
    counts = "-" if requests is None else f"{requests.median:,.0f} ({requests.p90:,.0f})"
    return counts, _times(summary.seconds), _times(summary.promotion_seconds)


def _pictures(simulated: Simulated) -> Iterator[str]:
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    ends, soon = figure.subplots(1, 2)
    _draw_ends(ends, simulated.report)
    _draw_detection(soon, simulated)
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    yield '<figure><img alt="how rollouts end and how soon bad canaries are caught" '
    yield f'src="data:image/png;base64,{data}"></figure>'


def _draw_ends(axis: Any, report: SimulationReport) -> None:
    names = [each.scenario for each in report.scenarios]
    places = np.arange(len(names))[::-1]
    left = np.zeros(len(names))
    columns = ("rolled_back", "undone", "paused", "inconclusive", "promoted")
    for column, (label, colour) in zip(columns, _COLOURS.items(), strict=True):
        width = np.array([getattr(each, column) for each in report.scenarios])
        axis.barh(places, width, left=left, color=colour, label=label)
        left += width
    axis.set_yticks(places, names)
    axis.set(xlim=(0, 1), xlabel="share of rollouts", title="How rollouts end")
    axis.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.12), fontsize=8)


def _draw_detection(axis: Any, simulated: Simulated) -> None:
    for each in simulated.report.scenarios:
        outcomes = simulated.outcomes[each.scenario]
        stopped = np.sort(outcomes.seconds[outcomes.guard >= 0]) / 60
        if not each.bad or not len(stopped):
            continue
        share = np.arange(1, len(stopped) + 1) / len(outcomes.result)
        axis.step(stopped, share, where="post", label=each.scenario)
    axis.set(xlabel="minutes since the rollout began", ylabel="share caught", title="How soon bad canaries are caught")
    axis.set(ylim=(0, 1.02))
    if axis.lines:
        axis.set_xscale("log")
        axis.legend(frameon=False, ncols=3, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    axis.grid(color="#e3e3e3", linewidth=0.8)
