"""What is told of a resource of ours to whoever looks after it. Pure."""

from __future__ import annotations

from collections.abc import Hashable

from serinus.engines.kubernetes import Object


def goes_by(found: Object) -> Hashable:
    """What a look goes by: changes of anything else are our own news."""
    metadata = found["metadata"]
    annotations = frozenset(metadata.get("annotations", {}).items())
    return metadata["uid"], metadata.get("generation"), metadata.get("deletionTimestamp"), annotations
