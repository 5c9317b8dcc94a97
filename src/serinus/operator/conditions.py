"""Conditions by Kubernetes' conventions, and when a status is worth writing. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple

from serinus.core.status import Condition

Truth = Literal["True", "False", "Unknown"]

ACCEPTED = "Accepted"
"""Whether the spec can be acted on."""
READY = "Ready"
"""Whether the version in front answers."""
PROGRESSING = "Progressing"
"""Whether something is on its way: a first version, a rollout. False with an error while it is stuck."""


class Finding(NamedTuple):
    """What a condition is to say."""

    type: str
    status: Truth
    reason: str
    message: str


def merged(
    before: tuple[Condition, ...], found: list[Finding], generation: int, now: datetime
) -> tuple[Condition, ...]:
    """The conditions after a look; the time of transition stays where the status has."""
    known = {each.type: each for each in before}
    after = dict(known)
    for each in found:
        earlier = known.get(each.type)
        moment = earlier.last_transition_time if earlier and earlier.status == each.status else now
        after[each.type] = Condition(
            type=each.type,
            status=each.status,
            observed_generation=generation,
            last_transition_time=moment,
            reason=each.reason,
            message=each.message,
        )
    return tuple(after[name] for name in sorted(after))


def differs(stored: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Whether a status has to be written. That nothing was decided once more while no canary is there is no news."""
    return _news(stored or {}) != _news(wanted)


def _news(status: Mapping[str, Any]) -> dict[str, Any]:
    first, *rest = status.get("decisions") or [None]
    if first is None or first["action"] != "hold" or status.get("canary") is not None:
        return dict(status)
    return {**status, "decisions": [{**first, "at": None}, *rest]}
