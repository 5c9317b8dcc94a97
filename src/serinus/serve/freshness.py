"""Whether an online value may be used at a row's time, and what becomes of one that may not.

The rule is that of Feast's point-in-time join, to the microsecond: a value is known from `known_at` on and lives until
`known_at + ttl`, both ends included. A value that became known after the row's time is as good as absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serinus.core.signature import View
from serinus.core.spec import FeaturePolicy
from serinus.core.times import format_duration
from serinus.serve.fields import RowError

ABSENT_TIME = np.iinfo(np.int64).min
_MICROSECOND = timedelta(microseconds=1)


class State(IntEnum):
    """What the online store has for one row of one view."""

    PRESENT = 0
    ABSENT = 1
    """No values for this entity."""
    EARLY = 2
    """Values that became known only after the row's time."""
    UNAVAILABLE = 3
    """The store failed or was too slow."""
    STALE = 4
    """Values older than the limit."""


@dataclass(slots=True)
class Judged:
    """`states` a row; `hidden` rows whose values the model must not see; row numbers `rejected` and `flagged`."""

    states: NDArray[np.int8]
    hidden: NDArray[np.bool_]
    rejected: list[int]
    flagged: list[int]


class Judge:
    """One view's age limit and policy."""

    def __init__(self, view: View, policy: FeaturePolicy) -> None:
        self.view = view.name
        self.policy = policy
        limit = policy.maximum_age if policy.maximum_age is not None else view.ttl
        self.limit = limit or None  # Feast takes a TTL of nothing as no limit
        self._microseconds = self.limit // _MICROSECOND if self.limit else None

    def judge(self, known_at: NDArray[np.int64], available: NDArray[np.bool_], moments: NDArray[np.int64]) -> Judged:
        """Judge rows by their values' event times; `available` is false where the store gave no answer."""
        usual = known_at <= moments
        usual &= available
        usual &= known_at != ABSENT_TIME if self._microseconds is None else known_at >= moments - self._microseconds
        if usual.all():
            return Judged(np.zeros(len(known_at), dtype=np.int8), ~usual, [], [])
        states = np.zeros(len(known_at), dtype=np.int8)
        if self._microseconds is not None:
            states[known_at < moments - self._microseconds] = State.STALE
        states[known_at > moments] = State.EARLY
        states[known_at == ABSENT_TIME] = State.ABSENT
        states[~available] = State.UNAVAILABLE
        stale = states == State.STALE
        missing = (states != State.PRESENT) & ~stale
        rejected = np.zeros_like(stale)
        if self.policy.on_missing == "reject":
            rejected |= missing
        if self.policy.on_stale == "reject":
            rejected |= stale
        flagged = stale if self.policy.on_stale == "flag" else np.zeros_like(stale)
        return Judged(
            states, (missing | stale) & ~flagged, np.flatnonzero(rejected).tolist(), np.flatnonzero(flagged).tolist()
        )

    def reason(self, state: State, keys: Mapping[str, Any], known_at: int, moment: int) -> RowError:
        """Why a row was rejected, in words. Unavailable values are our fault and worth another try: status 503."""
        entity = ", ".join(f"{name}={value!r}" for name, value in keys.items()) or "all rows"
        where = f"feature view {self.view} for {entity}"
        if state == State.UNAVAILABLE:
            return RowError(f"{where}: the online store did not answer", status=503)
        if state == State.STALE:
            age = format_duration(timedelta(microseconds=moment - known_at))
            return RowError(f"{where}: values are {age} old, limit {format_duration(self.limit or timedelta(0))}")
        if state == State.EARLY:
            return RowError(f"{where}: values are known only after the time asked for")
        return RowError(f"{where}: no values")
