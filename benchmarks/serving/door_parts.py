"""What each feature of the front door costs Envoy, in instructions a request: exact whatever else the machine does.

    python -m benchmarks.serving.door_parts     # some four minutes; needs valgrind (apt-get install valgrind)

runs Envoy under valgrind with our configuration, with a part of it left out, and with next to none (`bare`), in front
of a second Envoy that answers at once. The instructions of the start are taken off by the difference of a long and a
short run; health checks are off, as they cost by the second.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.serving.peers import bare_envoy
from serinus.engines import envoy
from serinus.engines.envoy import Backend, Door
from serinus.engines.ports import LOOPBACK, free_ports
from serinus.engines.waiting import wait_until

SHORT, LONG, CONNECTIONS = 320, 1920, 16
PATH = "/v1/models/flights:predict"
BODY = json.dumps({"instances": [{"origin": "EWR", "carrier": "UA", "tailnum": "N12345", "hour": 12}]}).encode()
ANSWER = json.dumps({"predictions": [0.1234], "model_name": "flights", "parameters": {"filled": "x" * 150}})
Config = dict[str, Any]


def _manager(bootstrap: Config) -> Config:
    found: Config = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def _without_filter(word: str) -> Callable[[Config, Config], None]:
    def change(bootstrap: Config, _: Config) -> None:
        manager = _manager(bootstrap)
        manager["http_filters"] = [each for each in manager["http_filters"] if word not in each["name"]]

    return change


def _no_counters(bootstrap: Config, _: Config) -> None:
    manager = _manager(bootstrap)
    manager["access_log"] = []
    manager["http_filters"][-1]["typed_config"].pop("upstream_log")


def _no_marks(_: Config, routes: Config) -> None:
    for route in routes["resources"][0]["virtual_hosts"][0]["routes"]:
        route.pop("request_headers_to_add", None)


def _no_retries(_: Config, routes: Config) -> None:
    for name in ("retry_policy", "include_request_attempt_count", "request_body_buffer_limit"):
        routes["resources"][0]["virtual_hosts"][0].pop(name)


def _no_time_limits(bootstrap: Config, _: Config) -> None:
    _manager(bootstrap).update(request_headers_timeout="0s", request_timeout="0s", stream_idle_timeout="0s")


def _no_id(bootstrap: Config, _: Config) -> None:
    _manager(bootstrap).update(generate_request_id=False, always_set_request_id_in_response=False)


VARIANTS: dict[str, Callable[[Config, Config], None] | None] = {
    "ours": lambda *_: None,
    "without the counters for rollouts": _no_counters,
    "without time limits for slow clients": _no_time_limits,
    "without the trace context": _without_filter("header_mutation"),
    "without retries": _no_retries,
    "without the marks for the handler": _no_marks,
    "without reading the body whole": _without_filter("buffer"),
    "without the request id": _no_id,
    "bare": None,
}


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="door-") as name:
        folder = Path(name)
        socket, (management,) = folder / "up.sock", free_ports(1)
        backend = {"static_resources": {"listeners": [
            _answers("up", {"pipe": {"path": str(socket)}}, ANSWER),
            _answers("management", {"socket_address": {"address": LOOPBACK, "port_value": management}}, '"READY"'),
        ]}}  # fmt: skip
        (folder / "up.json").write_text(json.dumps(backend), encoding="utf-8")
        command = [*envoy.command(_door(folder, socket, management))]
        command[command.index("--config-path") + 1] = str(folder / "up.json")
        with subprocess.Popen(command) as process:
            try:
                for variant, change in VARIANTS.items():
                    long, short = (_count(folder, (socket, management), change, each) for each in (LONG, SHORT))
                    print(f"{variant:40s} {(long - short) / (LONG - SHORT):10,.0f}", flush=True)  # noqa: T201
            finally:
                process.terminate()
    return 0


def _answers(name: str, address: Config, body: str) -> Config:
    """A listener that gives everyone the same answer."""
    kind = "type.googleapis.com/envoy.extensions.filters."
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": body}}}
    router = {"@type": kind + "http.router.v3.Router"}
    manager = {
        "@type": kind + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {"name": name, "address": address, "filter_chains": [{"filters": filters}]}


def _door(folder: Path, socket: Path, management: int) -> Door:
    port, sidecar = free_ports(2)
    one = Backend(version=1, socket=socket, management_port=management, weight=100, metadata={})
    return Door(
        model="flights", port=port, admin=folder / "admin", folder=folder, sidecar_port=sidecar,
        timeout=timedelta(seconds=10), backends=(one,), stable=1, revision=1,
    )  # fmt: skip


def _count(
    folder: Path, behind: tuple[Path, int], change: Callable[[Config, Config], None] | None, requests: int
) -> int:
    """Instructions of one life of Envoy with so many requests."""
    door = _door(Path(tempfile.mkdtemp(dir=folder)), *behind)
    files = envoy.configuration(door)
    if change is None:
        files = {door.bootstrap_file: bare_envoy.bootstrap(door.port, {"pipe": {"path": str(behind[0])}})}
    else:
        change(files[door.bootstrap_file], files[door.routes_file])
        for cluster in files[door.clusters_file]["resources"]:
            cluster.pop("health_checks", None)
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    said = door.folder / "valgrind.log"
    tool = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", f"--log-file={said}"]
    with subprocess.Popen([*tool, *envoy.command(door)], stderr=subprocess.DEVNULL) as process:
        try:
            _ask(door.port, requests)
        finally:
            process.terminate()
    counted = re.search(r"I\s+refs:\s+([\d,]+)", said.read_text(encoding="utf-8"))
    assert counted is not None, said
    return int(counted[1].replace(",", ""))


def _ask(port: int, requests: int) -> None:
    def up() -> bool:
        try:
            return _exchange([http.client.HTTPConnection(LOOPBACK, port, timeout=5)]) == [200]
        except OSError:
            return False

    if not wait_until(up, 60):
        raise TimeoutError("Envoy does not answer")
    connections = [http.client.HTTPConnection(LOOPBACK, port, timeout=60) for _ in range(CONNECTIONS)]
    for _ in range(requests // CONNECTIONS):
        assert _exchange(connections) == [200] * CONNECTIONS


def _exchange(connections: list[http.client.HTTPConnection]) -> list[int]:
    """One request on each at once."""
    for each in connections:
        each.request("POST", PATH, BODY, {"Content-Type": "application/json"})
    answers = [each.getresponse() for each in connections]
    for each in answers:
        each.read()
    return [each.status for each in answers]


if __name__ == "__main__":
    raise SystemExit(main())
