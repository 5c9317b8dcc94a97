"""What is to be looked at, and when: each resource by one worker at a time, at its earliest time.

As in Kubernetes' own controllers: a resource that is added while it is looked at is looked at once more afterwards, and
one that is added often is looked at once.
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


class WorkQueue:
    """Keys with a time each. `now` is a monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._changed = threading.Condition()
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []
        self._busy: set[Key] = set()
        self._closed = False

    def add(self, key: Key, after: float = 0.0) -> None:
        """Let a key be looked at `after` seconds from now, or earlier if it already is to be."""
        with self._changed:
            at = self._now() + after
            if key in self._due and self._due[key] <= at:
                return
            self._due[key] = at
            heapq.heappush(self._heap, (at, key))
            self._changed.notify()

    def take(self) -> tuple[Key, float] | None:
        """The next key that is due, and how many seconds late it is; None when the queue is closed. Waits for one.
        `done` must follow."""
        with self._changed:
            while not self._closed:
                wait = self._ready()
                if isinstance(wait, Key):
                    late = self._now() - self._due.pop(wait)
                    self._busy.add(wait)
                    return wait, late
                self._changed.wait(wait)
            return None

    def done(self, key: Key, after: float | None = None) -> None:
        """A look is over; the next one is due `after` seconds from now, unless something happened meanwhile."""
        with self._changed:
            self._busy.discard(key)
            if key in self._due:
                heapq.heappush(self._heap, (self._due[key], key))
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
            return sum(at <= now for at in self._due.values())

    def _ready(self) -> Key | float | None:
        """The key to take now, or how many seconds to wait; None is until something changes."""
        while self._heap:
            at, key = self._heap[0]
            if self._due.get(key) != at or key in self._busy:
                heapq.heappop(self._heap)  # an outdated time; a busy key comes back when it is done
                continue
            if at > self._now():
                return at - self._now()
            heapq.heappop(self._heap)
            return key
        return None
