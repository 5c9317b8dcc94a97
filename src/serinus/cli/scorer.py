"""`serinus scorer`: what answers the operator's questions about quality, in a pod of its own."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command(epilog="Example: SERINUS_PLATFORM=platform.yaml serinus scorer --interval 30")(scorer)


def scorer(
    interval: Annotated[float, typer.Option(min=0, help="Seconds between two answers to one question.")] = 30.0,
    every: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks for a question.")] = 2.0,
    stuck: Annotated[float, typer.Option(min=1, help="Seconds after which one answer is taken for hanging.")] = 1800.0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of /metrics and /healthz.")] = 9109,
    address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Score rows of the prediction log for the operator, which asks in the ledger's database, until told to stop.

    SERINUS_PLATFORM says where the database, the registry and the log's bucket are. On a laptop nothing needs this.
    """
    import logging
    import signal
    import sys
    import threading
    from datetime import UTC, datetime, timedelta
    from functools import partial

    from serinus.control.metrics_page import metrics_page
    from serinus.control.scorer import QuestionScorer
    from serinus.control.scorer_loop import MeasuredScorer, run
    from serinus.core.errors import InvalidInput, NotFound
    from serinus.engines.ledger_exchange import Exchange
    from serinus.engines.ledger_sql import LedgerDatabase
    from serinus.engines.mlflow import Registry
    from serinus.engines.platformfile import VARIABLE, platform_from_environment

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    platform = platform_from_environment()
    if platform is None:
        raise NotFound(f"{VARIABLE} is not set", hint="it says where the engines are, as YAML")
    if platform.ledger_uri is None:
        raise InvalidInput("the platform has no ledger_uri", hint="such as postgresql+psycopg2://user@host/serinus")

    clock = partial(datetime.now, UTC)
    exchange = Exchange(LedgerDatabase(platform.ledger_uri))
    registry = Registry(platform.tracking_uri, platform.artifact_uri)
    answering = QuestionScorer(exchange, platform, registry, clock, timedelta(seconds=interval))
    measured = MeasuredScorer(answering.step, lambda: answering.waits_since, clock, timedelta(seconds=stuck))
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()
        if measured.busy:
            raise SystemExit(0)  # what it has in its hands can be made again

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    with metrics_page(measured.registry, port, address, measured.alive):
        run(measured, every, stop)
