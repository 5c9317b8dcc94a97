"""`serinus operator`: what looks after the two resources on a cluster."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command(epilog="Example: SERINUS_PLATFORM=platform.yaml serinus operator --port 8080")(operator)


def operator(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of /healthz.")] = 8080,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of /metrics.")] = 9090,
    address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Look after ModelDeployments and ContinuousTrainings of a cluster until told to stop.

    Settings come from the environment (SERINUS_GATEWAY, SERINUS_PROMETHEUS_URL, ...; see the reference); the cluster is
    that of the pod's service account, or of KUBECONFIG.
    """
    import logging
    import os
    import signal
    import sys

    from serinus.control.metrics_page import health_page, metrics_page
    from serinus.core.errors import NotFound
    from serinus.engines.kubernetes import Cluster
    from serinus.engines.platformfile import VARIABLE, platform_from_environment
    from serinus.operator.build import operator_of
    from serinus.operator.settings import Settings

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = Settings.read(os.environ)
    platform = platform_from_environment()
    if platform is None:
        raise NotFound(f"{VARIABLE} is not set", hint="it says where the engines are, as YAML")
    made, metrics = operator_of(settings, Cluster.connect(), platform)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with metrics_page(metrics.registry, metrics_port, address, made.alive), health_page(port, address, made.alive):
        made.run()
