"""What is to be looked at, and when: each resource by one worker at a time, at its earliest time.

As in Kubernetes' own controllers: a resource that is added while it is looked at is looked at once more afterwards, and
one that is added often is looked at once.

Where more is due than can be looked at, what bears waiting waits: each key has a deadline, a quarter of its own wait
after its time, and the earliest deadline comes first. So a decision that is due each ten seconds does not queue behind
thousands of looks that are due each minute, and none of those waits for ever.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from typing import NamedTuple


class Key(NamedTuple):
    """A resource."""

    kind: str
    namespace: str
    name: str


_SLACK, _MOST_SLACK = 0.25, 15.0


class Times(NamedTuple):
    """When a key is due, and until when it bears waiting then."""

    at: float
    deadline: float


class WorkQueue:
    """Keys with a time each. `now` is a monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._changed = threading.Condition()
        self._due: dict[Key, Times] = {}
        # Those whose time is to come, by their time; and those whose time has come, by their deadline.
        self._waiting: list[tuple[Times, Key]] = []
        self._ready: list[tuple[float, Times, Key]] = []
        self._busy: set[Key] = set()
        self._closed = False

    def add(self, key: Key, after: float = 0.0, slack: float | None = None) -> None:
        """Let a key be looked at `after` seconds from now, or earlier if it already is to be.

        Args:
            key: what is to be looked at.
            after: seconds until it is due.
            slack: seconds that it then bears waiting; a quarter of `after` where not given.
        """
        with self._changed:
            at = self._now() + after
            times = Times(at, at + (min(_SLACK * after, _MOST_SLACK) if slack is None else slack))
            known = self._due.get(key)
            if known is not None:
                times = Times(min(known.at, times.at), min(known.deadline, times.deadline))
            if times == known:
                return
            self._due[key] = times
            heapq.heappush(self._waiting, (times, key))
            self._changed.notify()

    def take(self) -> tuple[Key, float] | None:
        """The next key that is due, and how many seconds late it is; None when the queue is closed. Waits for one.
        `done` must follow."""
        with self._changed:
            while not self._closed:
                wait = self._next()
                if isinstance(wait, Key):
                    late = self._now() - self._due.pop(wait).at
                    self._busy.add(wait)
                    return wait, late
                self._changed.wait(wait)
            return None

    def done(self, key: Key, after: float | None = None) -> None:
        """A look is over; the next one is due `after` seconds from now, unless something happened meanwhile."""
        with self._changed:
            self._busy.discard(key)
            if key in self._due:
                heapq.heappush(self._waiting, (self._due[key], key))
        if after is not None:
            self.add(key, after)
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """Let everyone who waits go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._changed:
            now = self._now()
            return sum(each.at <= now for each in self._due.values())

    def _next(self) -> Key | float | None:
        """The key to take now, or how many seconds to wait; None is until something changes."""
        now = self._now()
        while self._waiting and self._waiting[0][0].at <= now:
            times, key = heapq.heappop(self._waiting)
            heapq.heappush(self._ready, (times.deadline, times, key))
        while self._ready:
            _, times, key = heapq.heappop(self._ready)
            # Neither an outdated time nor a busy key, which comes back when it is done.
            if self._due.get(key) == times and key not in self._busy:
                return key
        return self._waiting[0][0].at - now if self._waiting else None
