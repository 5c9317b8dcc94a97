"""Envoy's routes: the allow-list of paths, who gets which version, deadlines and retries. Any other path is 404.

Replacing the file that holds them changes them while requests are under way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from serinus.core import inference
from serinus.engines.envoy_door import (
    COPIES,
    HEADERS_FILTER,
    HEALTH_FILTER,
    JSON,
    LUA_FILTER,
    MANAGEMENT,
    NAMED,
    PROTOCOL_HEADER,
    QUOTA_FILTER,
    RECEIVED_HEADER,
    ROUTES,
    SHADOW_HEADER,
    SIDECAR,
    SPLIT,
    START_HEADER,
    TYPE,
    Backend,
    Door,
    cluster_name,
    destination,
    duration,
)

OUTCOMES_PATH = "/v1/outcomes"
"""Where applications report what really happened; the sidecar takes it."""
GRPC_SERVICE = "/inference.GRPCInferenceService/"
"""The Open Inference Protocol's service. TorchServe has one like it, which loses headers, errors and raw contents."""
GRPC_INFER = "ModelInfer"
GRPC_PROBES = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata")
_GRPC_NOT_FOUND = "5"
# What TorchServe itself refuses (a full queue, a worker that died) is JSON, which no gRPC client reads.
_GRPC_SCRIPT = """
function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get("content-type") == "application/grpc" then
    return
  end
  if headers:get(":status") == "507" then
    headers:replace(":status", "503")
  end
  headers:replace("content-type", "application/grpc")
  headers:remove("content-length")
  handle:body(true):setBytes("")
end
"""

# TorchServe's `/ping` and `/v2/health/ready` answer well while its workers die one after another; only the management
# API's description of the model tells. It becomes the protocol's answer here, on the readiness routes alone.
_READY_SCRIPT = """
function envoy_on_response(handle)
  local body = handle:body(true)
  local found = body:getBytes(0, body:length())
  local ready = string.find(found, '"status":%s*"READY"') ~= nil
  handle:headers():replace(":status", ready and "200" or "503")
  handle:headers():replace("content-type", "application/json")
  body:setBytes('{NAME"ready": ' .. (ready and "true}" or "false}"))
end
"""
_READY_TIMEOUT = timedelta(seconds=2)
_METRICS_TIMEOUT = timedelta(seconds=10)
# On top of TorchServe's own limit, so that its answer (which says more) comes first.
_MARGIN = timedelta(seconds=1)
_TEN_THOUSAND = 10_000
_OVERWRITE = "OVERWRITE_IF_EXISTS_OR_ADD"

Route = dict[str, Any]


def routes(door: Door) -> dict[str, Any]:
    """The resource that Envoy reads from the routes' file."""
    resource = {"@type": TYPE + "config.route.v3.RouteConfiguration", **route_configuration(door)}
    return {"version_info": str(door.revision), "resources": [resource]}


def copies_configuration(door: Door) -> dict[str, Any]:
    """The routes of the port for copies: predictions alone, each marked as a copy, and tried once. They are fixed at
    start, with the version that is stable then: Envoy reads one set of routes from a file."""
    plain = f"/predictions/{door.model}"
    paths = {f"/v2/models/{door.model}/infer": "v2", f"/v1/models/{door.model}:predict": "v1", plain: "plain"}
    action = {"cluster": cluster_name(door.model, door.stable) + COPIES, **_seconds(door.timeout + _MARGIN)}
    listed = {**paths, GRPC_SERVICE + GRPC_INFER: f"grpc/{GRPC_INFER}"}
    found = [
        _rewritten({"match": {"path": path, "headers": [_method("POST")]}, "route": dict(action)}, plain)
        | _marked(kind)
        for path, kind in listed.items()
    ]
    mark = {"header": {"key": SHADOW_HEADER, "value": "true"}, "append_action": _OVERWRITE}
    refused = {"match": {"prefix": "/"}, "direct_response": _refusal(404, "this port takes copies of predictions only")}
    return {
        "name": "copies",
        # The clusters are read from a file of their own, a moment later.
        "validate_clusters": False,
        "request_headers_to_add": [mark],
        "virtual_hosts": [{"name": "copies", "domains": ["*"], "routes": [*found, refused]}],
    }


