"""A real Envoy with our configuration, in front of small HTTP servers that stand where TorchServe would be."""

from __future__ import annotations

import json
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from serinus.core.errors import EngineError
from serinus.engines import envoy_admin
from serinus.engines.envoy import (
    BODY_LIMIT,
    Backend,
    Door,
    bootstrap,
    clusters,
    command,
    route_configuration,
    validation_command,
)
from serinus.engines.ports import free_ports
from tests.support import eventually

READY = json.dumps([{"modelName": "tiny", "workers": [{"status": "UNLOADING"}, {"status": "READY"}]}], indent=2)
LOADING = json.dumps([{"modelName": "tiny", "workers": [{"status": "UNLOADING"}]}], indent=2)


@contextmanager
def upstream(name: str, port: int, described: str = READY) -> Iterator[None]:
    """Answers any prediction with what it received; describes its model as TorchServe's management API does."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(described if self.path == "/models/tiny" else json.dumps({"path": self.path}))

        def do_POST(self) -> None:
            length = len(self.rfile.read(int(self.headers["content-length"])))
            seen = {"name": name, "path": self.path, "length": length, "headers": dict(self.headers)}
            self._answer(json.dumps(seen))

        def _answer(self, text: str) -> None:
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


@contextmanager
def running(door: Door) -> Iterator[httpx.Client]:
    envoy_admin.write(door)
    address = f"http://127.0.0.1:{door.port}"
    with (door.folder / "log").open("wb") as log, subprocess.Popen(command(door), stderr=log) as process:
        try:
            eventually(lambda: _listens(address), 20)
            with httpx.Client(base_url=address) as client:
                yield client
        finally:
            process.terminate()


def _listens(address: str) -> bool:
    try:
        return httpx.get(f"{address}/v2").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def door(tmp_path: Path) -> Door:
    front, sidecar, old, old_management, new, new_management = free_ports(6)
    return Door(
        model="tiny",
        port=front,
        admin=tmp_path / "admin.sock",
        folder=tmp_path / "envoy",
        sidecar_port=sidecar,
        timeout=timedelta(seconds=5),
        backends=(
            Backend(version=1, port=old, management_port=old_management, weight=100, metadata={"platform": "old"}),
            Backend(version=2, port=new, management_port=new_management, weight=0, metadata={"platform": "new"}),
        ),
        revision=1,
    )


@pytest.fixture
def both(door: Door) -> Iterator[httpx.Client]:
    """Envoy, version 1 (ready), version 2 (still loading), and the sidecar."""
    with ExitStack() as stack:
        for backend, described in zip(door.backends, (READY, LOADING), strict=True):
            stack.enter_context(upstream(str(backend.version), backend.port))
            stack.enter_context(upstream(str(backend.version), backend.management_port, described))
        stack.enter_context(upstream("sidecar", door.sidecar_port))
        yield stack.enter_context(running(door))


def weighted(door: Door, old: int, new: int) -> Door:
    first, second = door.backends
    backends = (first.model_copy(update={"weight": old}), second.model_copy(update={"weight": new}))
    return door.model_copy(update={"backends": backends, "revision": door.revision + 1})


def test_envoy_accepts_the_configuration(door: Door, tmp_path: Path) -> None:
    """The dynamic parts are put where `--mode validate` reads them: into the static configuration."""
    whole = bootstrap(door)
    untyped = [{key: value for key, value in each.items() if key != "@type"} for each in clusters(door)["resources"]]
    whole["static_resources"]["clusters"] += untyped
    manager = whole["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"], whole["dynamic_resources"]
    manager["route_config"] = route_configuration(door)
    for name, content in {"whole.json": whole, "bootstrap.json": bootstrap(door)}.items():
        path = tmp_path / name
        path.write_text(json.dumps(content))
        envoy_admin.write(door)  # the watched folders must exist
        done = subprocess.run(validation_command(path), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


def test_protocols_paths_and_limits(both: httpx.Client) -> None:
    for path, protocol in (
        ("/v2/models/tiny/infer", "v2"),
        ("/v1/models/tiny:predict", "v1"),
        ("/predictions/tiny", "plain"),
    ):
        answer = both.post(path, json={}, headers={"X-Serinus-Protocol": "forged"})
        seen = answer.json()
        assert (seen["name"], seen["path"]) == ("1", "/predictions/tiny")
        headers = {name.lower(): value for name, value in seen["headers"].items()}
        assert headers["x-serinus-protocol"] == protocol
        assert headers["x-request-id"] == answer.headers["x-request-id"], "one id, for the handler and the client"
    assert both.post("/predictions/tiny", json={}, headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"

    for method, path, status in (
        ("GET", "/models/tiny", 404),
        ("GET", "/models", 404),
        ("POST", "/predictions/other", 404),
        ("POST", "/predictions/tiny/1.0", 404),
        ("GET", "/predictions/tiny/..%2f..%2fmodels", 400),
        ("DELETE", "/v2/models/tiny", 405),
        ("GET", "/v2/models/tiny/infer", 405),
    ):
        answer = both.request(method, path)
        assert answer.status_code == status, path
        if status != 400:
            assert set(answer.json()) == {"error"}

    assert both.post("/predictions/tiny", content=b"x" * BODY_LIMIT).json()["length"] == BODY_LIMIT
    refused = both.post("/predictions/tiny", content=b"x" * (BODY_LIMIT + 1))
    assert refused.status_code == 413
    assert str(BODY_LIMIT) in refused.json()["error"]

    assert both.get("/metrics").json() == {"path": "/metrics"}
    assert both.get("/v2/models/tiny").json() == {"name": "tiny", "versions": ["1"], "platform": "old"}


def test_readiness_is_that_of_the_workers(both: httpx.Client, door: Door) -> None:
    for path in ("/v2/health/ready", "/v2/models/tiny/ready", "/v1/models/tiny"):
        answer = both.get(path)
        assert (answer.status_code, answer.json()) == (200, {"ready": True})
    changed = weighted(door, 0, 100)
    envoy_admin.write_routes(changed)
    envoy_admin.await_routes(changed, 10)
    eventually(lambda: both.get("/v2/health/ready").status_code == 503)
    assert both.get("/v2/health/ready").json() == {"ready": False}


def test_a_version_that_is_gone_is_an_error_in_json(door: Door) -> None:
    with running(door) as client:
        answer = client.post("/predictions/tiny", json={})
        assert answer.status_code == 503
        assert "error" in answer.json()
        assert client.get("/v2/health/ready").status_code == 503


def test_weights_change_while_requests_are_under_way(both: httpx.Client, door: Door) -> None:
    found: Counter[tuple[int, str]] = Counter()
    stop = threading.Event()

    def load() -> None:
        with httpx.Client(base_url=both.base_url) as client:
            while not stop.is_set():
                answer = client.post("/predictions/tiny", json={})
                found[answer.status_code, answer.json().get("name", "")] += 1

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for old, new in ((50, 50), (0, 100), (100, 0), (0, 100)) * 3:
            door = weighted(door, old, new)
            envoy_admin.write_routes(door)
            envoy_admin.await_routes(door, 10)
            before = found.total()
            eventually(lambda seen=before: found.total() > seen + 20)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {status for status, _ in found} == {200}
    assert found[200, "1"] > 0 < found[200, "2"]
    eventually(lambda: both.post("/predictions/tiny", json={}).json()["name"] == "2")
    assert envoy_admin.requests_under_way(door, 2) == 0


def test_broken_routes_change_nothing_and_are_reported(both: httpx.Client, door: Door) -> None:
    unknown = door.backends[0].model_copy(update={"version": 7})
    changed = door.model_copy(update={"backends": (unknown,), "revision": 2, "timeout": timedelta(seconds=-10)})
    envoy_admin.write_routes(changed)
    with pytest.raises(EngineError, match="refused"):
        envoy_admin.await_routes(changed, 2)
    assert both.post("/predictions/tiny", json={}).json()["name"] == "1"
    door.routes_file.write_text('{"resources": [{"@ty')
    assert both.post("/predictions/tiny", json={}).json()["name"] == "1"


def test_two_envoys_never_share_a_port(both: httpx.Client, door: Door, tmp_path: Path) -> None:
    other = door.model_copy(update={"folder": tmp_path / "second", "admin": tmp_path / "second.sock"})
    envoy_admin.write(other)
    done = subprocess.run(command(other), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert both.get("/v2").status_code == 200
