"""The table and the figures of a run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.serving.measure import Cell

IN_PROCESS = ("kserve zipf", "fastapi zipf", "litserve zipf")
GOALS = {
    "throughput_over_usual_pattern": ("at least", 40),
    "throughput_over_best_in_process": ("at least", 5),
    "p99_over_usual_pattern": ("at most", 0.1),
    "throughput_over_limit_cached": ("at least", 0.8),
    "throughput_over_limit_uncached": ("at least", 0.6),
    "envoy_cpu_us": ("at most", 35),
}


def figures(cells: dict[str, Cell], store: str) -> dict[str, Any]:
    """Ratios of what was measured; one whose parts are not there is left out."""

    def rate(name: str) -> float | None:
        return cells[name].loaded.rate if name in cells else None

    def over(above: float | None, below: float | None) -> float | None:
        return round(above / below, 3) if above is not None and below else None

    def p99(name: str) -> float | None:
        return cells[name].loaded.p99 if name in cells else None

    full = rate("ours zipf cached")
    envoy, bare = (
        cells[name].cpu_us.get("envoy") if name in cells else None
        for name in ("ours zipf cached", "ours zipf cached bare envoy")
    )
    found = {
        "throughput_over_usual_pattern": over(full, rate("usual zipf")),
        "throughput_over_best_in_process": over(
            full, max((cells[name].loaded.rate for name in IN_PROCESS if name in cells), default=None)
        ),
        "throughput_over_limit_cached": over(rate("ours zipf cached direct"), rate("limit zipf")),
        "throughput_over_limit_uncached": over(rate("ours uniform uncached direct"), rate("limit uniform")),
        "p99_over_usual_pattern": over(p99("ours zipf cached paced"), p99("usual zipf paced")),
        "envoy_cpu_us": None if envoy is None else round(envoy, 1),
        "envoy_cpu_over_bare": over(envoy, bare),
    }
    absolute = {name: {**asdict(cell.loaded), "rate": cell.loaded.rate, "cpu_us": cell.cpu_us,
                       "memory_mb": cell.memory_mb} for name, cell in cells.items()}  # fmt: skip
    return {"store": store, **{name: value for name, value in found.items() if value is not None}, "cells": absolute}


def show(cells: dict[str, Cell], found: dict[str, Any]) -> None:
    """Print the cells, then the goals."""
    out = Console(width=150)
    table = Table(title=f"Serving, store {found['store']}: requests of one row", title_justify="left")
    for column in ("peer, keys", "req/s", "p50 ms", "p99 ms", "p99.9 ms", "failed", "CPU us/req", "by process", "MB"):
        table.add_column(column, justify="left" if column in ("peer, keys", "by process") else "right")
    for name, cell in cells.items():
        got = cell.loaded
        parts = ", ".join(f"{label} {spent:.0f}" for label, spent in cell.cpu_us.items() if spent >= 1)
        table.add_row(
            name, f"{got.rate:,.0f}", f"{got.p50:.1f}", f"{got.p99:.1f}", f"{got.p999:.1f}", f"{got.failed}",
            f"{cell.cpu:.0f}", parts, f"{cell.memory_mb:.0f}",
        )  # fmt: skip
    out.print(table)
    goals = Table(title="Goals", title_justify="left")
    for column in ("figure", "measured", "goal", ""):
        goals.add_column(column)
    for name, (kind, bound) in GOALS.items():
        if name in found:
            holds = found[name] >= bound if kind == "at least" else found[name] <= bound
            goals.add_row(name, f"{found[name]:g}", f"{kind} {bound:g}", "✓" if holds else "✗")
    out.print(goals)