def route_configuration(door: Door) -> dict[str, Any]:
    """The routes: predictions in three protocols and by gRPC to the versions, health, metadata, metrics, outcomes."""
    model = door.model
    allowed = [*_predictions(door), *_grpc(door), *_health(door), *_descriptions(door), _metrics(door), _outcomes(door)]
    refused = _refusals(model, allowed)
    return {
        "name": ROUTES,
        # A client's own mark would be believed; Envoy's word on the scheme nobody reads.
        "request_headers_to_remove": [SHADOW_HEADER, "x-forwarded-proto"],
        # Metadata names every column; the default limit of 4 kB is soon reached.
        "max_direct_response_body_size_bytes": 1024 * 1024,
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "routes": [*allowed, *refused],
                "retry_policy": _retries(),
                "include_request_attempt_count": True,
                # A body that was not kept could not be sent again, or copied.
                "request_body_buffer_limit": door.traffic.maximum_body,
            }
        ],
    }


def _predictions(door: Door) -> Iterator[Route]:
    model, plain = door.model, f"/predictions/{door.model}"
    paths = {f"/v2/models/{model}/infer": "v2", f"/v1/models/{model}:predict": "v1", plain: "plain"}
    for path, protocol in paths.items():
        match = {"path": path, "headers": [_method("POST")]}
        for route in _choices(door, match):
            yield from _in_time(door, _rewritten(route, plain) | _marked(protocol))
    for each in door.named:
        match = {"path": f"/v2/models/{model}/versions/{each.version}/infer", "headers": [_method("POST")]}
        route = {
            "name": NAMED,
            "match": match,
            "route": {"cluster": cluster_name(model, each.version), **_seconds(door.timeout + _MARGIN)},
        }
        yield from _in_time(door, _rewritten(route, plain) | _marked("v2"))


def _grpc(door: Door) -> Iterator[Route]:
    """The standard gRPC service, answered by the handler as everything else (docs/decisions/0007-grpc.md)."""
    plain = f"/predictions/{door.model}"
    infer = {"path": GRPC_SERVICE + GRPC_INFER, "headers": [_method("POST")]}
    for route in _choices(door, infer):
        if "route" in route:
            route["route"]["max_stream_duration"] = {"grpc_timeout_header_max": duration(door.timeout + _MARGIN)}
        else:
            route["response_headers_to_add"] = [{"header": {"key": "grpc-status", "value": _GRPC_NOT_FOUND}}]
        yield _refusals_by_grpc(_rewritten(route, plain) | _marked(f"grpc/{GRPC_INFER}"))
    for method in GRPC_PROBES:
        match = {"path": GRPC_SERVICE + method, "headers": [_method("POST")]}
        route = _rewritten({"match": match, "route": _split(door) | _seconds(_READY_TIMEOUT)}, plain)
        yield _refusals_by_grpc(_unlimited(door, route | _marked(f"grpc/{method}")))


def _refusals_by_grpc(route: Route) -> Route:
    per_route = {
        "@type": TYPE + "extensions.filters.http.lua.v3.LuaPerRoute",
        "source_code": {"inline_string": _GRPC_SCRIPT},
    }
    return route | {"typed_per_filter_config": {LUA_FILTER: per_route, **route.get("typed_per_filter_config", {})}}


def _choices(door: Door, match: dict[str, Any]) -> Iterator[Route]:
    """Routes of one path: those who ask for a version by name, then everyone else by weight."""
    header = door.traffic.version_header
    if header is not None:
        for backend in door.named:
            role = "canary" if backend.version == door.canary else "stable"
            named = _header(header, {"safe_regex": {"regex": f"{role}|{backend.version}"}})
            cluster = cluster_name(door.model, backend.version)
            action = {"cluster": cluster, **_seconds(door.timeout + _MARGIN)}
            yield {"name": NAMED, "match": _also(match, named), "route": action}
        absent = {"status": 404, "body": {"inline_string": f"{header} names a version that is not up"}}
        yield {"match": _also(match, {"name": header, "present_match": True}), "direct_response": absent}
    yield {"name": SPLIT, "match": match, "route": _split(door) | _shadow(door) | _seconds(door.timeout + _MARGIN)}


