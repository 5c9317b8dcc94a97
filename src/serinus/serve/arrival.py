"""What the front door says about a request besides what it asks: when it came, and whether it is a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from serinus.engines.envoy_door import SHADOW_HEADER, START_HEADER
from serinus.serve import codec

_LONGEST_WAIT = 3600.0


class Raw(NamedTuple):
    """A request as it came: headers (none at all by gRPC) and body."""

    headers: Mapping[str, str]
    body: Any


def copies_of(raws: Sequence[Raw]) -> list[bool] | None:
    """Which requests are copies for a shadow; None, as almost always, if none is."""
    found = [SHADOW_HEADER in codec.lowered(raw.headers) for raw in raws]
    return found if any(found) else None


def waits(raws: Sequence[Raw], arrived: float) -> list[float]:
    """Seconds that each request has been under way, where the front door said when it came."""
    found = []
    for raw in raws:
        came = raw.headers.get(START_HEADER)
        if came:
            with suppress(ValueError):
                found.append(min(max(0.0, arrived - float(came)), _LONGEST_WAIT))
    return found
