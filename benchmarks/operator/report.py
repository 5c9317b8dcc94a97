"""The table and the goals of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

GOALS = {"cores": 1.0, "memory_mb": 500.0, "decision_lateness_p99_s": 5.0}
"""What each figure is to stay below."""

_WORDS = {
    "cores": "processors busy while it rolls out",
    "cores_busiest_10s": "the same in the busiest ten seconds",
    "idle_cores": "the same while nothing happens",
    "settling_cores": "the same while all are made",
    "memory_mb": "memory at most, MB (resident)",
    "memory_pss_mb": "memory at the end, MB (proportional)",
    "decision_lateness_p99_s": "seconds from due to readable in the status, 99 %",
    "decision_lateness_p50_s": "the same, half of them",
    "decision_lateness_max_s": "the same, all of them",
    "first_decision_p99_s": "the same of the first decisions, all due at once, 99 %",
    "decisions": "decisions about rollouts",
    "api_requests_per_s": "requests to the API server a second while it rolls out",
    "idle_api_requests_per_s": "the same while nothing happens",
    "settled_s": "seconds until all were ready",
}


def met(figures: Mapping[str, Any]) -> dict[str, bool]:
    """Which goals are met."""
    return {name: bool(figures[name] < bound) for name, bound in GOALS.items()}


def show(figures: Mapping[str, Any]) -> None:
    """Print the figures, and the goals."""
    title = f"{figures['deployments']} ModelDeployments, {figures['rollouts']} rollouts at once"
    table = Table(title=title, title_justify="left")
    for column in ("figure", "", "measured", "goal", ""):
        table.add_column(column)
    for name, words in _WORDS.items():
        goal = f"below {GOALS[name]:g}" if name in GOALS else ""
        mark = "" if name not in GOALS else "✓" if figures[name] < GOALS[name] else "✗"
        table.add_row(name, words, f"{figures[name]:g}", goal, mark)
    out = Console(width=150, highlight=False)
    out.print(table)
    phases = ", ".join(f"{count} {phase}" for phase, count in figures["phases"].items())
    out.print(f"at the end: {phases}; ledgers {'whole' if figures['ledgers_whole'] else 'BROKEN'}")
