"""The table and the figures of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

GOALS = {
    "healthy_aborted": ("at most", 0.01),
    "healthy_incident_aborted": ("at most", 0.01),
    "x2_over_oracle": ("at most", 1.3),
    "x4_over_oracle": ("at most", 1.15),
    "x10_over_oracle": ("at most", 1.3),
    "paired_over_arms": ("at most", 0.05),
    "promoted_without_evidence": ("at most", 0.0),
}
OURS = "Serinus"
Cell = Mapping[str, Any]


def show(cells: Mapping[str, Mapping[str, Cell]], figures: Mapping[str, Any]) -> None:
    """Print who stops how many of which canaries after how many requests, and the goals."""
    out = Console(width=190, highlight=False)
    names = list(next(iter(cells.values())))
    table = Table(title="Stopped, and the canary's requests until then (median)", title_justify="left")
    table.add_column("case")
    for name in names:
        table.add_column(name, justify="right")
    for case, row in cells.items():
        table.add_row(case, *(_cell(row.get(name)) for name in names))
    out.print(table)
    out.print("100 % of healthy canaries stopped is as bad as 0 % of bad ones; (p) marks promotions without evidence")
    goals = Table(title="Goals", title_justify="left")
    for column in ("figure", "measured", "goal", ""):
        goals.add_column(column)
    for name, (kind, bound) in GOALS.items():
        holds = figures[name] <= bound
        goals.add_row(name, f"{figures[name]:g}", f"{kind} {bound:g}", "✓" if holds else "✗")
    for name in ("simulate_seconds", "simulate_cpu_seconds", "bench_seconds"):
        goals.add_row(name, f"{figures[name]:g}", "", "")
    out.print(goals)


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    requests = f" {cell['requests']:,.0f}" if cell["requests"] is not None else ""
    blind = " (p)" if cell["blind"] and cell["promoted"] else ""
    return f"{cell['stopped']:.1%}{requests}{blind}"