def _split(door: Door) -> dict[str, Any]:
    """By weight, the canary first: when its weight grows, those whom a hash gave the canary keep it."""
    names = [destination(door, backend) for backend in door.serving]
    if len(names) == 1:
        return {"cluster": names[0]}
    # A share, however small, stays one.
    first = min(_TEN_THOUSAND - 1, _fraction(door.serving[0].weight))
    weighted = [{"name": names[0], "weight": first}, {"name": names[1], "weight": _TEN_THOUSAND - first}]
    sticky = door.traffic.sticky
    if sticky is None:
        return {"weighted_clusters": {"clusters": weighted}}
    # Salted, so that it is not always the same people who try what is new.
    salted = {"pattern": {"regex": "^(.*)$"}, "substitution": f"{door.canary}:\\1"}
    policy = {"header": {"header_name": sticky.header, "regex_rewrite": salted}}
    return {"weighted_clusters": {"clusters": weighted, "use_hash_policy": True}, "hash_policy": [policy]}


def _fraction(percent: float) -> int:
    """Ten-thousandths, at least one."""
    return max(1, round(percent * _TEN_THOUSAND / 100))


def _shadow(door: Door) -> dict[str, Any]:
    copied = [each for each in door.backends if each.shadow > 0]
    mark = {"append": {"header": {"key": SHADOW_HEADER, "value": "true"}, "append_action": _OVERWRITE}}
    policies = [
        {
            "cluster": cluster_name(door.model, each.version) + COPIES,
            "runtime_fraction": {"default_value": {"numerator": _fraction(each.shadow), "denominator": "TEN_THOUSAND"}},
            "disable_shadow_host_suffix_append": True,
            "request_headers_mutations": [mark],
        }
        for each in copied
    ]
    return {"request_mirror_policies": policies} if policies else {}


def _retries() -> dict[str, Any]:
    """What got no answer at all is sent again, to the other version where there is one.

    An answer is never asked for again, whatever it says: overload would feed on itself, and a request that kills a
    worker would kill the other version's too.
    """
    return {
        "retry_on": "connect-failure,refused-stream,reset",
        "num_retries": 3,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.5s"},
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {
                "@type": TYPE + "extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                "update_frequency": 1,
            },
        },
    }


def _in_time(door: Door, route: Route) -> Iterator[Route]:
    """Before a route the same one for requests with a deadline: it becomes Envoy's time limit for the answer, and Envoy
    tells the handler of it. A deadline that is no number, or later than the predictor's own, is as none."""
    name, limit = door.traffic.deadline_header, round(door.timeout.total_seconds() * 1000)
    if name is not None and "route" in route:
        header = {"key": "x-envoy-upstream-rq-timeout-ms", "value": f"%REQ({name})%"}
        per_route = {
            "@type": TYPE + "extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
            "mutations": {"request_mutations": [{"append": {"header": header, "append_action": _OVERWRITE}}]},
        }
        bounded = {"name": name, "range_match": {"start": 1, "end": limit}}
        yield route | {
            "match": _also(route["match"], bounded),
            "typed_per_filter_config": {HEADERS_FILTER: per_route, **route.get("typed_per_filter_config", {})},
        }
    yield route


def _health(door: Door) -> Iterator[Route]:
    """Liveness and readiness are those of the stable version; a version's own readiness has a path of its own."""
    stable = next(each for each in door.backends if each.version == door.stable)
    alive = {"cluster": cluster_name(door.model, stable.version), "prefix_rewrite": "/v2/health/live"}
    yield _get(door, "/v2/health/live", {"route": alive | _seconds(_READY_TIMEOUT)})
    for path in ("/v2/health/ready", f"/v2/models/{door.model}/ready", f"/v1/models/{door.model}"):
        yield _ready(door, path, stable)
    for each in door.named:
        yield _ready(door, f"/v2/models/{door.model}/versions/{each.version}/ready", each)


def _ready(door: Door, path: str, backend: Backend) -> Route:
    name = "" if path.startswith("/v2/health") else f'"name": "{door.model}", '
    action = {
        "cluster": cluster_name(door.model, backend.version) + MANAGEMENT,
        "prefix_rewrite": f"/models/{door.model}",
        **_seconds(_READY_TIMEOUT),
    }
    per_route = {
        "@type": TYPE + "extensions.filters.http.lua.v3.LuaPerRoute",
        "source_code": {"inline_string": _READY_SCRIPT.replace("NAME", name)},
    }
    route = _get(door, path, {"route": action})
    own = {LUA_FILTER: per_route, HEALTH_FILTER: {"@type": TYPE + "config.route.v3.FilterConfig", "config": {}}}
    return route | {"typed_per_filter_config": {**own, **route.get("typed_per_filter_config", {})}}


