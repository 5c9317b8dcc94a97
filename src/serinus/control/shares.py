"""Who gets which version: the one place where shares become the weights of Envoy's backends."""

from __future__ import annotations

from serinus.control.state import Canary
from serinus.core.errors import InvalidInput
from serinus.engines.envoy import Backend, Door

_ALL = 100.0


def shared(door: Door, stable: int, canary: Canary | None, **changes: object) -> Door:
    """The door with these roles, one revision later. A version without a role gets nothing, and is kept for now."""
    backends = tuple(_with_share(each, stable, canary) for each in door.backends)
    roles = {"stable": stable, "canary": canary.version if canary else None}
    return door.model_copy(update={"backends": backends, **roles, **changes, "revision": door.revision + 1})


def _with_share(backend: Backend, stable: int, canary: Canary | None) -> Backend:
    weight = shadow = 0.0
    if canary is not None and backend.version == canary.version:
        weight, shadow = canary.weight, canary.shadow
    elif backend.version == stable:
        weight = _ALL - (canary.weight if canary else 0.0)
    return backend.model_copy(update={"weight": weight, "shadow": shadow})


def require_share(weight: float, shadow: float) -> None:
    """
    Raises:
        InvalidInput: a share is no percentage, or both are given.
    """
    for name, value in (("weight", weight), ("shadow", shadow)):
        if not 0 <= value <= _ALL:
            raise InvalidInput(f"{name}: found {value:g}, allowed: a percentage from 0 to 100")
    if weight and shadow:
        raise InvalidInput(
            "found a weight and a shadow, allowed: one of them",
            hint="a request that the canary answers is no good as a copy too",
        )
