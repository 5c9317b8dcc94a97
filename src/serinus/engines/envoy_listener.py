"""Envoy's bootstrap: the one listener with its filters and limits, and where the rest is read from. Fixed at start.

In the order of the filters, a request is counted against its client's quota, given its deadline and a trace, read whole
(so that a slow client holds no place in a version's queue), and sent on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serinus.core.times import format_duration
from serinus.engines import envoy_counts, envoy_grpc
from serinus.engines.envoy_clusters import sidecar
from serinus.engines.envoy_door import (
    HEADERS_FILTER,
    HEALTH_FILTER,
    JSON,
    LUA_FILTER,
    QUOTA,
    QUOTA_FILTER,
    ROUTES,
    TYPE,
    Door,
    duration,
)
from serinus.engines.envoy_routes import copies_configuration

_CONNECTIONS = 4096
_HEAP = 1024 * 1024 * 1024
_HEADERS_KB = 32
_HEADERS = 100
_HTTP_FILTER = TYPE + "extensions.filters.http."
_CLIENT = "client"


def bootstrap(door: Door) -> dict[str, Any]:
    """The configuration that Envoy is started with."""
    return {
        "node": {"id": "serinus", "cluster": door.model},
        "admin": {"address": {"pipe": {"path": str(door.admin), "mode": 0o600}}},
        "dynamic_resources": {"cds_config": watched(door.clusters_file)},
        "static_resources": {"listeners": list(_listeners(door)), "clusters": [sidecar(door)]},
        "overload_manager": _overload(),
    }


def watched(file: Path) -> dict[str, Any]:
    """A file that is read again whenever another takes its place."""
    source = {"path": str(file), "watched_directory": {"path": str(file.parent)}}
    return {"path_config_source": source, "resource_api_version": "V3"}


def _overload() -> dict[str, Any]:
    monitors = TYPE + "extensions.resource_monitors."
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": monitors + "downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": _CONNECTIONS,
                },
            },
            {
                "name": "envoy.resource_monitors.fixed_heap",
                "typed_config": {"@type": monitors + "fixed_heap.v3.FixedHeapConfig", "max_heap_size_bytes": _HEAP},
            },
        ],
        # Bodies are held while they come in: many large ones at once are refused with 503 before memory runs out.
        "actions": [
            {
                "name": "envoy.overload_actions.stop_accepting_requests",
                "triggers": [{"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": 0.9}}],
            }
        ],
    }


def _listeners(door: Door) -> Iterator[dict[str, Any]]:
    yield _listener("front", (door.address, door.port), _connection_manager(door))
    if door.copies_port is not None:
        manager = _connection_manager(door) | {"stat_prefix": "copies", "route_config": copies_configuration(door)}
        del manager["rds"]
        yield _listener("copies", (door.address, door.copies_port), manager)


def _listener(name: str, place: tuple[str, int], manager: dict[str, Any]) -> dict[str, Any]:
    address, port = place
    manager = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {
        "name": name,
        "address": {"socket_address": {"address": address, "port_value": port}},
        # With port reuse a second server could take a share of the connections unnoticed.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": 1024 * 1024,
        "filter_chains": [{"filters": [manager]}],
    }


def _connection_manager(door: Door) -> dict[str, Any]:
    return {
        "@type": TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "front",
        # HTTP/1.1, and HTTP/2 without TLS for gRPC, on the same port.
        "codec_type": "AUTO",
        "server_name": "serinus",
        "use_remote_address": True,
        # Nobody reads a chain of addresses behind this door, and each header is paid for in three processes.
        "skip_xff_append": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "request_id_extension": _request_ids(),
        "common_http_protocol_options": {
            "idle_timeout": "300s",
            "max_headers_count": _HEADERS,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 1024,
            "initial_stream_window_size": 256 * 1024,
            "initial_connection_window_size": 1024 * 1024,
        },
        "max_request_headers_kb": _HEADERS_KB,
        "request_headers_timeout": "5s",
        "request_timeout": "30s",
        "stream_idle_timeout": "30s",
        "drain_timeout": "1s",
        "rds": {"route_config_name": ROUTES, "config_source": watched(door.routes_file)},
        "local_reply_config": _local_replies(door),
        "access_log": [envoy_counts.request_log()],
        "http_filters": _filters(door),
    }


def _request_ids() -> dict[str, Any]:
    """Ids as they came: by default Envoy hides a tracing decision in one of their digits."""
    kind = TYPE + "extensions.request_id.uuid.v3.UuidRequestIdConfig"
    return {"typed_config": {"@type": kind, "pack_trace_reason": False}}


def _filters(door: Door) -> list[dict[str, Any]]:
    script = {"@type": _HTTP_FILTER + "lua.v3.Lua"}
    router = {"@type": _HTTP_FILTER + "router.v3.Router", "upstream_log": [envoy_counts.attempt_log()]}
    buffer = {"@type": _HTTP_FILTER + "buffer.v3.Buffer", "max_request_bytes": door.traffic.maximum_body}
    return [
        envoy_grpc.bridge(),
        _not_ready_when_draining(),
        *_quota(door),
        _traces(),
        {"name": "envoy.filters.http.buffer", "typed_config": buffer},
        # Off but for the routes that turn it on: requests for predictions never pass it.
        {"name": LUA_FILTER, "disabled": True, "typed_config": script},
        {"name": "envoy.filters.http.router", "typed_config": router},
    ]


def _not_ready_when_draining() -> dict[str, Any]:
    """Readiness is false as soon as the admin API is told `healthcheck/fail`; otherwise the workers decide."""
    config = {
        "@type": _HTTP_FILTER + "health_check.v3.HealthCheck",
        "pass_through_mode": True,
        "headers": [{"name": ":method", "string_match": {"exact": "GET"}}],
    }
    # Off but for the routes of readiness.
    return {"name": HEALTH_FILTER, "disabled": True, "typed_config": config}


def _traces() -> dict[str, Any]:
    """A request without a W3C trace context gets one that says `not sampled`; one that has it keeps it untouched.

    Envoy's tracers would make a span of their own. The id is the time, and digits of a random id that is thrown away.
    """
    scratch = "x-serinus-random"
    random, moment, fraction = f"%REQ({scratch}):8%", "%START_TIME(%s%9f)%", "%START_TIME(%8f)%"
    traceparent = f"00-00000{moment}{random}-{random}{fraction}-00"
    mutations = [
        {"append": {"header": {"key": scratch, "value": "%UNIQUE_ID%"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}},
        {"append": {"header": {"key": "traceparent", "value": traceparent}, "append_action": "ADD_IF_ABSENT"}},
        {"remove": scratch},
    ]
    config = {
        "@type": _HTTP_FILTER + "header_mutation.v3.HeaderMutation",
        "mutations": {"request_mutations": mutations},
    }
    return {"name": HEADERS_FILTER, "typed_config": config}


def _quota(door: Door) -> list[dict[str, Any]]:
    """A token bucket a client, made when its name is first seen; requests without a name share the default one."""
    quota = door.traffic.quota
    if quota is None:
        return []
    bucket = {
        "max_tokens": quota.requests,
        "tokens_per_fill": quota.requests,
        "fill_interval": duration(quota.per),
    }
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    config = {
        "@type": _HTTP_FILTER + "local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": QUOTA,
        "token_bucket": bucket,
        "always_consume_default_token_bucket": False,
        "filter_enabled": always,
        "filter_enforced": always,
        "descriptors": [{"entries": [{"key": _CLIENT}], "token_bucket": bucket}],
        "max_dynamic_descriptors": quota.clients,
        "rate_limits": [
            {"actions": [{"request_headers": {"header_name": quota.client_header, "descriptor_key": _CLIENT}}]}
        ],
        "enable_retry_after_header": True,
        "rate_limited_as_resource_exhausted": True,
    }
    return [{"name": QUOTA_FILTER, "typed_config": config}]


def _local_replies(door: Door) -> dict[str, Any]:
    """Envoy's own refusals, as JSON like everyone else's."""
    texts = {
        # Mostly what is no HTTP at all, of which Envoy has only a code word to say.
        400: "the request is refused: %RESPONSE_CODE_DETAILS% %LOCAL_REPLY_BODY%",
        413: f"the request's body is larger than {door.traffic.maximum_body} bytes",
    }
    if quota := door.traffic.quota:
        texts[429] = (
            f"the quota of {quota.requests} requests in {format_duration(quota.per)} for each {quota.client_header} "
            "is used up; Retry-After says in how many seconds there is more"
        )
    mappers = [{"filter": _status("EQ", code), "body_format_override": _error(text)} for code, text in texts.items()]
    rest = {"filter": _status("GE", 400), "body_format_override": _error("%LOCAL_REPLY_BODY%")}
    return {"mappers": [*envoy_grpc.reply_mappers(texts), *mappers, rest]}


def _status(operator: str, value: int) -> dict[str, Any]:
    comparison = {"op": operator, "value": {"default_value": value, "runtime_key": "serinus.unused"}}
    return {"status_code_filter": {"comparison": comparison}}


def _error(text: str) -> dict[str, Any]:
    return {"json_format": {"error": text}, "content_type": JSON}
