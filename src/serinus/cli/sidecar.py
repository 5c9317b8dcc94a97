"""`serinus sidecar`: the process beside the predictor's workers that exposes their metrics."""

from __future__ import annotations

import logging
import signal
import sys
import threading
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
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of /metrics and /healthz.")] = 9109,
    address: Annotated[str, typer.Option("--address", help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Expose what the workers of a predictor counted, until it is told to stop.

    `serinus up` starts it; by hand it helps to look at a predictor's numbers.
    """
    from serinus.serve.sidecar import open_server
    from serinus.serve.torchserve import read_config

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    server = open_server(read_config(config).metrics_dir, port, address)
    logging.getLogger(__name__).info("metrics at http://%s:%d/metrics", address, server.server_port)

    def stop(number: int, frame: object) -> None:
        threading.Thread(target=server.shutdown).start()  # shutdown waits for the loop that this signal interrupted

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with server:
        server.serve_forever()
