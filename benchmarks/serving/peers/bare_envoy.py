"""The least that Envoy can do, in front of our predictor: one listener, one route. What our door's features cost shows
against it, whatever the machine is busy with."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.serving.peers.base import Running, await_answer, processes
from benchmarks.serving.peers.ours import Door
from serinus.engines import envoy
from serinus.engines.ports import LOOPBACK, free_ports

TYPE = "type.googleapis.com/envoy.extensions.filters"


@contextlib.contextmanager
def running(behind: Door, body: bytes, folder: Path) -> Iterator[Running]:
    """A bare Envoy before the predictor's socket; its own Envoy, idle meanwhile, is not counted."""
    path = urlsplit(behind.url).path
    (port,) = free_ports(1)
    config = folder / f"envoy-{port}.json"
    config.write_text(json.dumps(bootstrap(port, {"pipe": {"path": str(behind.socket)}})), encoding="utf-8")
    command = [str(envoy._binary()), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    log = folder / f"envoy-{port}.log"
    with processes({"envoy": command}, log) as roots:
        url = f"http://{LOOPBACK}:{port}{path}"
        await_answer(url, body, log)
        yield Running(url, lambda: {**behind.roots(), **roots})


def bootstrap(port: int, upstream: dict[str, Any]) -> dict[str, Any]:
    route = {"match": {"prefix": "/"}, "route": {"cluster": "behind"}}
    manager = {
        "@type": f"{TYPE}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bare",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{TYPE}.http.router.v3.Router"}}],
    }
    listener = {
        "address": {"socket_address": {"address": LOOPBACK, "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": upstream}}]}]
    cluster = {
        "name": "behind",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "behind", "endpoints": endpoints},
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
