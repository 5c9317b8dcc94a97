"""Envoy's clusters: where each version listens, when it counts as dead, and what answers in its place.

A version has a cluster for predictions, one for copies and one for readiness, all on the loopback. Where two versions
share the requests, each share goes to an *aggregate* cluster: the version itself, then the other one. A retry goes to
the other one, and so does everything as soon as the version is known to be dead. What became of each attempt
`envoy_counts` tells. A name says what is in the aggregate, so that none is ever changed while requests are in it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from serinus.core.spec.traffic import Limits
from serinus.engines.envoy_door import (
    COPIES,
    MANAGEMENT,
    SIDECAR,
    TYPE,
    Backend,
    Door,
    cluster_name,
    destination,
    duration,
)
from serinus.engines.ports import LOOPBACK

_CONNECT = "1s"
# By default Envoy tells its worker thread of changes of health once a second.
_AT_ONCE = {"update_merge_window": "0s"}
_ASK_EVERY = timedelta(milliseconds=250)
_ASK_TIMEOUT = timedelta(seconds=3)
# TorchServe's management API describes the model and its workers; the word appears only as a worker's status.
_READY_WORD = '"READY"'


def clusters(door: Door, before: Door | None = None) -> dict[str, Any]:
    """Every cluster that routes may name: three a version, and those that fall back. With `before`, also those that its
    routes name: for the time until the routes have changed too."""
    listed = _clusters(door) + (_clusters(before) if before else [])
    found = {each["name"]: each for each in reversed(listed)}
    resources = [{"@type": TYPE + "config.cluster.v3.Cluster", **found[name]} for name in sorted(found)]
    return {"version_info": str(door.revision), "resources": resources}


def _clusters(door: Door) -> list[dict[str, Any]]:
    found = [cluster for backend in door.backends for cluster in _of_version(door, backend)]
    for backend in door.serving:
        name = destination(door, backend)
        if name != cluster_name(door.model, backend.version):
            order = [backend, *(each for each in door.serving if each.version != backend.version)]
            found.append(_aggregate(door, name, order))
    return found


def sidecar(door: Door) -> dict[str, Any]:
    """The cluster of the process that exposes metrics."""
    return _static(SIDECAR, _on_port(door.sidecar_port)) | _breakers(Limits())


def _of_version(door: Door, backend: Backend) -> list[dict[str, Any]]:
    name, limits = cluster_name(door.model, backend.version), _breakers(door.traffic.limits)
    watched = limits | _watch(door.model)
    management = _on_port(backend.management_port)
    place, asked = _on_port(backend.port), _asked_on(backend.management_port)
    if backend.socket is not None:
        place, asked = {"pipe": {"path": str(backend.socket)}}, {"address": management}
    return [
        _static(name, place, asked) | watched,
        # Of its own, so that what became of copies can be told from what became of requests.
        _static(name + COPIES, place) | limits,
        _static(name + MANAGEMENT, management) | _breakers(Limits()),
    ]


def _on_port(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": LOOPBACK, "port_value": port}}


def _asked_on(port: int) -> dict[str, Any]:
    return {"port_value": port}


def _static(name: str, place: dict[str, Any], asked: dict[str, Any] | None = None) -> dict[str, Any]:
    endpoint: dict[str, Any] = {"address": place, "hostname": name}
    if asked is not None:
        endpoint["health_check_config"] = asked
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": _CONNECT,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    }


def _aggregate(door: Door, name: str, order: list[Backend]) -> dict[str, Any]:
    listed = [cluster_name(door.model, each.version) for each in order]
    config = {"@type": TYPE + "extensions.clusters.aggregate.v3.ClusterConfig", "clusters": listed}
    return {
        "name": name,
        "connect_timeout": _CONNECT,
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {"name": "envoy.clusters.aggregate", "typed_config": config},
        # Otherwise requests would still go to a dead version while less than half of all is healthy.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, **_AT_ONCE},
        **_breakers(door.traffic.limits),
    }


def _breakers(limits: Limits) -> dict[str, Any]:
    """What a version may hold at once. When one dies, all that it held may be tried again: Envoy's default is 3."""
    threshold = {
        "max_connections": limits.connections,
        "max_pending_requests": limits.waiting,
        "max_requests": limits.requests,
        "max_retries": limits.requests,
    }
    return {"circuit_breakers": {"thresholds": [threshold]}}


def _watch(model: str) -> dict[str, Any]:
    """Take a version out when its workers are not ready, and at once when its server cannot be reached.

    What it answers plays no part: a version whose answers are errors is for the rollout to judge, and to be seen.
    """
    return {
        "common_lb_config": _AT_ONCE,
        "health_checks": [
            {
                "timeout": duration(_ASK_TIMEOUT),
                "interval": duration(_ASK_EVERY),
                "no_traffic_interval": duration(_ASK_EVERY),
                "no_traffic_healthy_interval": duration(_ASK_EVERY),
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "http_health_check": {
                    "path": f"/models/{model}",
                    "host": "serinus",
                    "receive": [{"text": _READY_WORD.encode().hex()}],
                    "response_buffer_size": 1024 * 1024,
                },
            }
        ],
        "outlier_detection": {
            "interval": duration(_ASK_EVERY),
            "base_ejection_time": "1s",
            "max_ejection_time": "1s",
            "max_ejection_percent": 100,
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 2,
            "enforcing_consecutive_local_origin_failure": 100,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
        },
    }