def _descriptions(door: Door) -> Iterator[Route]:
    """Metadata: the versions that are up, and the inputs and outputs of the one that takes the most requests."""
    foremost = max(door.serving, key=lambda each: each.weight)
    versions = [str(each.version) for each in door.serving]
    yield _direct(door, "/v2", inference.server_metadata())
    yield _direct(door, "/", {"status": "alive"})  # how KServe's V1 client asks
    yield _direct(door, "/v1/models", {"models": [door.model]})
    yield _direct(door, "/openapi.json", foremost.openapi)
    yield _direct(door, f"/v2/models/{door.model}", {"name": door.model, "versions": versions, **foremost.metadata})
    for each in door.named:
        body = {"name": door.model, "versions": [str(each.version)], **each.metadata}
        yield _direct(door, f"/v2/models/{door.model}/versions/{each.version}", body)


def _metrics(door: Door) -> Route:
    return _get(door, "/metrics", {"route": {"cluster": SIDECAR, **_seconds(_METRICS_TIMEOUT)}})


def _outcomes(door: Door) -> Route:
    """Outcomes that applications report. One that comes twice does no harm, so it is sent again."""
    action = {
        "cluster": SIDECAR,
        **_seconds(_METRICS_TIMEOUT),
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset",
            "num_retries": 5,
            "retry_back_off": {"base_interval": "0.1s", "max_interval": "2s"},
        },
    }
    return _unlimited(door, {"match": {"path": OUTCOMES_PATH, "headers": [_method("POST")]}, "route": action})


def _direct(door: Door, path: str, body: dict[str, Any]) -> Route:
    route = _get(door, path, {"direct_response": {"status": 200, "body": {"inline_string": json.dumps(body)}}})
    header = {"key": "content-type", "value": JSON}
    return route | {"response_headers_to_add": [{"header": header, "append_action": _OVERWRITE}]}


def _refusals(model: str, allowed: list[Route]) -> list[Route]:
    methods = {
        each["match"]["path"]: header["string_match"]["exact"]
        for each in allowed
        for header in each["match"]["headers"]
        if header["name"] == ":method"
    }
    wrong = _refusal(405, "this path does not take this method")
    other = _refusal(404, f"there is no such path here; the model is at /v2/models/{model}/infer")
    taken = [
        {
            "match": {"path": path},
            "direct_response": wrong,
            "response_headers_to_add": [{"header": {"key": "allow", "value": method}}],
        }
        for path, method in methods.items()
    ]
    return [*taken, {"match": {"prefix": "/"}, "direct_response": other}]


def _refusal(status: int, text: str) -> dict[str, Any]:
    return {"status": status, "body": {"inline_string": text}}


def _get(door: Door, path: str, action: dict[str, Any]) -> Route:
    return _unlimited(door, {"match": {"path": path, "headers": [_method("GET")]}, **action})


def _unlimited(door: Door, route: Route) -> Route:
    """A quota counts predictions alone."""
    if door.traffic.quota is None:
        return route
    off = {"@type": TYPE + "config.route.v3.FilterConfig", "disabled": True}
    return route | {"typed_per_filter_config": {QUOTA_FILTER: off}}


def _rewritten(route: Route, path: str) -> Route:
    return route if "route" not in route else route | {"route": {"prefix_rewrite": path, **route["route"]}}


def _marked(protocol: str) -> dict[str, Any]:
    values = {
        PROTOCOL_HEADER: protocol,
        START_HEADER: "%START_TIME(%s.%6f)%",
        RECEIVED_HEADER: "%REQUEST_DURATION%",
    }
    headers = [{"header": {"key": key, "value": value}, "append_action": _OVERWRITE} for key, value in values.items()]
    return {"request_headers_to_add": headers}


def _also(match: dict[str, Any], header: dict[str, Any]) -> dict[str, Any]:
    return match | {"headers": [*match["headers"], header]}


def _method(name: str) -> dict[str, Any]:
    return _header(":method", {"exact": name})


def _header(name: str, wanted: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "string_match": wanted}


def _seconds(value: timedelta) -> dict[str, str]:
    return {"timeout": duration(value)}
