"""Processes that we started: recognised beyond doubt before any signal, and ended with all that they started.

A process id alone proves nothing, as the system gives it to another process later. One is ours when its start time is
the recorded one; a descendant is ours when it inherited the mark of our stack in its environment. Read from Linux's
/proc: start times there count from boot, and do not move when the clock is set.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from serinus.engines.waiting import wait_until

log = logging.getLogger(__name__)

MARK = "SERINUS_STACK"
"""Environment variable whose value is unique to one stack."""

_PROC = Path("/proc")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class ProcessId(BaseModel):
    """A process, told from a later one with the same id by its start time (clock ticks since boot)."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process that has the id now, None where there is none."""
        found = _stat(pid)
        return cls(pid=pid, started=found.started) if found else None


@dataclass(frozen=True)
class _Stat:
    state: str
    parent: int
    started: int


def is_alive(process: ProcessId) -> bool:
    """Whether it still runs. One that ended and awaits its parent (a zombie) does not."""
    found = _stat(process.pid)
    return found is not None and found.started == process.started and found.state not in "ZX"


def command_line(process: ProcessId) -> list[str]:
    """The arguments it was started with; empty where it has ended."""
    if not is_alive(process):
        return []
    return _read(process.pid, "cmdline").decode(errors="replace").split("\0")


def memory(pid: int) -> int:
    """Bytes of memory that a process and its descendants hold, shared pages counted once a process."""
    children: dict[int, list[int]] = {}
    for each, found in _all():
        children.setdefault(found.parent, []).append(each)
    total, pending = 0, [pid]
    while pending:
        each = pending.pop()
        fields = _read(each, "statm").split()
        total += int(fields[1]) * _PAGE if fields else 0
        pending += children.get(each, [])
    return total


def marked(mark: str) -> list[ProcessId]:
    """Every living process of this user that carries the mark in its environment."""
    wanted = f"{MARK}={mark}".encode()
    return [
        ProcessId(pid=pid, started=found.started)
        for pid, found in _all()
        if found.state not in "ZX" and wanted in _read(pid, "environ").split(b"\0")
    ]


def end(processes: Sequence[ProcessId], grace_seconds: float = 10.0) -> None:
    """Ask the processes to end, and kill those that have not after `grace_seconds`."""
    for each in processes:
        _signal(each, signal.SIGTERM)
    if wait_until(lambda: not any(map(is_alive, processes)), grace_seconds):
        return
    for each in filter(is_alive, processes):
        log.warning("process %d did not end within %.0f s and is killed", each.pid, grace_seconds)
        _signal(each, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, processes)), grace_seconds)


def _signal(process: ProcessId, number: signal.Signals) -> None:
    if is_alive(process):
        with suppress(ProcessLookupError):  # ended by itself meanwhile
            os.kill(process.pid, number)


def _all() -> Iterator[tuple[int, _Stat]]:
    for folder in _PROC.iterdir():
        if folder.name.isdigit() and (found := _stat(int(folder.name))):
            yield int(folder.name), found


def _stat(pid: int) -> _Stat | None:
    # The second field is the command in parentheses, and may itself hold spaces and parentheses.
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return _Stat(fields[0].decode(), int(fields[1]), int(fields[19])) if fields else None


def _read(pid: int, name: str) -> bytes:
    """The file of a process; empty where it has ended or belongs to another user."""
    try:
        return (_PROC / str(pid) / name).read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
