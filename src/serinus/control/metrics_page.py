"""A process' own metrics at `/metrics`, and at `/healthz` whether it still does what it is there for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server


@contextmanager
def metrics_page(
    registry: CollectorRegistry, port: int, address: str, alive: Callable[[], bool] = lambda: True
) -> Iterator[int]:
    """Have both answered until the end of the block; gives the port.

    Args:
        registry: the metrics.
        port: to listen on; 0 takes a free one.
        address: to listen on.
        alive: whether `/healthz` is to say yes.
    """
    server, thread = start_http_server(port, address, registry)
    metrics = server.get_app()
    assert metrics is not None

    def page(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/healthz":
            return metrics(environ, start_response)
        well = alive()
        start_response("200 OK" if well else "503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"well\n" if well else b"stuck\n"]

    server.set_app(page)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def health_page(port: int, address: str, alive: Callable[[], bool]) -> Iterator[int]:
    """Have `/healthz` answered at a port of its own, for whoever may not read metrics."""
    with metrics_page(CollectorRegistry(), port, address, alive) as taken:
        yield taken
