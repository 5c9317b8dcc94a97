"""What a look at one of our resources leaves in its status, and whether that is still the resource it looked at."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime
from typing import Protocol

from serinus.core.errors import NotFound
from serinus.core.status import Status
from serinus.engines.kubernetes import Kind, Object
from serinus.engines.kubernetes_cache import CachedCluster
from serinus.operator.conditions import Finding, differs, merged


class Look(Protocol):
    """What a look found: how the resource stands, and in how many seconds the next look is due."""

    @property
    def status(self) -> Status: ...

    @property
    def findings(self) -> list[Finding]: ...

    @property
    def again(self) -> float: ...


def report(cluster: CachedCluster, kind: Kind, found: Object, look: Look, now: datetime) -> float | None:
    """Write what is news of a look at a resource; in how many seconds the next one is due, or None where the resource
    was deleted meanwhile.

    Raises:
        EngineError: the API server refuses it, or cannot be asked.
    """
    metadata = found["metadata"]
    conditions = merged(look.status.conditions, look.findings, metadata["generation"], now)
    update = {"conditions": conditions, "observed_generation": metadata["generation"]}
    wanted = look.status.model_copy(update=update).model_dump(mode="json", by_alias=True, exclude_none=True)
    if not differs(found.get("status"), wanted):
        return look.again
    document = {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {name: metadata[name] for name in ("name", "namespace")},
        "status": wanted,
    }
    try:
        known = cluster.apply(document, kind, status=True)
    except NotFound:
        return None
    # What somebody changed meanwhile came with the answer to our own write, and is told by nobody else.
    return look.again if goes_by(known) == goes_by(found) else 0.0


def goes_by(found: Object) -> Hashable:
    """What a look goes by: changes of anything else are our own news."""
    metadata = found["metadata"]
    annotations = frozenset(metadata.get("annotations", {}).items())
    return metadata["uid"], metadata.get("generation"), metadata.get("deletionTimestamp"), annotations
