"""A running Envoy: writes the files that it watches, and asks its admin API what it made of them."""

from __future__ import annotations

import json
from typing import Any

from serinus.core.errors import EngineError
from serinus.engines.envoy import ROUTES, Door, cluster_name, clusters, configuration, routes
from serinus.engines.files import write_text
from serinus.engines.waiting import wait_until


def write(door: Door) -> None:
    """Write the dynamic part, clusters before routes, each file replaced in one step; the bootstrap only once."""
    for path, content in configuration(door).items():
        if path != door.bootstrap_file or not path.exists():
            write_text(path, json.dumps(content, indent=2) + "\n")


def write_clusters(door: Door) -> None:
    write_text(door.clusters_file, json.dumps(clusters(door), indent=2) + "\n")


def write_routes(door: Door) -> None:
    write_text(door.routes_file, json.dumps(routes(door), indent=2) + "\n")


def await_clusters(door: Door, seconds: float) -> None:
    """Wait until Envoy has taken over the clusters of `door.revision`.

    Raises:
        EngineError: it refused them, or did not within the time.
    """
    _await_revision(door, "cluster_manager.cds", seconds)


def await_routes(door: Door, seconds: float) -> None:
    """As `await_clusters`, for the routes."""
    _await_revision(door, f"http.front.rds.{ROUTES}", seconds)


def requests_under_way(door: Door, version: int) -> int:
    """Requests that a version has taken and not yet answered."""
    name = f"cluster.{cluster_name(door.model, version)}.upstream_rq_active"
    return int(_stats(door, f"^{name.replace('.', chr(92) + '.')}$").get(name, 0))


def _await_revision(door: Door, subject: str, seconds: float) -> None:
    pattern = f"^{subject.replace('.', chr(92) + '.')}\\.(version_text|update_rejected)$"
    rejections: list[int] = []
    taken = False

    def settled() -> bool:
        nonlocal taken
        try:
            found = _stats(door, pattern)
        except EngineError:
            return False  # Envoy is being started again, and reads the same files then
        taken = found.get(f"{subject}.version_text") == str(door.revision)
        rejections.append(found.get(f"{subject}.update_rejected", 0))
        return taken or rejections[-1] > rejections[0]

    wait_until(settled, seconds)
    if not taken:
        refused = "refused its new configuration" if rejections else "does not answer"
        raise EngineError(f"Envoy {refused}, or did not take it over within {seconds:.0f} s", hint="its log says why")


def _stats(door: Door, pattern: str) -> dict[str, Any]:
    import httpx

    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(door.admin)), timeout=5.0) as client:
            answer = client.get("http://admin/stats", params={"filter": pattern, "format": "json"})
            answer.raise_for_status()
    except httpx.HTTPError as error:
        raise EngineError(f"Envoy's admin API at {door.admin} does not answer: {error}") from error
    return {each["name"]: each["value"] for each in answer.json()["stats"] if "name" in each}
