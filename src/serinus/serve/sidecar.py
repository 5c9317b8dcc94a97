"""The small process that adds up what the workers of a predictor counted, and exposes it to Prometheus.

It shares the workers' folder of metrics and must see their process ids: the same container, or one process namespace.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from serinus.core.errors import Conflict
from serinus.serve.telemetry import MULTIPROCESS_FOLDER

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
PREFIX = "serinus_"
_LIVE_FILE = re.compile(r"gauge_live[a-z]*_(\d+)\.db")
_TEXT = [("Content-Type", "text/plain; charset=utf-8")]
_Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A scrape every few seconds is not worth a line."""


def forget_dead_workers(folder: Path) -> None:
    """Remove the live gauges of processes that are gone. Their counters stay: a counter must not fall."""
    from prometheus_client import multiprocess

    found = (_LIVE_FILE.fullmatch(path.name) for path in folder.glob("gauge_live*.db"))
    for pid in {int(match.group(1)) for match in found if match is not None}:
        if not _alive(pid):
            multiprocess.mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def application(folder: Path) -> _Application:
    """WSGI: `/metrics` for Prometheus, `/healthz` for probes."""
    os.environ[MULTIPROCESS_FOLDER] = str(folder)
    from prometheus_client import CollectorRegistry, make_wsgi_app
    from prometheus_client.multiprocess import MultiProcessCollector

    class OwnMetrics(MultiProcessCollector):
        """Feast counts into the same folder, for a server that is not running here."""

        def collect(self) -> Iterator[Any]:
            found = super().collect()  # type: ignore[no-untyped-call]
            return (family for family in found if family.name.startswith(PREFIX))

    registry = CollectorRegistry()
    OwnMetrics(registry, path=str(folder))  # type: ignore[no-untyped-call]
    metrics = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [*_TEXT, ("Allow", "GET, HEAD")])
            return [b"use GET\n"]
        if path == "/metrics":
            forget_dead_workers(folder)
            found: Iterable[bytes] = metrics(environ, start_response)
            return found
        if path == "/healthz":
            start_response("200 OK", _TEXT)
            return [b"ok\n"]
        start_response("404 Not Found", _TEXT)
        return [b"try /metrics or /healthz\n"]

    return answer


def open_server(folder: Path, port: int, address: str = LOOPBACK) -> WSGIServer:
    """A server that is bound but does not serve yet; port 0 takes a free one.

    Raises:
        Conflict: the port is taken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return make_server(address, port, application(folder), server_class=_Server, handler_class=_Quiet)
    except OSError as error:
        raise Conflict(f"cannot listen on {address}:{port}: {error.strerror}", hint="choose another port") from error
