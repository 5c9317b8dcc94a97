"""`serinus refresh`: what keeps a model's features up to date on a cluster, in a pod of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command(epilog="Example: SERINUS_PLATFORM=platform.yaml serinus refresh -f examples/flights")(refresh)


def refresh(
    file: Annotated[Path, typer.Option("--file", "-f", help="The spec, or its folder.")] = Path("serinus.yaml"),
    resources: Annotated[
        Path | None, typer.Option(help="A spec to go by instead of what the file says; the project stays the file's.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of /metrics.")] = 9109,
    address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Ingest what becomes known and write it to the online store, pass after pass, until told to stop.

    The time between two passes is spec.freshness.interval. SERINUS_PLATFORM says where the stores are. On a laptop
    `serinus up` does the same.
    """
    import logging
    import signal
    import threading
    from datetime import UTC, datetime

    from serinus.cli.place import platform_of
    from serinus.control.loop import run_forever
    from serinus.control.metrics_page import metrics_page
    from serinus.control.refresh import MeasuredRefresher, Refresher
    from serinus.engines.feast import FeatureStore
    from serinus.engines.platformfile import platform_from_environment
    from serinus.engines.specfile import read_service
    from serinus.training.project import load_project

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    loaded = load_project(file, read_service(resources) if resources is not None else None)
    store = FeatureStore.open(platform_from_environment() or platform_of(file), loaded.model_name)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    interval = loaded.training.spec.freshness.interval
    refresher = Refresher(loaded, store)
    measured = MeasuredRefresher(refresher, loaded.model_name, lambda: datetime.now(UTC), interval)
    with metrics_page(measured.registry, port, address):
        run_forever(measured.tick, interval.total_seconds(), stop)
