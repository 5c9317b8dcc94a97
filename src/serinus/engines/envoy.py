"""Envoy: the only door to TorchServe. Its configuration is made here by pure functions (see `envoy_admin` for changes).

The listener is fixed at start. Routes (with the weights of versions) and clusters (one a version) are read from files
in watched folders, so that replacing a file changes them while requests are under way. The admin API is a Unix socket
in a folder of the user's own: on a TCP port any local user, or a web page, could stop the server.
"""

from __future__ import annotations

import importlib.util
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from serinus.core.errors import EngineError
from serinus.core.signature import Signature
from serinus.engines.ports import LOOPBACK

BODY_LIMIT = 10 * 1024 * 1024
"""Bytes of a request's body, at most; more is answered with 413."""
PROTOCOL_HEADER = "x-serinus-protocol"
"""Tells the handler which protocol a request speaks: `v2`, `v1` or `plain`. A client cannot set it."""

ROUTES = "serinus"
_SIDECAR = "sidecar"
_MANAGEMENT = "-management"
_TYPE = "type.googleapis.com/envoy."
_JSON = "application/json"
_LUA = "envoy.filters.http.lua"
# TorchServe's `/ping` and `/v2/health/ready` answer well while its workers die one after another; only the management
# API's description of the model tells. It becomes the protocol's answer here, on the readiness routes alone.
_READY_SCRIPT = """
function envoy_on_response(handle)
  local body = handle:body(true)
  local found = body:getBytes(0, body:length())
  local ready = string.find(found, '"status":%s*"READY"') ~= nil
  handle:headers():replace(":status", ready and "200" or "503")
  handle:headers():replace("content-type", "application/json")
  body:setBytes(ready and '{"ready": true}' or '{"ready": false}')
end
"""
_READY_TIMEOUT = timedelta(seconds=2)
# On top of TorchServe's own limit, so that its answer (which says more) comes first.
_MARGIN = timedelta(seconds=1)
# V2 datatypes by Feast's name of the value type; what is not listed has no tensor type and goes as JSON in BYTES.
_DATATYPES = {"Float64": "FP64", "Float32": "FP32", "Int64": "INT64", "Int32": "INT32", "Bool": "BOOL"}


class Backend(BaseModel):
    """One model version: where its TorchServe listens, its share of the requests, and what requests may carry.

    `management_port` is asked for nothing but readiness. `metadata` comes from the function of that name.
    """

    model_config = ConfigDict(frozen=True)

    version: int
    port: int
    management_port: int
    weight: int
    metadata: dict[str, Any]


class Door(BaseModel):
    """What Envoy is to do. `folder` holds its files, `admin` is the path of its admin socket, `port` the front port.

    `revision` counts changes of the dynamic part, so that it can be seen when Envoy has taken one over.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    port: int
    admin: Path
    folder: Path
    sidecar_port: int
    timeout: timedelta
    backends: tuple[Backend, ...]
    revision: int

    @property
    def bootstrap_file(self) -> Path:
        return self.folder / "bootstrap.json"

    @property
    def routes_file(self) -> Path:
        return self.folder / "routes" / "rds.json"

    @property
    def clusters_file(self) -> Path:
        return self.folder / "clusters" / "cds.json"


def configuration(door: Door) -> dict[Path, dict[str, Any]]:
    """Every file of Envoy's configuration: the fixed bootstrap, the clusters, the routes."""
    return {door.bootstrap_file: bootstrap(door), door.clusters_file: clusters(door), door.routes_file: routes(door)}


def bootstrap(door: Door) -> dict[str, Any]:
    """What Envoy reads once: admin socket, listener, the sidecar, and where the changing parts are."""
    return {
        "node": {"id": "serinus", "cluster": "serinus"},
        "admin": {"address": {"pipe": {"path": str(door.admin), "mode": 0o600}}},
        "dynamic_resources": {"cds_config": _watched(door.clusters_file)},
        "static_resources": {
            "listeners": [_listener(door)],
            "clusters": [_cluster(_SIDECAR, door.sidecar_port)],
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": _TYPE + "extensions.resource_monitors.downstream_connections.v3"
                        ".DownstreamConnectionsConfig",
                        "max_active_downstream_connections": 4096,
                    },
                }
            ]
        },
    }


def clusters(door: Door) -> dict[str, Any]:
    """Two clusters a version: for predictions, and for asking whether it is ready."""
    found = []
    for each in door.backends:
        name = cluster_name(door.model, each.version)
        found += [_cluster(name, each.port), _cluster(name + _MANAGEMENT, each.management_port)]
    resources = [{"@type": _TYPE + "config.cluster.v3.Cluster", **each} for each in found]
    return {"version_info": str(door.revision), "resources": resources}


