"""Waiting for another process with a deadline: the one place that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_SECONDS = 0.05


def wait_until(condition: Callable[[], bool], seconds: float, every: float = EVERY_SECONDS) -> bool:
    """Ask again and again until the condition holds; False when it did not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every)
    return True
