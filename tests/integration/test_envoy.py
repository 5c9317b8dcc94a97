"""The front door: which paths it opens, what it refuses, and how its configuration is changed while it runs."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from serinus.core.errors import EngineError
from serinus.core.spec import Traffic
from serinus.core.spec.traffic import Drain, Limits, Quota, Sticky
from serinus.engines import envoy_admin
from serinus.engines.envoy import Door, bootstrap, clusters, command, route_configuration, validation_command
from tests.support import eventually
from tests.support_envoy import LOADING, READY, Front, Load, front, new_door, running

BODY_LIMIT = 2 * 1024 * 1024


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Version 1 has all requests, version 2 is up and waits."""
    door = new_door(tmp_path_factory.mktemp("both"), Traffic(maximum_body=BODY_LIMIT))
    with front(door) as found:
        yield found


@pytest.mark.parametrize(
    ("traffic", "canary", "shadow"),
    [
        (Traffic(), 0, 0),
        (Traffic(fallback=False, version_header=None, deadline_header=None), 25, 0),
        (
            Traffic(
                sticky=Sticky(header="x-user-id"),
                quota=Quota(requests=10, per=timedelta(minutes=1)),
                limits=Limits(connections=8, requests=16, waiting=4),
                drain=Drain(notice=timedelta(0)),
            ),
            0.05,
            0,
        ),
        (Traffic(), 0, 12.5),
    ],
)
def test_envoy_accepts_the_configuration(traffic: Traffic, canary: float, shadow: float, tmp_path: Path) -> None:
    """The dynamic parts are put where `--mode validate` reads them: into the static configuration."""
    door = new_door(tmp_path, traffic, canary, shadow)
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
        assert (done.returncode, done.stderr) == (0, ""), "no error, and nothing deprecated"


def test_each_protocol_reaches_the_handler_under_its_name(both: Front) -> None:
    paths = {
        "/v2/models/tiny/infer": "v2",
        "/v1/models/tiny:predict": "v1",
        "/predictions/tiny": "plain",
        "/v2/models/tiny/versions/1/infer": "v2",
    }
    for path, protocol in paths.items():
        answer = both.client.post(path, json={}, headers={"X-Serinus-Protocol": "forged"})
        seen = answer.json()
        assert (seen["name"], seen["path"]) == ("1", "/predictions/tiny")
        assert seen["headers"]["x-serinus-protocol"] == protocol
    assert both.client.post("/v2/models/tiny/versions/2/infer", json={}).json()["name"] == "2"


def test_only_listed_paths_are_open(both: Front) -> None:
    for method, path, status in (
        ("GET", "/models/tiny", 404),
        ("GET", "/models", 404),
        ("POST", "/predictions/other", 404),
        ("POST", "/predictions/tiny/1.0", 404),
        ("GET", "/predictions/tiny/..%2f..%2fmodels", 400),
        ("DELETE", "/v2/models/tiny", 405),
        ("GET", "/v2/models/tiny/infer", 405),
        ("POST", "/v2/models/tiny/versions/9/infer", 404),
    ):
        answer = both.client.request(method, path)
        assert answer.status_code == status, path
        if status != 400:
            assert set(answer.json()) == {"error"}
    assert both.client.get("/metrics").json()["name"] == "sidecar"
    assert both.client.get("/v2/models/tiny").json() == {"name": "tiny", "versions": ["1"], "platform": "old"}
    assert both.client.get("/v2/models/tiny/versions/2").json()["platform"] == "new"


def test_bodies_and_headers_are_bounded(both: Front) -> None:
    assert both.client.post("/predictions/tiny", content=b"x" * BODY_LIMIT).json()["length"] == BODY_LIMIT
    refused = both.client.post("/predictions/tiny", content=b"x" * (BODY_LIMIT + 1))
    assert refused.status_code == 413
    assert str(BODY_LIMIT) in refused.json()["error"]
    assert both.ask(x_large="x" * 40_000).status_code == 431
    many = {f"x-many-{number}": "y" for number in range(150)}
    assert both.client.post("/predictions/tiny", json={}, headers=many).status_code == 431
    assert both.client.post("/predictions/tiny", json={}, headers={"x_under": "y"}).status_code == 400
    assert both.ask().status_code == 200


def test_a_body_of_100_mb_is_refused_while_others_are_answered(both: Front) -> None:
    def flood() -> int:
        def chunks() -> Iterator[bytes]:
            for _ in range(100):
                yield b"x" * 1_000_000

        with httpx.Client(base_url=both.client.base_url, timeout=20) as client:
            try:
                return client.post("/predictions/tiny", content=chunks()).status_code
            except httpx.TransportError:
                return 413  # refused while it still wrote

    with Load(str(both.client.base_url), clients=2) as load, ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: flood(), range(4))) == {413}
        load.wait_for(50)
    assert load.failed == {}


