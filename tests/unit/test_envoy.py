"""Envoy's configuration: a pure function, compared with what was read and approved."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from serinus.core.signature import Column, Signature, View
from serinus.engines.envoy import BODY_LIMIT, PROTOCOL_HEADER, Backend, Door, bootstrap, clusters, metadata, routes

GOLDEN = Path(__file__).parent / "golden"

SIGNATURE = Signature(
    model="flights",
    feature_service="flights_v1",
    join_keys={"origin": "String", "flight": "Int64"},
    views=(View(name="hourly", join_keys=("origin",), ttl_seconds=7200),),
    columns=(
        Column(name="distance", kind="number", dtype="Float64"),
        Column(name="weekend", kind="number", dtype="Bool"),
        Column(name="hourly__delay", kind="number", dtype="Float64", view="hourly"),
    ),
)


def door(**changes: Any) -> Door:
    base: dict[str, Any] = {
        "model": "flights",
        "port": 8080,
        "admin": Path("/run/x/envoy.sock"),
        "folder": Path("/srv/envoy"),
        "sidecar_port": 20002,
        "timeout": timedelta(seconds=10),
        "backends": (Backend(version=3, port=20001, management_port=20011, weight=100, metadata=metadata(SIGNATURE)),),
        "revision": 1,
    }
    return Door(**{**base, **changes})


def approved(name: str, found: dict[str, Any]) -> None:
    """Compare with the approved file; where there is none, write what was found, for a human to read and commit."""
    path = GOLDEN / name
    text = json.dumps(found, indent=2) + "\n"
    if not path.exists():
        path.write_text(text)
        pytest.fail(f"{path} was missing and has been written: read it, then commit it")
    assert text == path.read_text(), f"{name} changed; delete it, run the test again and read the difference"


def routed(found: Door) -> dict[str, dict[str, Any]]:
    """The first route of each exact path."""
    listed = routes(found)["resources"][0]["virtual_hosts"][0]["routes"]
    return {route["match"]["path"]: route for route in reversed(listed) if "path" in route["match"]}


def test_bootstrap_is_as_approved() -> None:
    approved("envoy-bootstrap.json", bootstrap(door()))


def test_routes_are_as_approved() -> None:
    approved("envoy-routes.json", routes(door()))


def test_clusters_are_as_approved() -> None:
    approved("envoy-clusters.json", clusters(door()))


def test_only_listed_paths_are_routed_and_the_rest_is_refused_last() -> None:
    listed = routes(door())["resources"][0]["virtual_hosts"][0]["routes"]
    assert set(routed(door())) == {
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/flights",
        "/v2/models/flights/ready",
        "/v2/models/flights/infer",
        "/v1/models/flights",
        "/v1/models/flights:predict",
        "/predictions/flights",
        "/metrics",
    }
    assert listed[-1]["match"] == {"prefix": "/"}
    assert listed[-1]["direct_response"]["status"] == 404


def test_each_protocol_reaches_the_handler_under_its_name() -> None:
    names = {
        path: route["request_headers_to_add"][0]["header"]["value"]
        for path, route in routed(door()).items()
        if "request_headers_to_add" in route
    }
    assert names == {
        "/v2/models/flights/infer": "v2",
        "/v1/models/flights:predict": "v1",
        "/predictions/flights": "plain",
    }
    header = routed(door())["/predictions/flights"]["request_headers_to_add"][0]
    assert header["header"]["key"] == PROTOCOL_HEADER
    assert header["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"


def test_weights_go_to_their_versions_and_a_version_without_weight_gets_nothing() -> None:
    new = Backend(version=4, port=20009, management_port=20019, weight=5, metadata={})
    old = Backend(version=3, port=20001, management_port=20011, weight=95, metadata=metadata(SIGNATURE))
    idle = Backend(version=5, port=20010, management_port=20020, weight=0, metadata={})
    found = door(backends=(old, new, idle))
    weighted = routed(found)["/v2/models/flights/infer"]["route"]["weighted_clusters"]["clusters"]
    assert weighted == [{"name": "flights-3", "weight": 95}, {"name": "flights-4", "weight": 5}]
    names = [each["name"] for each in clusters(found)["resources"]]
    assert names == [f"flights-{number}{suffix}" for number in (3, 4, 5) for suffix in ("", "-management")]
    asked = routed(found)["/v2/models/flights/ready"]["route"]
    assert [each["name"] for each in asked["weighted_clusters"]["clusters"]] == [
        "flights-3-management",
        "flights-4-management",
    ]
    assert asked["prefix_rewrite"] == "/models/flights", "nothing else of the management API is reachable"
    description = json.loads(routed(found)["/v2/models/flights"]["direct_response"]["body"]["inline_string"])
    assert description["versions"] == ["3", "4"]
    assert description["inputs"], "the inputs of the version that takes the most requests"


def test_metadata_names_what_a_request_carries_and_not_what_the_store_adds() -> None:
    found = metadata(SIGNATURE)
    assert [(each["name"], each["datatype"]) for each in found["inputs"]] == [
        ("origin", "BYTES"),
        ("flight", "INT64"),
        ("distance", "FP64"),
        ("weekend", "BOOL"),
        ("id", "BYTES"),
        ("event_timestamp", "BYTES"),
    ]
    assert [each["name"] for each in found["outputs"]] == ["probability", "prediction_id"]


def test_everything_listens_on_the_loopback_or_on_a_socket_of_the_users() -> None:
    found = bootstrap(door())
    listener = found["static_resources"]["listeners"][0]
    assert listener["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 8080}
    assert listener["enable_reuse_port"] is False
    assert found["admin"]["address"]["pipe"] == {"path": "/run/x/envoy.sock", "mode": 0o600}
    for cluster in clusters(door())["resources"]:
        endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        assert endpoint["address"]["socket_address"]["address"] == "127.0.0.1"


def test_a_body_is_bounded() -> None:
    text = json.dumps(bootstrap(door()))
    assert f'"max_request_bytes": {BODY_LIMIT}' in text


def test_a_revision_changes_only_the_version_of_routes_and_clusters() -> None:
    first, second = door(revision=1), door(revision=2)
    assert bootstrap(first) == bootstrap(second)
    assert {**routes(first), "version_info": "2"} == routes(second)
    assert {**clusters(first), "version_info": "2"} == clusters(second)
