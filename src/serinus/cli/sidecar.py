"""`serinus sidecar`: the process beside the predictor's workers that exposes their metrics and ships their log."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command(epilog="Example: serinus sidecar --config .serinus/run/sidecar.json --port 9109")(sidecar)


def sidecar(
    config: Annotated[
        Path, typer.Option("--config", envvar="SERINUS_SERVING", help="Serving configuration of the predictor.")
    ],
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port of /metrics, /healthz and /v1/outcomes.")
    ] = 9109,
    address: Annotated[str, typer.Option("--address", help="Address to listen on.")] = "127.0.0.1",
    door: Annotated[
        Path | None, typer.Option("--door", help="Admin socket of the Envoy in front: it counts the use of quotas.")
    ] = None,
) -> None:
    """Expose what the workers of a predictor counted, ship their log and take outcomes, until it is told to stop.

    `serinus up` starts it; by hand it helps to look at a predictor's numbers.
    """
    from serinus.serve.sidecar import listen, server
    from serinus.serve.torchserve import read_config

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    with listen(port, address) as listener:
        running = server(read_config(config), door)
        logging.getLogger(__name__).info("metrics at http://%s:%d/metrics", address, listener.getsockname()[1])
        for number in (signal.SIGTERM, signal.SIGINT):
            # The server takes both while it runs and sends itself the one it got once more when it has ended.
            signal.signal(number, lambda *_: None)
        running.run(sockets=[listener])
