"""Keeps the front door as a child, to close it in order: Envoy itself drops everything when it is told to end.

On SIGTERM the door first says that it is not ready, while it still takes requests; then it stops listening; then it has
time to answer what it took; then it ends. A second SIGTERM ends it at once. Only the standard library is imported.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serinus.engines.sockets import ask
from serinus.serve.turning import turn_away

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_PR_SET_PDEATHSIG = 1
_ASK_EVERY = 0.05
# A client that still has a connection may just have sent a request that Envoy has not read yet.
_QUIET_LOOKS = 6
_ACTIVE, _TOTAL = "http.front.downstream_rq_active", "http.front.downstream_rq_total"


@dataclass(frozen=True)
class Drain:
    """`admin` is the path of Envoy's admin socket; the times are in seconds (see `spec.traffic.drain`)."""

    admin: str
    notice: float
    limit: float


def run(command: Sequence[str], environment: Mapping[str, str], drain: Drain) -> int:
    """Run the command until it ends or is told to; returns its exit code.

    The child dies with this process, however that dies: otherwise it would hold the port against its successor.
    """
    # Blocked, so that none is lost between two waits.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it died before the line above
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        os.execvpe(command[0], list(command), dict(environment))  # noqa: S606
    while True:
        number = signal.sigwait(_SIGNALS)
        code = _ended(child)
        if code is not None:
            return code
        if number != signal.SIGCHLD:
            _close(drain, child)
            return _end(child)


def _close(drain: Drain, child: int) -> None:
    """Not ready, then not listening, then not busy. An Envoy that does not answer has nothing to be waited for."""
    try:
        ask(Path(drain.admin), "POST", "/healthcheck/fail")
        _say("not ready any more")
        if _told_again(drain.notice):
            return
        turn_away(child)
        ask(Path(drain.admin), "POST", "/drain_listeners")
        deadline = time.monotonic() + drain.limit
        quiet, before = 0, (-1, -1)
        while quiet < _QUIET_LOOKS and time.monotonic() < deadline:
            found = _under_way(drain)
            quiet = quiet + 1 if found == (0, before[1]) else 0
            before = found
            if _told_again(_ASK_EVERY):
                return
        _say(f"closed with {before[0]} requests under way")
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        _say(f"cannot be drained: {error}")


def _told_again(seconds: float) -> bool:
    """Wait; true when told a second time to end, or when the child ended by itself."""
    return signal.sigtimedwait(_SIGNALS, seconds) is not None


def _under_way(drain: Drain) -> tuple[int, int]:
    """How many requests are under way, and how many there have been."""
    found = json.loads(ask(Path(drain.admin), "GET", f"/stats?format=json&filter=^({_ACTIVE}|{_TOTAL})$"))
    values = {each["name"]: int(each["value"]) for each in found["stats"] if "name" in each}
    return values[_ACTIVE], values[_TOTAL]


def _end(child: int) -> int:
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _ended(child: int) -> int | None:
    found, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _say(text: str) -> None:
    sys.stderr.write(f"serinus: the front door is {text}\n")
