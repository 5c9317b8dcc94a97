"""Shared by the tests: waiting for what another process or thread does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], timeout: float = 10.0, interval: float = 0.05) -> T:
    """The first truthy value of `condition`, asked again and again.

    Args:
        condition: what must become true. An AssertionError or OSError it raises counts as "not yet".
        timeout: seconds until the test fails.
        interval: seconds between two looks.

    Raises:
        AssertionError: the time is up; the condition's last error is its cause.
    """
    deadline = time.monotonic() + timeout
    last: Exception | None = None
    while True:
        try:
            if value := condition():
                return value
            last = None
        except (AssertionError, OSError) as error:
            last = error
        if time.monotonic() >= deadline:
            raise AssertionError(f"not true within {timeout:g} s: {condition}") from last
        time.sleep(interval)
