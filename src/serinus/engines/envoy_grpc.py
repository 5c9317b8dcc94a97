"""What lets gRPC clients in by the front door, to a server that speaks HTTP/1.1 (docs/decisions/0007-grpc.md).

A message in its gRPC frame is the body both ways. Envoy's bridge filter adds the trailer that says `ok`; the handler's
errors are headers alone, which is what gRPC calls trailers-only. Envoy's own refusals get the code that clients expect.
"""

from __future__ import annotations

from typing import Any

from serinus.engines.envoy_door import TYPE

GRPC = "application/grpc"
BRIDGE_FILTER = "envoy.filters.http.grpc_http1_reverse_bridge"

# gRPC's codes for statuses that Envoy would translate to UNKNOWN or UNAVAILABLE.
_RESOURCE_EXHAUSTED, _DEADLINE_EXCEEDED = 8, 4
_CODES = {413: _RESOURCE_EXHAUSTED, 429: _RESOURCE_EXHAUSTED, 504: _DEADLINE_EXCEEDED}
_OVERWRITE = "OVERWRITE_IF_EXISTS_OR_ADD"


def bridge() -> dict[str, Any]:
    """The filter between gRPC and HTTP/1.1, the outermost one; other requests pass it untouched."""
    config = {
        "@type": TYPE + "extensions.filters.http.grpc_http1_reverse_bridge.v3.FilterConfig",
        # Envoy's own refusals have it too. With any other type the filter would take them for wrong answers.
        "content_type": GRPC,
    }
    return {"name": BRIDGE_FILTER, "typed_config": config}


def reply_mappers(texts: dict[int, str]) -> list[dict[str, Any]]:
    """Mappers of Envoy's own refusals, to be put before those for HTTP.

    Args:
        texts: by status, what to say instead of Envoy's words.
    """
    special = [_mapper(status, texts.get(status, _ENVOYS_OWN), code) for status, code in _CODES.items()]
    return [*special, _mapper(None, _ENVOYS_OWN, None)]


_ENVOYS_OWN = "%LOCAL_REPLY_BODY%"


def _mapper(status: int | None, text: str, code: int | None) -> dict[str, Any]:
    filters: list[dict[str, Any]] = [
        {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": GRPC}}}}
    ]
    comparison = {"op": "EQ" if status else "GE", "value": {"default_value": status or 400, "runtime_key": "unused"}}
    filters.append({"status_code_filter": {"comparison": comparison}})
    mapper: dict[str, Any] = {
        "filter": {"and_filter": {"filters": filters}},
        # Plain text: it becomes the status message.
        "body_format_override": {"text_format_source": {"inline_string": text}, "content_type": GRPC},
    }
    if code is not None:
        header = {"key": "grpc-status", "value": str(code)}
        mapper["headers_to_add"] = [{"header": header, "append_action": _OVERWRITE}]
    return mapper
