"""How the processes of the serving path share the cores.

Each request passes three processes. By default the kernel lets a process that is woken up interrupt the one that woke
it: the front door writes one request and is at once interrupted by TorchServe, which reads just that one. As `batch`
processes they do not interrupt one another, and each takes all that has come when its turn comes. An idle core takes a
woken process at once either way.
"""

from __future__ import annotations

import contextlib
import os


def take_turns() -> None:
    """Let this process, and those that it starts, interrupt no other when they wake up, where the system can."""
    if hasattr(os, "sched_setscheduler"):
        with contextlib.suppress(OSError):  # a sandbox may forbid it: slower, no less right
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
