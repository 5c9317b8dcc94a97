"""What the front door says about a request besides what it asks: when it came, how long its client waits, and whether
it is a copy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

from serinus.engines.envoy_door import ATTEMPT_HEADER, LEFT_HEADER, RECEIVED_HEADER, SHADOW_HEADER, START_HEADER
from serinus.serve import codec

_LONGEST_WAIT = 3600.0
_GRPC_DEADLINE = "grpc-timeout"
_GRPC_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class Raw(NamedTuple):
    """A request as it came: headers (none at all by gRPC) and body."""

    headers: Mapping[str, str]
    body: Any


def copies_of(raws: Sequence[Raw]) -> list[bool] | None:
    """Which requests are copies for a shadow; None, as almost always, if none is."""
    found = [SHADOW_HEADER in codec.lowered(raw.headers) for raw in raws]
    return found if any(found) else None


class Arrivals(NamedTuple):
    """When each request came (0 where the front door did not say), and when its client stops waiting (infinity where
    nobody said); in seconds since 1970."""

    came: list[float]
    until: list[float]

    def waits(self, now: float) -> list[float]:
        """Seconds that requests have been under way, of those of which it is known."""
        return [min(max(0.0, now - each), _LONGEST_WAIT) for each in self.came if each]


def arrivals(raws: Sequence[Raw]) -> Arrivals:
    """What the headers say; one that cannot be read says nothing."""
    found = Arrivals([], [])
    for raw in raws:
        headers = raw.headers
        came = 0.0
        with suppress(ValueError):
            came = float(headers.get(START_HEADER) or 0)
        if not 0.0 < came < math.inf:
            came = 0.0
        allowed = math.inf
        if came:
            allowed = _allowance(
                headers.get(RECEIVED_HEADER), headers.get(LEFT_HEADER), headers.get(ATTEMPT_HEADER),
                headers.get(_GRPC_DEADLINE),
            )  # fmt: skip
        found.came.append(came)
        found.until.append(came + allowed)
    return found


@lru_cache(maxsize=4096)
def _allowance(received: str | None, left: str | None, attempt: str | None, by_grpc: str | None) -> float:
    """Seconds from a request's start to its deadline.

    Envoy's clock for the answer starts when the whole request is there. At a further attempt it tells what is left, but
    not since when: such a request is never taken for late.
    """
    if attempt not in (None, "1"):
        return math.inf
    try:
        allowed = (float(received or 0) + float(left)) / 1000 if left else math.inf
        if by_grpc:
            allowed = min(allowed, float(by_grpc[:-1]) * _GRPC_UNITS[by_grpc[-1]])
    except (KeyError, ValueError):
        return math.inf
    return allowed if allowed >= 0 else math.inf
