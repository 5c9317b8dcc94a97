"""The page and the files of a replay: figures, values that differ, and pictures of quality and latency by day."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from serinus.control.replay import Replayed
from serinus.control.replay_report import Judged
from serinus.engines.files import replacing, write_text
from serinus.training.report import page

PAGE_FILE = "report.html"
FIGURES_FILE = "replay.json"
PREDICTIONS_FILE = "predictions.parquet"
OUTCOMES_FILE = "outcomes.parquet"


def write_page(folder: Path, replayed: Replayed, judged: Judged) -> Path:
    """Write report.html, replay.json, predictions.parquet and outcomes.parquet; returns the page's path."""
    summary = judged.summary
    write_text(folder / FIGURES_FILE, summary.model_dump_json(indent=2) + "\n")
    _write_tables(folder, replayed)
    title = f"Replay from {replayed.interval}"
    body = "\n".join(
        (f"<h1>{escape(title)}</h1>", *_figures(judged), *_differences(judged), *_pictures(replayed, judged))
    )
    write_text(folder / PAGE_FILE, page(title, body))
    return folder / PAGE_FILE


def _write_tables(folder: Path, replayed: Replayed) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    answers = replayed.answers
    columns = {
        "prediction_id": [answer.prediction_id for answer in answers],
        "probability": [answer.probability for answer in answers],
        "version": [answer.version for answer in answers],
        "error": [answer.error for answer in answers],
        "milliseconds": [answer.seconds * 1000 for answer in answers],
    }
    predictions = pa.Table.from_pandas(replayed.requests[["id", "event_timestamp"]], preserve_index=False)
    for name, values in columns.items():
        kind = pa.float64() if name in ("probability", "milliseconds") else pa.string()
        predictions = predictions.append_column(name, pa.array(values, kind))
    outcomes = pa.Table.from_pandas(replayed.outcomes, preserve_index=False)
    for name, table in ((PREDICTIONS_FILE, predictions), (OUTCOMES_FILE, outcomes)):
        with replacing(folder / name) as part:
            pq.write_table(table, part)


def _figures(judged: Judged) -> Iterator[str]:
    yield "<table><tr><th>figure</th><th>value</th></tr>"
    for name, value in judged.summary.model_dump().items():
        if value is not None:
            yield f"<tr><td>{escape(name.replace('_', ' '))}</td><td>{escape(_shown(value))}</td></tr>"
    yield "</table>"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"version {key}: {_shown(each)}" for key, each in value.items())
    return f"{value:,.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _differences(judged: Judged) -> Iterator[str]:
    yield "<h2>Served values against point-in-time values</h2>"
    yield "<table><tr><th>column</th><th>equal</th><th>different</th><th>first difference</th></tr>"
    for column in judged.parity.columns:
        first = "row {}: served {}, expected {}".format(*column.examples[0]) if column.examples else ""
        yield f"<tr><td>{escape(column.column)}</td><td>{column.equal:,}</td><td>{column.different:,}</td>"
        yield f"<td>{escape(first)}</td></tr>"
    yield "</table>"


def _pictures(replayed: Replayed, judged: Judged) -> Iterator[str]:
    figure = Figure(figsize=(12, 7), layout="constrained")
    by_day, calibration, latency, volume = figure.subplots(2, 2).ravel()
    _draw_days(by_day, volume, judged)
    _draw_calibration(calibration, judged)
    milliseconds = np.array([answer.seconds for answer in replayed.answers]) * 1000
    latency.hist(milliseconds, bins=np.geomspace(milliseconds.min(), milliseconds.max(), 60), color="#0b6e99")
    latency.set(xscale="log", xlabel="milliseconds", ylabel="requests", title="Latency, as the client saw it")
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    yield f'<h2>Pictures</h2><figure><img alt="quality and latency" src="data:image/png;base64,{data}"></figure>'


def _draw_days(axis: Any, volume: Any, judged: Judged) -> None:
    days = np.unique(judged.day)
    rows = [judged.day == day for day in days]
    axis.plot(days, [judged.label[row].mean() for row in rows], marker="o", color="#8a8a8a", label="outcome")
    axis.plot(
        days, [judged.offline[row].mean() for row in rows], color="#d9730d", linewidth=4, alpha=0.5, label="offline"
    )
    axis.plot(days, [judged.online[row].mean() for row in rows], color="#0b6e99", label="online")
    axis.set(title="Mean prediction and outcome by day", ylim=(0, None))
    axis.legend(frameon=False)
    axis.tick_params(axis="x", rotation=30)
    volume.bar(days, [row.sum() for row in rows], color="#8a8a8a")
    volume.set(title="Requests with a known outcome by day")
    volume.tick_params(axis="x", rotation=30)


def _draw_calibration(axis: Any, judged: Judged) -> None:
    parts = np.array_split(np.argsort(judged.online, kind="stable"), 15)
    predicted = [judged.online[part].mean() for part in parts if len(part)]
    observed = [judged.label[part].mean() for part in parts if len(part)]
    axis.plot([0, 1], [0, 1], color="#cccccc", linestyle="--")
    axis.plot(predicted, observed, marker="o", color="#0b6e99")
    axis.set(title="Calibration online", xlabel="predicted probability", ylabel="observed rate")
