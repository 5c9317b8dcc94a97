"""`serinus replay`: the past against the served model, with the clock of the data."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from serinus.control.replay import Replayed, World
    from serinus.control.replay_report import ReplaySummary
    from serinus.core.parity import Parity
    from serinus.core.times import Interval


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command(epilog="Example: serinus replay --since 2013-08-02T12:00Z --until 2013-08-30T12:00Z")(replay)


def replay(
    since: Annotated[str, typer.Option(help="Start, ISO 8601; what was known then is put online first.")],
    until: Annotated[str, typer.Option(help="End, ISO 8601.")],
    file: Annotated[Path, typer.Option("--file", "-f", help="The spec, or its folder.")] = Path("serinus.yaml"),
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Requests under way at once.")] = 64,
    rollout: Annotated[
        bool, typer.Option("--rollout", help="Also decide about the spec's rollout, and stop when one has ended.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Folder for report.html and replay.json.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask the served model everything that was asked in the past, and compare with point-in-time features.

    The model must be up with `serinus up --as-of SINCE`. Features become known, requests are made and outcomes arrive
    in the order of the data's own time. Exit code 1: a request failed, or a served value differed; with --rollout 4:
    another process decides about it.
    """
    import json
    import sys
    from dataclasses import replace

    from serinus.control.replay_page import write_page
    from serinus.control.replay_report import judge_replay
    from serinus.core.times import Interval, utc

    interval = Interval(since=utc(since), until=utc(until))
    world = _world(file)
    if rollout:
        from serinus.control.rollout_laptop import RolloutFolder

        with RolloutFolder(world.platform).lease():
            world = replace(world, **_rollout(file))
            replayed = _drive(world, interval, concurrency)
    else:
        replayed = _drive(world, interval, concurrency)
    judged = judge_replay(world, replayed)
    folder = report or world.platform.state / "replays" / f"{interval.since:%Y%m%dT%H%M}-{interval.until:%Y%m%dT%H%M}"
    page = write_page(folder, replayed, judged)
    if as_json:
        sys.stdout.write(json.dumps({**judged.summary.model_dump(), "report": str(page)}) + "\n")
    else:
        _show(judged.summary, judged.parity, page)
    if judged.summary.errors or judged.summary.features_different:
        raise typer.Exit(1)


def _world(file: Path) -> World:
    from serinus.cli.train import run_training
    from serinus.cli.train_screen import Screen
    from serinus.control.replay import World
    from serinus.control.state import RunFolder
    from serinus.core.errors import Conflict, NotFound
    from serinus.core.platform import Platform
    from serinus.engines.feast import FeatureStore
    from serinus.training.project import load_project

    loaded = load_project(file)
    platform = Platform.local(loaded.directory / ".serinus")
    state = RunFolder(platform).read()
    if state is None:
        raise NotFound("nothing is up", hint="start it with `serinus up --as-of SINCE`")
    if state.as_of is None:
        raise Conflict(
            "the stack is up with the machine's clock", hint="`serinus down`, then `serinus up --as-of SINCE`"
        )
    store = FeatureStore.open(platform, loaded.model_name)

    def run_pipeline(as_of: datetime) -> object:
        run = f"scheduled-{as_of:%Y%m%d-%H%M}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
        with Screen() as screen:
            return run_training(file, as_of.isoformat(), run, screen.on_event)

    archive = state.instances[state.stable].archive
    return World(loaded, platform, store, state.address, archive, state.digest, run_pipeline)


def _rollout(file: Path) -> dict[str, Any]:
    """What a replay that also decides about the rollout needs."""
    from serinus.cli.place import served
    from serinus.control.replay_rollout import ReplayedRollout
    from serinus.control.rollout_build import controller

    serving, registry = served(file)
    found = controller(serving, registry, replaying=True)
    found.policy()  # a spec without a rollout is told now

    def archive(number: int) -> tuple[Path, str]:
        version = registry.get(serving.deployment.model.name, number)
        return registry.fetch(version, serving.platform.state / "replays" / "archives"), version.digest

    return {"look": ReplayedRollout(found), "others": archive}


def _drive(world: World, interval: Interval, concurrency: int) -> Replayed:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from serinus.control.replay import replay as drive

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        TimeRemainingColumn(),
    )
    total = (interval.until - interval.since).total_seconds()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replay", total=total)

        def show(done: Interval) -> None:
            seconds = (done.until - done.since).total_seconds()
            bar.update(task, completed=seconds, description=f"replay {done.until:%Y-%m-%d}")

        return drive(world, interval, concurrency, show)


def _pair(online: float | None, offline: float | None) -> str:
    return "too few outcomes" if online is None or offline is None else f"{online:.4f} / {offline:.4f}"


def _show(summary: ReplaySummary, parity: Parity, page: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f"Replay of {summary.rows_replayed:,} requests", show_header=False)
    table.add_row("errors", f"{summary.errors:,}" + (f" (first: {summary.first_error})" if summary.first_error else ""))
    table.add_row("served values equal to point-in-time ones", f"{summary.features_equal:,}")
    table.add_row("served values that differ", f"{summary.features_different:,}")
    table.add_row("ROC AUC online / offline", _pair(summary.auc_online, summary.auc_offline))
    table.add_row("log loss online / offline", _pair(summary.log_loss_online, summary.log_loss_offline))
    if len(summary.rows_by_version) > 1:
        shown = ", ".join(f"version {version}: {rows:,}" for version, rows in summary.rows_by_version.items())
        table.add_row("answered by", shown)
    table.add_row("latency p50 / p99", f"{summary.latency_p50_ms:.1f} ms / {summary.latency_p99_ms:.1f} ms")
    if summary.log_rows is not None:
        table.add_row("rows in the prediction log / missing", f"{summary.log_rows:,} / {summary.log_gap:,}")
    table.add_row("requests per second", f"{summary.requests_per_second:,.0f}")
    console.print(table)
    for column in parity.columns:
        if column.different:
            row, served, expected = column.examples[0]
            console.print(
                f"{column.column}: {column.different:,} differ; row {row} was served {served}, not {expected}"
            )
    console.print(f"Report: {page}", soft_wrap=True)
