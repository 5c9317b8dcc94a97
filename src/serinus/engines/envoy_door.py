"""What Envoy is to do, and how its parts are called: shared by the modules that write its configuration."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from serinus.core.spec.traffic import Traffic
from serinus.engines.ports import LOOPBACK

TYPE = "type.googleapis.com/envoy."
JSON = "application/json"
ROUTES = "serinus"
SIDECAR = "sidecar"
MANAGEMENT = "-management"
COPIES = "-shadow"
"""Clusters of a version beside that for requests: what tells its readiness, and what takes copies."""
SPLIT = "split"
NAMED = "named"
"""Names of routes for predictions: by weight, and for who asks for a version. Nothing else has one."""

QUOTA_FILTER = "envoy.filters.http.local_ratelimit"
HEALTH_FILTER = "envoy.filters.http.health_check"
HEADERS_FILTER = "envoy.filters.http.header_mutation"
LUA_FILTER = "envoy.filters.http.lua"

QUOTA = "quota"
QUOTA_STATISTICS = {
    "allowed": f"{QUOTA}.http_local_rate_limit.ok",
    "refused": f"{QUOTA}.http_local_rate_limit.rate_limited",
}
"""How Envoy counts requests that quotas let through, and those that they do not."""

PROTOCOL_HEADER = "x-serinus-protocol"
"""Tells the handler which protocol a request speaks: `v2`, `v1`, `plain` or `grpc/METHOD`. A client cannot set it."""
START_HEADER = "x-serinus-start"
"""When a request came, in seconds since 1970: tells the handler how long it has waited. A client cannot set it."""
RECEIVED_HEADER = "x-serinus-received"
"""How long it took to arrive whole, in milliseconds: its deadline runs from then. A client cannot set it."""
LEFT_HEADER = "x-envoy-expected-rq-timeout-ms"
"""Envoy's own: milliseconds from then to the deadline, less what earlier attempts took."""
ATTEMPT_HEADER = "x-envoy-attempt-count"
"""Envoy's own: 1 at the first attempt."""
SHADOW_HEADER = "x-serinus-shadow"
"""Marks the copy of a request whose answer nobody sees: counted and logged as `shadow`. A client cannot set it."""


class Backend(BaseModel):
    """One model version: where its TorchServe listens, its percent of the requests, and what requests may carry.

    It listens on `socket`, a Unix socket, where there is one: that costs Envoy a quarter less than `port`.
    `shadow` is the percent of requests that it gets a copy of. `management_port` is asked for nothing but readiness.
    `metadata` comes from `core.inference`, `openapi` is the document that describes its HTTP interface.
    """

    model_config = ConfigDict(frozen=True)

    version: int
    port: int = 0
    socket: Path | None = None
    management_port: int
    weight: float
    shadow: float = 0
    metadata: dict[str, Any]
    openapi: dict[str, Any] = {}


class Door(BaseModel):
    """What Envoy is to do. `folder` holds its files, `admin` is the path of its admin socket, `port` the front port.

    `stable` and `canary` are the roles that a request may name; a backend without a role is being started or drained.
    `revision` counts changes of the dynamic part, so that it can be seen when Envoy has taken one over. Everything that
    comes by `copies_port`, if there is one, is a copy for the stable version: who sends copies from elsewhere, as a
    cluster's Gateway does, can mark them in no other way.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    port: int
    address: str = LOOPBACK
    copies_port: int | None = None
    admin: Path
    folder: Path
    sidecar_port: int
    timeout: timedelta
    traffic: Traffic = Traffic()
    backends: tuple[Backend, ...]
    stable: int
    canary: int | None = None
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

    @property
    def serving(self) -> tuple[Backend, ...]:
        """The versions that answer requests, the canary first."""
        found = (each for each in self.backends if each.weight > 0)
        return tuple(sorted(found, key=lambda each: each.version != self.canary))

    @property
    def named(self) -> tuple[Backend, ...]:
        """The versions that a request may ask for by name: the canary and the stable one."""
        return tuple(each for each in self.backends if each.version in (self.canary, self.stable))


def cluster_name(model: str, version: int) -> str:
    """The cluster of one version, and the name of its statistics."""
    return f"{model}-{version}"


def destination(door: Door, backend: Backend) -> str:
    """Where requests of a version's share go: to its cluster, or to the one that falls back on the other version."""
    others = [each for each in door.serving if each.version != backend.version]
    own = cluster_name(door.model, backend.version)
    return f"{own}-else-{others[0].version}" if others and door.traffic.fallback else own


def duration(value: timedelta) -> str:
    """A time as protobuf writes it in JSON."""
    return f"{value.total_seconds():g}s"
