"""How a training run looks on a terminal: one line a step while it runs, then the verdict with its reasons."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from serinus.core.evaluation import METRICS

if TYPE_CHECKING:
    from rich.progress import TaskID

    from serinus.cli.train import Outcome
    from serinus.engines.kfp_watch import StepEvent

_WIDTH = 9  # of the longest step's name


class Screen:
    """One line a step on standard error; while it runs, a spinner and its progress where a person is watching."""

    def __init__(self) -> None:
        self._console = _console()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._progress = Progress(*columns, console=self._console, redirect_stdout=False, redirect_stderr=False)
        self._task: TaskID | None = None

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()
        if self._console.is_terminal:
            self._progress.stop()

    def on_event(self, event: StepEvent) -> None:
        """Show what happened to a step."""
        name, text = f"{event.step:<{_WIDTH}}", escape(event.text)
        if event.type == "started":
            self._task = self._progress.add_task(name)
        elif event.type == "progress" and self._task is not None:
            self._progress.update(self._task, description=f"{name} {text}")
        else:
            self._clear()
        if event.type == "finished":
            self._console.print(f"[green]✓[/] {name} {event.seconds:6.1f} s  {text}")
        elif event.type == "cached":
            self._console.print(f"[green]✓[/] {name}   [dim]kept    nothing changed[/]")
        elif event.type == "failed":
            self._console.print(f"[red]✗[/] {name} {event.seconds:6.1f} s")

    def lines(self, lines: Iterable[str]) -> None:
        """Print lines of a log as they are."""
        for line in lines:
            self._console.print(line, markup=False, style="dim")

    def _clear(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None


def show(outcome: Outcome) -> None:
    """Print verdict, reasons, metrics and where to read more, to standard error."""
    console = _console()
    if outcome.verdict.passed:
        console.print(f"\n[bold green]Accepted[/]: {outcome.model} version {outcome.version}")
    else:
        console.print(f"\n[bold red]Refused[/]: the candidate for {outcome.model} was not registered")
    for reason in outcome.verdict.reasons:
        mark = "[green]✓[/]" if reason.passed else "[red]✗[/]"
        console.print(f"  {mark} {escape(reason.text)}", soft_wrap=True)
    console.print(_metrics(outcome))
    console.print(f"Report: {outcome.report}", soft_wrap=True)


def _metrics(outcome: Outcome) -> Table:
    card = outcome.card
    models = {"candidate": card.candidate}
    if card.champion is not None:
        models[f"champion (version {card.champion_version})"] = card.champion
    models["baseline"] = card.baseline
    rows = card.candidate.overall.rows
    table = Table(title=f"{rows:,} held-out rows, {card.period}", title_justify="left", title_style="")
    table.add_column("metric")
    for title in models:
        table.add_column(title, justify="right")
    for metric in METRICS:
        values = (getattr(model.overall, metric) for model in models.values())
        table.add_row(metric.replace("_", " "), *("-" if value is None else f"{value:.4f}" for value in values))
    return table


def _console() -> Console:
    return Console(stderr=True, highlight=False)
