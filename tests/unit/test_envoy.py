"""Envoy's configuration: a pure function, compared with what was read and approved."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.control.shares import shared
from serinus.control.state import Canary
from serinus.core.signature import Column, Signature, View
from serinus.core.spec import Traffic
from serinus.core.spec.traffic import Drain, Limits, Quota, Sticky
from serinus.engines.envoy import PROTOCOL_HEADER, Backend, Door, bootstrap, clusters, metadata, routes

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


STABLE = Backend(version=3, port=20001, management_port=20011, weight=100, metadata=metadata(SIGNATURE))
CANARY = Backend(version=4, port=20009, management_port=20019, weight=0, metadata={"platform": "new"})


def door(**changes: Any) -> Door:
    base: dict[str, Any] = {
        "model": "flights",
        "port": 8080,
        "admin": Path("/run/x/envoy.sock"),
        "folder": Path("/srv/envoy"),
        "sidecar_port": 20002,
        "timeout": timedelta(seconds=10),
        "backends": (STABLE,),
        "stable": 3,
        "revision": 1,
    }
    return Door(**{**base, **changes})


def with_canary(weight: float, shadow: float = 0, **changes: Any) -> Door:
    """Version 3 is stable, version 4 the canary, and version 5 is being drained."""
    idle = CANARY.model_copy(update={"version": 5, "port": 20010, "management_port": 20020})
    share = Canary(version=4, digest="", weight=weight, shadow=shadow)
    return shared(door(backends=(STABLE, CANARY, idle), revision=0, **changes), 3, share)


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


EVERYTHING = Traffic(
    sticky=Sticky(header="x-user-id"),
    quota=Quota(requests=100, per=timedelta(seconds=10), client_header="x-api-key", clients=500),
    limits=Limits(connections=10, requests=20, waiting=30),
    maximum_body=1_000_000,
    version_header="x-model-version",
    deadline_header="x-deadline-ms",
    drain=Drain(notice=timedelta(seconds=3)),
)


def test_a_canary_with_everything_is_as_approved() -> None:
    found = with_canary(5, traffic=EVERYTHING)
    approved("envoy-canary-routes.json", routes(found))
    approved("envoy-canary-clusters.json", clusters(found))
    approved("envoy-canary-bootstrap.json", bootstrap(found))


def test_each_protocol_reaches_the_handler_under_its_name() -> None:
    names = {
        path: route["request_headers_to_add"][0]["header"]["value"]
        for path, route in routed(door()).items()
        if "request_headers_to_add" in route
    }
    http = {path: name for path, name in names.items() if not path.startswith("/inference.")}
    assert http == {
        "/v2/models/flights/infer": "v2",
        "/v2/models/flights/versions/3/infer": "v2",
        "/v1/models/flights:predict": "v1",
        "/predictions/flights": "plain",
    }
    header = routed(door())["/predictions/flights"]["request_headers_to_add"][0]
    assert header["header"]["key"] == PROTOCOL_HEADER
    assert header["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"


def test_what_is_not_listed_is_refused_last() -> None:
    listed = routes(door())["resources"][0]["virtual_hosts"][0]["routes"]
    assert listed[-1]["match"] == {"prefix": "/"}
    assert listed[-1]["direct_response"]["status"] == 404
    assert not any("prefix" in route["match"] for route in listed[:-1]), "each open path is named in full"


def everyone(found: Door) -> dict[str, Any]:
    """Where a request goes that names no version."""
    listed = routes(found)["resources"][0]["virtual_hosts"][0]["routes"]
    route = [each for each in listed if each["match"].get("path") == "/v2/models/flights/infer" and "route" in each][-1]
    action: dict[str, Any] = route["route"]
    return action


def test_a_share_goes_to_its_version_and_from_there_to_the_other() -> None:
    found = with_canary(5)
    assert everyone(found)["weighted_clusters"]["clusters"] == [
        {"name": "flights-4-else-3", "weight": 500},
        {"name": "flights-3-else-4", "weight": 9500},
    ]
    named = {each["name"]: each for each in clusters(found)["resources"]}
    assert set(named) == {
        *(f"flights-{number}{suffix}" for number in (3, 4, 5) for suffix in ("", "-shadow", "-management")),
        "flights-4-else-3",
        "flights-3-else-4",
    }
    order = named["flights-4-else-3"]["cluster_type"]["typed_config"]["clusters"]
    assert order == ["flights-4", "flights-3"]
    description = json.loads(routed(found)["/v2/models/flights"]["direct_response"]["body"]["inline_string"])
    assert description["versions"] == ["4", "3"]
    assert description["inputs"], "the inputs of the version that takes the most requests"


def test_without_fallback_or_without_weight_a_share_goes_to_its_version_alone() -> None:
    apart = everyone(with_canary(5, traffic=Traffic(fallback=False)))
    assert [each["name"] for each in apart["weighted_clusters"]["clusters"]] == ["flights-4", "flights-3"]
    assert everyone(with_canary(0))["cluster"] == "flights-3"
    assert everyone(with_canary(100))["cluster"] == "flights-4"


def test_a_shadow_gets_a_fraction_and_no_answer_of_its_own() -> None:
    action = everyone(with_canary(0, shadow=0.25))
    assert action["cluster"] == "flights-3"
    (policy,) = action["request_mirror_policies"]
    assert policy["cluster"] == "flights-4-shadow"
    assert policy["runtime_fraction"]["default_value"] == {"numerator": 25, "denominator": "TEN_THOUSAND"}


@given(st.floats(0, 100), st.sampled_from([Traffic(), EVERYTHING]))
def test_weights_always_add_up(weight: float, traffic: Traffic) -> None:
    action = everyone(with_canary(weight, traffic=traffic))
    if "cluster" in action:
        assert action["cluster"] in ("flights-3", "flights-4")
        return
    weights = [each["weight"] for each in action["weighted_clusters"]["clusters"]]
    assert sum(weights) == 10_000
    assert min(weights) >= 1, "a version with a share, however small, gets one"
    assert abs(weights[0] / 100 - weight) <= 0.01


def test_every_route_names_a_cluster_that_there_is() -> None:
    for found in (door(), with_canary(5), with_canary(0, 5), with_canary(5, traffic=EVERYTHING)):
        there = {each["name"] for each in clusters(found)["resources"]}
        there |= {each["name"] for each in bootstrap(found)["static_resources"]["clusters"]}
        for route in routes(found)["resources"][0]["virtual_hosts"][0]["routes"]:
            action = route.get("route", {})
            named = {each["name"] for each in action.get("weighted_clusters", {}).get("clusters", [])}
            named |= {each["cluster"] for each in action.get("request_mirror_policies", [])}
            named |= {action["cluster"]} if "cluster" in action else set()
            assert named <= there


def test_while_routes_change_the_clusters_of_both_are_there() -> None:
    before, after = with_canary(5), with_canary(0)
    names = {each["name"] for each in clusters(after, before)["resources"]}
    assert "flights-4-else-3" in names
    assert "flights-4-else-3" not in {each["name"] for each in clusters(after)["resources"]}


def test_a_version_behind_a_socket_is_asked_for_its_health_on_its_management_port() -> None:
    socket = Path("/run/x/torchserve-3/front.sock")
    found = clusters(door(backends=(STABLE.model_copy(update={"port": 0, "socket": socket}),)))["resources"]
    places = {each["name"]: each["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"] for each in found}
    management = {"socket_address": {"address": "127.0.0.1", "port_value": 20011}}
    pipe = {"pipe": {"path": str(socket)}}
    assert places == {
        "flights-3": {"address": pipe, "hostname": "flights-3", "health_check_config": {"address": management}},
        "flights-3-shadow": {"address": pipe, "hostname": "flights-3-shadow"},
        "flights-3-management": {"address": management, "hostname": "flights-3-management"},
    }


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


def test_only_a_quota_counts_and_predictions_alone() -> None:
    assert "local_ratelimit" not in json.dumps([bootstrap(door()), routes(door())])
    found = with_canary(5, traffic=EVERYTHING)
    for route in routes(found)["resources"][0]["virtual_hosts"][0]["routes"]:
        counted = "envoy.filters.http.local_ratelimit" not in route.get("typed_per_filter_config", {})
        path = route["match"].get("path", "")
        infers = path.endswith(("infer", ":predict", "/predictions/flights", "ModelInfer"))
        if "route" in route:
            assert counted == infers, path


def test_a_revision_changes_only_the_version_of_routes_and_clusters() -> None:
    first, second = door(revision=1), door(revision=2)
    assert bootstrap(first) == bootstrap(second)
    assert {**routes(first), "version_info": "2"} == routes(second)
    assert {**clusters(first), "version_info": "2"} == clusters(second)