def test_slow_clients_are_sent_away_and_cost_nobody_else_anything(both: Front) -> None:
    address = ("127.0.0.1", both.door.port)
    asked = len(both.upstreams[1].received)
    slow = [socket.create_connection(address, timeout=20) for _ in range(50)]
    for connection in slow:
        connection.sendall(b"POST /predictions/tiny HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\nx-a: ")
    with Load(str(both.client.base_url), clients=2) as load:
        load.wait_for(200)
        first = [connection.recv(4096) for connection in slow]  # within the time limit of the socket
    assert load.failed == {}
    assert all(answer.startswith(b"HTTP/1.1 408") for answer in first)
    for connection in slow:
        connection.close()
    assert len(both.upstreams[1].received) - asked == load.total, "no version saw any of it"


def test_readiness_is_that_of_the_stable_versions_workers(both: Front) -> None:
    paths = ("/v2/health/ready", "/v2/models/tiny/ready", "/v1/models/tiny", "/v2/models/tiny/versions/1/ready")
    for path in paths:
        answer = both.client.get(path)
        assert (answer.status_code, answer.json()["ready"]) == (200, True)
    both.management[1].described = LOADING
    try:
        for path in paths:
            answer = both.client.get(path)
            assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert both.client.get("/v2/models/tiny/versions/2/ready").status_code == 200
    finally:
        both.management[1].described = READY


def test_request_ids_and_traces_are_made_once_and_passed_on_unchanged(both: Front) -> None:
    answer = both.ask()
    headers = answer.json()["headers"]
    assert headers["x-request-id"] == answer.headers["x-request-id"], "one id, for the handler and the client"
    version, trace, span, flags = headers["traceparent"].split("-")
    assert (version, len(bytes.fromhex(trace)), len(bytes.fromhex(span)), flags) == ("00", 16, 8, "00")
    traces = [both.ask().json()["headers"]["traceparent"] for _ in range(50)]
    assert len({each.split("-")[1] for each in traces}) == len({each.split("-")[2] for each in traces}) == 50

    given = {
        "x-request-id": "6f2f6b1c-0000-1000-8000-0123456789ab",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "vendor=opaque",
    }
    answer = both.client.post("/predictions/tiny", json={}, headers=given)
    assert given.items() <= answer.json()["headers"].items()
    assert answer.headers["x-request-id"] == given["x-request-id"]
    assert both.ask(x_request_id="mine").json()["headers"]["x-request-id"] == "mine"


def test_a_client_cannot_steer_envoy_or_the_handler(both: Front) -> None:
    forged = {
        "x-envoy-upstream-rq-timeout-ms": "0",
        "x-envoy-max-retries": "100",
        "x-serinus-shadow": "true",
    }
    headers = both.client.post("/predictions/tiny", json={}, headers=forged).json()["headers"]
    assert headers["x-envoy-expected-rq-timeout-ms"] == "6000"
    assert set(forged) & set(headers) == set()


def test_a_version_that_is_gone_is_an_error_in_json(tmp_path: Path) -> None:
    with running(new_door(tmp_path)) as (client, _):
        answer = client.post("/predictions/tiny", json={})
        assert answer.status_code == 503
        assert "error" in answer.json()
        assert client.get("/v2/health/ready").status_code == 503


def test_broken_files_change_nothing_and_a_good_one_is_taken_over(tmp_path: Path) -> None:
    with front(new_door(tmp_path, canary=50)) as found:
        door = found.door
        refused = door.model_copy(update={"revision": 2, "timeout": timedelta(seconds=-10)})
        with Load(str(found.client.base_url)) as load:
            envoy_admin.write_routes(refused)
            with pytest.raises(EngineError, match="refused"):
                envoy_admin.await_routes(refused, 2)
            good = door.routes_file.read_text()
            for file in (door.routes_file, door.clusters_file):
                for broken in (good[: len(good) // 2], "", "\0" * 100, '{"resources": [{"@ty'):
                    file.write_text(broken)  # in place: half-written
                    part = file.with_suffix(".part")
                    part.write_text(broken)
                    part.replace(file)  # as a whole: Envoy reads it
                    load.wait_for(50)
                file.unlink()
                load.wait_for(50)
            found.weights(0)
            load.wait_for(200)
            before = load.of(2)
            load.wait_for(100)
        assert load.failed == {}
        assert load.of(2) - before <= 4, "what was under way when the weight changed"
        assert load.total > 700


def test_a_restarted_envoy_finds_its_weights(tmp_path: Path) -> None:
    with front(new_door(tmp_path)) as found:
        found.weights(100)
        found.process.kill()
        found.process.wait()
        with running(found.door) as (client, _):
            eventually(lambda: client.post("/predictions/tiny", json={}).json()["name"] == "2")


def test_two_envoys_never_share_a_port(both: Front, tmp_path: Path) -> None:
    other: Door = both.door.model_copy(update={"folder": tmp_path / "second", "admin": tmp_path / "second.sock"})
    envoy_admin.write(other)
    done = subprocess.run(command(other), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert both.ask().status_code == 200
