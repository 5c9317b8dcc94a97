"""`serinus loop`: what `serinus up` keeps running beside the model, by the machine's clock."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command(epilog="Example: serinus loop --every 60")(loop)


def loop(
    file: Annotated[Path, typer.Option("--file", "-f", help="The spec, or its folder.")] = Path("serinus.yaml"),
    every: Annotated[
        float | None, typer.Option(min=1, help="Seconds between two passes; spec.freshness.interval where not given.")
    ] = None,
) -> None:
    """Keep features fresh and start the pipeline when it is due, until told to stop. `serinus up` runs this for you."""
    import logging
    import signal
    import sys
    import threading

    from serinus.control.loop import BackgroundRuns, fire, lease, run_forever, state_path
    from serinus.control.refresh import Refresher
    from serinus.core.platform import Platform
    from serinus.engines.feast import FeatureStore
    from serinus.training.project import load_project

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    loaded = load_project(file)
    platform = Platform.local(loaded.directory / ".serinus")
    store = FeatureStore.open(platform, loaded.model_name)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def command(as_of: datetime) -> tuple[str, ...]:
        serinus = (sys.executable, "-P", "-c", "from serinus.cli import main; main()")
        return (*serinus, "train", "--file", str(file), "--as-of", as_of.isoformat(), "--json")

    refresh = Refresher(loaded, store)
    runs = BackgroundRuns(command, platform)

    freshness = loaded.training.spec.freshness

    def tick() -> None:
        now = datetime.now(UTC)
        if freshness.enabled:
            refresh(now)
        if not runs.busy():
            fire(loaded, state_path(platform), runs.start, now)

    with lease(platform):
        try:
            run_forever(tick, every or freshness.interval.total_seconds(), stop)
        finally:
            runs.end()