def routes(door: Door) -> dict[str, Any]:
    """The allow-list of paths, and the weights of versions; any other path is 404."""
    resource = {"@type": _TYPE + "config.route.v3.RouteConfiguration", **route_configuration(door)}
    return {"version_info": str(door.revision), "resources": [resource]}


def route_configuration(door: Door) -> dict[str, Any]:
    """The routes: predictions in three protocols to the versions by weight, health, metadata, metrics."""
    model, plain = door.model, f"/predictions/{door.model}"
    allowed = [
        _predict(door, f"/v2/models/{model}/infer", "v2", plain),
        _predict(door, f"/v1/models/{model}:predict", "v1", plain),
        _predict(door, plain, "plain", plain),
        _to_versions(door, "/v2/health/live", "GET", {"prefix_rewrite": "/v2/health/live", **_seconds(_READY_TIMEOUT)}),
        _ready(door, "/v2/health/ready"),
        _ready(door, f"/v2/models/{model}/ready"),
        _direct("/v2", {"name": "serinus", "version": "2", "extensions": []}),
        _direct(f"/v2/models/{model}", _description(door)),
        _ready(door, f"/v1/models/{model}"),
        _metrics(),
    ]
    refused = _refusals(model, [route["match"]["path"] for route in allowed])
    return {
        "name": ROUTES,
        # Metadata names every column; the default limit of 4 kB is soon reached.
        "max_direct_response_body_size_bytes": 1024 * 1024,
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [*allowed, *refused]}],
    }


def metadata(signature: Signature) -> dict[str, Any]:
    """The part of the Open Inference Protocol's model metadata that a version decides: what a request may carry, and
    what comes back."""
    types = signature.join_keys | {column.name: column.dtype for column in signature.request_columns}
    inputs = [_tensor(name, _DATATYPES.get(dtype, "BYTES")) for name, dtype in types.items()]
    inputs += [_tensor(name, "BYTES") for name in ("id", "event_timestamp") if name not in types]
    outputs = [_tensor("probability", "FP64"), _tensor("prediction_id", "BYTES")]
    return {"platform": "pytorch_torchserve", "inputs": inputs, "outputs": outputs}


def cluster_name(model: str, version: int) -> str:
    return f"{model}-{version}"


def command(door: Door) -> tuple[str, ...]:
    """Envoy's command line: one worker thread (a request costs it some 30 us), no hot restart."""
    return (
        str(_binary()),
        "--config-path",
        str(door.bootstrap_file),
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "warning",
        "--drain-time-s",
        "1",
        "--parent-shutdown-time-s",
        "2",
    )


def validation_command(path: Path) -> tuple[str, ...]:
    """The command that checks a configuration file and ends."""
    return (str(_binary()), "--mode", "validate", "--config-path", str(path), "--log-level", "error")


def _watched(file: Path) -> dict[str, Any]:
    source = {"path": str(file), "watched_directory": {"path": str(file.parent)}}
    return {"path_config_source": source, "resource_api_version": "V3"}


def _listener(door: Door) -> dict[str, Any]:
    return {
        "name": "front",
        "address": {"socket_address": {"address": LOOPBACK, "port_value": door.port}},
        # With port reuse a second server could take a share of the connections unnoticed.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": 1024 * 1024,
        "filter_chains": [
            {
                "filters": [
                    {"name": "envoy.filters.network.http_connection_manager", "typed_config": _connection_manager(door)}
                ]
            }
        ],
    }


