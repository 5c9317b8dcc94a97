"""Envoy: the only door to TorchServe. Its configuration is made by pure functions (see `envoy_admin` for changes).

The listener is fixed at start (`envoy_listener`). Routes, with the weights of versions (`envoy_routes`), and clusters,
some a version (`envoy_clusters`), are read from files in watched folders, so that replacing a file changes them while
requests are under way. The admin API is a Unix socket in a folder of the user's own: on a TCP port any local user, or a
web page, could stop the server.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from serinus.core.errors import EngineError
from serinus.core.inference import model_metadata as metadata
from serinus.engines.envoy_clusters import clusters
from serinus.engines.envoy_door import (
    PROTOCOL_HEADER,
    ROUTES,
    SHADOW_HEADER,
    Backend,
    Door,
    cluster_name,
)
from serinus.engines.envoy_listener import bootstrap
from serinus.engines.envoy_routes import route_configuration, routes

__all__ = [
    "Backend",
    "Door",
    "PROTOCOL_HEADER",
    "ROUTES",
    "SHADOW_HEADER",
    "bootstrap",
    "cluster_name",
    "clusters",
    "command",
    "configuration",
    "metadata",
    "route_configuration",
    "routes",
    "validation_command",
]


def configuration(door: Door) -> dict[Path, dict[str, Any]]:
    """Every file of Envoy's configuration: the fixed bootstrap, the clusters, the routes."""
    return {door.bootstrap_file: bootstrap(door), door.clusters_file: clusters(door), door.routes_file: routes(door)}


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


def _binary() -> Path:
    spec = importlib.util.find_spec("envoy")
    places = list(spec.submodule_search_locations or []) if spec else []
    for place in places:
        binary = Path(place) / "_bin" / "envoy"
        if binary.exists():
            return binary
    raise EngineError("Envoy is not installed", hint="install Serinus with its extra `serve`")
