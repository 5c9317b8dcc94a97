"""Small real exporters of a predictor's metrics, and a real Prometheus that scrapes them."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import httpx
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serinus.engines.ports import free_ports
from tests.support import eventually

MODEL = "tiny"
SCRAPE_SECONDS = 0.5


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Tests print what matters."""


class Exporter(Collector):
    """Shows counters as a predictor does, from the start to the end of its context.

    `restart` counts from nought, `stop` is not to be reached.
    """

    def __init__(self, epoch: str = "a") -> None:
        self.port = free_ports(1)[0]
        self.door = 1.0
        self._epoch = epoch
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._server: WSGIServer | None = None
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self, name: str, amount: float, version: int, **labels: str) -> None:
        """Add to a counter."""
        key = (name, tuple(sorted({**labels, "version": str(version), "model": MODEL}.items())))
        self._values[key] = self._values.get(key, 0.0) + amount

    def asked(self, version: int, ok: int = 0, error: int = 0, none: int = 0, traffic: str = "live") -> None:
        """Attempts at a version, and what came back."""
        for result, amount in (("ok", ok), ("error", error), ("none", none)):
            self.count("serinus_upstream_requests_total", amount, version, traffic=traffic, result=result)

    def took(self, version: int, seconds: tuple[float, ...], edges: tuple[str, ...], traffic: str = "live") -> None:
        """Latencies, into a histogram with these edges."""
        for edge in (*edges, "+Inf"):
            at_most = sum(each <= float(edge) for each in seconds)
            self.count("serinus_request_duration_seconds_bucket", at_most, version, traffic=traffic, le=edge)

    def restart(self, epoch: str) -> None:
        self._values, self._epoch = {}, epoch

    def start(self) -> None:
        self._server = make_server("127.0.0.1", self.port, make_wsgi_app(self._registry), _Server, Quiet)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        own = {"model": MODEL, "version": ""}
        counting = GaugeMetricFamily("serinus_counting_info", "", labels=["model", "version", "epoch"])
        counting.add_metric([*own.values(), self._epoch], 1)
        door = GaugeMetricFamily("serinus_door_up", "", labels=list(own))
        door.add_metric(list(own.values()), self.door)
        yield from (counting, door)
        families: dict[str, Metric] = {}
        for (name, labels), value in list(self._values.items()):
            if name not in families:
                families[name] = CounterMetricFamily(name.removesuffix("_total"), "")
            families[name].add_sample(name, dict(labels), value)
        yield from families.values()


class Server:
    """A Prometheus whose targets can be changed."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self._options = options
        self._targets = folder / "targets.json"
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def scrape(self, *exporters: Exporter) -> None:
        part = self._targets.with_suffix(".part")
        part.write_text(json.dumps([{"targets": [f"127.0.0.1:{each.port}" for each in exporters]}]))
        part.replace(self._targets)

    def start(self) -> None:
        config = self._folder / "prometheus.yml"
        config.write_text(
            f"global: {{scrape_interval: {SCRAPE_SECONDS}s, scrape_timeout: {SCRAPE_SECONDS}s}}\n".replace(
                "0.5s", "500ms"
            )
            + f"scrape_configs: [{{job_name: serinus, file_sd_configs: [{{files: ['{self._targets}']}}]}}]\n"
        )
        command = [
            "prometheus", f"--config.file={config}", f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}", *self._options,
        ]  # fmt: skip
        with (self._folder / "prometheus.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        eventually(self._ready, 30)

    def known(self, targets: int) -> bool:
        """Whether it has scraped so many targets; one that it has not is none to its queries."""
        found = httpx.get(f"{self.url}/api/v1/query", params={"query": "count(up)"}).json()["data"]["result"]
        return bool(found) and float(found[0]["value"][1]) == targets

    def _ready(self) -> bool:
        """Whether it takes requests; with TLS, who asks without gets 400."""
        try:
            return httpx.get(f"{self.url}/-/ready").status_code in (200, 400)
        except httpx.TransportError:
            return False

    def scraped_all_since(self, moment: datetime) -> bool:
        """Whether every target was scraped after a moment."""
        query = {"query": "min(timestamp(up))"}
        found = httpx.get(f"{self.url}/api/v1/query", params=query).json()["data"]["result"]
        return bool(found) and float(found[0]["value"][1]) > moment.timestamp()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
            self.process = None


@contextmanager
def scraping(folder: Path, *exporters: Exporter, options: tuple[str, ...] = ()) -> Iterator[Server]:
    """A Prometheus with its targets, ended with its context."""
    server = Server(folder, *options)
    server.scrape(*exporters)
    server.start()
    try:
        if not options:
            eventually(lambda: server.known(len(exporters)), 60)
        yield server
    finally:
        server.stop()
