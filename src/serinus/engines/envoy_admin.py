"""A running Envoy: writes the files that it watches, and asks its admin API what it made of them."""

from __future__ import annotations

import http.client
import json
import re
from typing import Any
from urllib.parse import quote

from serinus.core.errors import EngineError
from serinus.engines.envoy import ROUTES, Door, cluster_name, clusters, configuration, routes
from serinus.engines.envoy_door import COPIES
from serinus.engines.files import write_text
from serinus.engines.sockets import ask
from serinus.engines.waiting import wait_until


def write(door: Door) -> None:
    """Write the dynamic part, clusters before routes, each file replaced in one step; the bootstrap only once."""
    for path, content in configuration(door).items():
        if path != door.bootstrap_file or not path.exists():
            write_text(path, json.dumps(content, indent=2) + "\n")


def change(before: Door, after: Door, seconds: float) -> None:
    """Take Envoy from one state to another while requests are under way.

    Clusters come before routes, as a route must never name a cluster that Envoy does not know, or has not found alive
    yet; clusters that only `before` has stay, for what is still in them, until `write_clusters`.

    Raises:
        EngineError: Envoy refused the change, did not take it over within the time, or cannot reach a version that is
            to get requests.
    """
    write_clusters(after, before)
    await_clusters(after, seconds)
    _await_health(after, _with_share(after) - _with_share(before), seconds)
    write_routes(after)
    await_routes(after, seconds)


def _with_share(door: Door) -> set[int]:
    return {each.version for each in door.backends if each.weight > 0 or each.shadow > 0}


def _await_health(door: Door, versions: set[int], seconds: float) -> None:
    if not wait_until(lambda: versions <= {number for number, well in healthy(door).items() if well}, seconds):
        raise EngineError(
            f"Envoy did not find every version ready within {seconds:.0f} s: {sorted(versions)} were to get requests"
        )


def write_clusters(door: Door, before: Door | None = None) -> None:
    write_text(door.clusters_file, json.dumps(clusters(door, before), indent=2) + "\n")


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
    """Requests and copies that a version has taken and not yet answered."""
    name = cluster_name(door.model, version)
    pattern = rf"^cluster\.{re.escape(name)}({COPIES})?\.upstream_rq_active$"
    return sum(_stats(door, pattern).values())


def received(door: Door) -> dict[int, int]:
    """Requests that were sent to each version since Envoy started, second attempts and copies included.

    What became of them, `envoy_counts` tells.
    """
    return _of_each(door, "upstream_rq_total", ("", COPIES))


def healthy(door: Door) -> dict[int, bool]:
    """Which versions Envoy holds for alive and ready."""
    return {version: count > 0 for version, count in _of_each(door, "membership_healthy").items()}


def _of_each(door: Door, statistic: str, kinds: tuple[str, ...] = ("",)) -> dict[int, int]:
    """By version the sum over its clusters: that for requests, unless `kinds` names others too."""
    names = {
        each.version: [f"cluster.{cluster_name(door.model, each.version)}{kind}.{statistic}" for kind in kinds]
        for each in door.backends
    }
    found = _stats(door, "^(" + "|".join(re.escape(name) for own in names.values() for name in own) + ")$")
    return {version: sum(int(found.get(name, 0)) for name in own) for version, own in names.items()}


def _await_revision(door: Door, subject: str, seconds: float) -> None:
    pattern = rf"^{re.escape(subject)}\.(version_text|update_rejected)$"
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
    try:
        answer = ask(door.admin, "GET", f"/stats?format=json&filter={quote(pattern)}")
    except (OSError, http.client.HTTPException) as error:
        raise EngineError(f"Envoy's admin API at {door.admin} does not answer: {error}") from error
    return {each["name"]: each["value"] for each in json.loads(answer)["stats"] if "name" in each}
