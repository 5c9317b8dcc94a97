"""The table and the figures of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.serving.measure import Cell

IN_PROCESS = ("kserve zipf", "fastapi zipf", "litserve zipf")
FULL = "ours zipf cached"
GOALS = {
    "throughput_over_usual_pattern": ("at least", 40),
    "throughput_over_best_in_process": ("at least", 5),
    "p99_over_usual_pattern": ("at most", 0.1),
    "throughput_over_limit_cached": ("at least", 0.8),
    "throughput_over_limit_uncached": ("at least", 0.6),
    "envoy_cpu_us": ("at most", 35),
}

Cells = Mapping[str, Sequence[Cell]]


def best(rounds: Sequence[Cell]) -> Cell:
    """Of an open loop's rounds (all of one rate) the one with the lowest p99, else the fastest: other work on the
    machine only ever takes away."""
    return max(rounds, key=lambda cell: (round(cell.loaded.rate / 1.05), -cell.loaded.p99))


def figures(cells: Cells, store: str, missing: Mapping[str, str]) -> dict[str, Any]:
    """Ratios of what was measured; one whose parts are not there is left out."""

    def rate(name: str) -> float | None:
        return best(cells[name]).loaded.rate if name in cells else None

    def p99(name: str) -> float | None:
        return min(cell.loaded.p99 for cell in cells[name]) if name in cells else None

    def envoy(name: str) -> float | None:
        found = [cell.cpu_us["envoy"] for cell in cells.get(name, ()) if "envoy" in cell.cpu_us]
        return min(found, default=None)

    in_process = [found for found in map(rate, IN_PROCESS) if found is not None]
    cpu = envoy(FULL)
    found = {
        "throughput_over_usual_pattern": _over(rate(FULL), rate("usual zipf")),
        "throughput_over_best_in_process": _over(rate(FULL), max(in_process, default=None)),
        "throughput_over_limit_cached": _over(rate(FULL), rate("limit zipf")),
        "throughput_over_limit_uncached": _over(rate("ours uniform uncached"), rate("limit uniform")),
        "p99_over_usual_pattern": _over(p99(f"{FULL} paced"), p99("usual zipf paced")),
        "envoy_cpu_us": None if cpu is None else round(cpu, 1),
        "envoy_cpu_over_bare_envoy": _over(cpu, envoy(f"{FULL} bare envoy")),
    }
    return {
        **{name: value for name, value in found.items() if value is not None},
        "store": store,
        "missing": dict(missing),
        "cells": {name: _details(rounds) for name, rounds in cells.items()},
    }


def _over(above: float | None, below: float | None) -> float | None:
    return round(above / below, 4) if above is not None and below else None


def _details(rounds: Sequence[Cell]) -> dict[str, Any]:
    cell = best(rounds)
    return {
        **asdict(cell.loaded), "rate": cell.loaded.rate, "cpu_us": cell.cpu_us, "memory_mb": cell.memory_mb,
        "failed_in_all_rounds": sum(each.loaded.failed for each in rounds),
        "rates_by_round": [each.loaded.rate for each in rounds], "p99_by_round": [each.loaded.p99 for each in rounds],
    }  # fmt: skip


_COLUMNS = ("peer, keys", "req/s", "p50 ms", "p99 ms", "p99.9 ms", "failed", "CPU us/req", "by process", "MB")
_WORDS = ("peer, keys", "by process")
_GOAL_COLUMNS = ("figure", "measured", "goal", "")


def _rows(cells: Cells) -> list[tuple[str, ...]]:
    """The best round of each load; failures are those of all its rounds."""
    found = []
    for name, rounds in cells.items():
        cell = best(rounds)
        got = cell.loaded
        parts = ", ".join(f"{label} {spent:.0f}" for label, spent in cell.cpu_us.items() if spent >= 1)
        failed = sum(each.loaded.failed for each in rounds)
        found.append((
            name, f"{got.rate:,.0f}", f"{got.p50:.1f}", f"{got.p99:.1f}", f"{got.p999:.1f}", f"{failed}",
            f"{cell.cpu:.0f}", parts, f"{cell.memory_mb:.0f}",
        ))  # fmt: skip
    return found


def _goals(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for name, (kind, bound) in GOALS.items():
        value = found.get(name)
        holds = value is not None and (value >= bound if kind == "at least" else value <= bound)
        measured = "not measured" if value is None else f"{value:g}"
        rows.append((name, measured, f"{kind} {bound:g}", "✓" if holds else "✗"))
    return rows


def show(cells: Cells, found: Mapping[str, Any]) -> None:
    """Print the cells, then the goals."""
    out = Console(width=150)
    table = Table(title=f"Serving, store {found['store']}: requests of one row, the best round", title_justify="left")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in _WORDS else "right")
    for row in _rows(cells):
        table.add_row(*row)
    out.print(table)
    goals = Table(*_GOAL_COLUMNS, title="Goals", title_justify="left")
    for row in _goals(found):
        goals.add_row(*row)
    out.print(goals)
    for name, reason in found["missing"].items():
        out.print(f"{name} did not start: {reason.splitlines()[0]}")


def markdown(cells: Cells, found: Mapping[str, Any]) -> str:
    """Both tables as docs/performance.md has them."""
    parts = [_markdown(_GOAL_COLUMNS, _goals(found)), _markdown(_COLUMNS, _rows(cells))]
    return "\n".join(parts)


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---" if name in (*_WORDS, *_GOAL_COLUMNS) else "--:" for name in columns]
    return "".join(f"| {' | '.join(row)} |\n" for row in (columns, rule, *rows))