def _connection_manager(door: Door) -> dict[str, Any]:
    return {
        "@type": _TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "front",
        "codec_type": "AUTO",
        "server_name": "serinus",
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "common_http_protocol_options": {
            "idle_timeout": "300s",
            "max_headers_count": 100,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "max_request_headers_kb": 32,
        "request_headers_timeout": "5s",
        "request_timeout": "30s",
        "stream_idle_timeout": "30s",
        "drain_timeout": "1s",
        "rds": {"route_config_name": ROUTES, "config_source": _watched(door.routes_file)},
        "local_reply_config": _local_replies(),
        "http_filters": _filters(),
    }


def _filters() -> list[dict[str, Any]]:
    """A body is read whole before it goes on, so that a slow client holds no place in a version's queue."""
    buffer = {"@type": _TYPE + "extensions.filters.http.buffer.v3.Buffer", "max_request_bytes": BODY_LIMIT}
    script = {"@type": _TYPE + "extensions.filters.http.lua.v3.Lua"}
    router = {"@type": _TYPE + "extensions.filters.http.router.v3.Router"}
    return [
        {"name": "envoy.filters.http.buffer", "typed_config": buffer},
        # Off but for the routes that turn it on: requests for predictions never pass it.
        {"name": _LUA, "disabled": True, "typed_config": script},
        {"name": "envoy.filters.http.router", "typed_config": router},
    ]


def _local_replies() -> dict[str, Any]:
    """Envoy's own refusals, as JSON like everyone else's."""
    too_large = f"the request's body is larger than {BODY_LIMIT} bytes"
    return {
        "mappers": [
            {"filter": _status("EQ", 413), "body_format_override": _error_format(too_large)},
            {"filter": _status("GE", 400), "body_format_override": _error_format("%LOCAL_REPLY_BODY%")},
        ]
    }


def _status(operator: str, value: int) -> dict[str, Any]:
    comparison = {"op": operator, "value": {"default_value": value, "runtime_key": "serinus.unused"}}
    return {"status_code_filter": {"comparison": comparison}}


def _error_format(text: str) -> dict[str, Any]:
    return {"json_format": {"error": text}, "content_type": _JSON}


def _cluster(name: str, port: int) -> dict[str, Any]:
    endpoint = {"address": {"socket_address": {"address": LOOPBACK, "port_value": port}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
        "circuit_breakers": {
            "thresholds": [{"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096}]
        },
    }


def _predict(door: Door, path: str, protocol: str, target: str) -> dict[str, Any]:
    action = {
        "prefix_rewrite": target,
        "timeout": _duration(door.timeout + _MARGIN),
        # Only what the version never received is sent again: a prediction is logged and counted once.
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset-before-request",
            "num_retries": 3,
            "retry_back_off": {"base_interval": "0.05s", "max_interval": "0.5s"},
        },
    }
    route = _to_versions(door, path, "POST", action)
    header = {"key": PROTOCOL_HEADER, "value": protocol}
    return route | {
        "request_headers_to_add": [{"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
    }


def _ready(door: Door, path: str) -> dict[str, Any]:
    action = {"prefix_rewrite": f"/models/{door.model}", **_seconds(_READY_TIMEOUT)}
    script = {"source_code": {"inline_string": _READY_SCRIPT}}
    per_route = {"@type": _TYPE + "extensions.filters.http.lua.v3.LuaPerRoute", **script}
    route = _to_versions(door, path, "GET", action, _MANAGEMENT)
    return route | {"typed_per_filter_config": {_LUA: per_route}}


def _to_versions(door: Door, path: str, method: str, action: dict[str, Any], suffix: str = "") -> dict[str, Any]:
    weighted = [
        {"name": cluster_name(door.model, each.version) + suffix, "weight": each.weight}
        for each in door.backends
        if each.weight > 0
    ]
    return {"match": _match(path, method), "route": {"weighted_clusters": {"clusters": weighted}, **action}}


def _description(door: Door) -> dict[str, Any]:
    """Model metadata: the versions that take requests, and the inputs and outputs of the one that takes the most."""
    serving = [each for each in door.backends if each.weight > 0]
    foremost = max(serving, key=lambda each: each.weight)
    return {"name": door.model, "versions": [str(each.version) for each in serving], **foremost.metadata}


def _metrics() -> dict[str, Any]:
    return {"match": _match("/metrics", "GET"), "route": {"cluster": _SIDECAR, **_seconds(timedelta(seconds=10))}}


def _direct(path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = {"status": 200, "body": {"inline_string": json.dumps(body)}}
    header = {"key": "content-type", "value": _JSON}
    return {
        "match": _match(path, "GET"),
        "direct_response": answer,
        "response_headers_to_add": [{"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
    }


def _refusals(model: str, paths: list[str]) -> list[dict[str, Any]]:
    method = "this path does not take this method"
    other = f"there is no such path here; the model is at /v2/models/{model}/infer"
    return [
        *({"match": {"path": path}, "direct_response": _refusal(405, method)} for path in paths),
        {"match": {"prefix": "/"}, "direct_response": _refusal(404, other)},
    ]


def _refusal(status: int, text: str) -> dict[str, Any]:
    return {"status": status, "body": {"inline_string": text}}


def _match(path: str, method: str) -> dict[str, Any]:
    return {"path": path, "headers": [{"name": ":method", "string_match": {"exact": method}}]}


def _tensor(name: str, datatype: str) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [-1]}


def _seconds(value: timedelta) -> dict[str, str]:
    return {"timeout": _duration(value)}


def _duration(value: timedelta) -> str:
    return f"{value.total_seconds():g}s"


def _binary() -> Path:
    spec = importlib.util.find_spec("envoy")
    places = list(spec.submodule_search_locations or []) if spec else []
    for place in places:
        binary = Path(place) / "_bin" / "envoy"
        if binary.exists():
            return binary
    raise EngineError("Envoy is not installed", hint="install Serinus with its extra `serve`")
