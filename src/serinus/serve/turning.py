"""Turns new clients away from a process that listens, so that it can stop without losing one that has just connected.

What waits in a listening socket's queue when the socket is closed is reset, and its request is lost. So the queue is
emptied first: a filter on the socket drops whoever asks to connect (he asks again a second later, and is refused then),
while the process takes those who are through. Only the standard library is used.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator

from serinus.engines.waiting import wait_until

_PIDFD_GETFD = 438  # the number of the system call, on every architecture (pidfd_getfd(2))
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # classic BPF: return 0
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER
_QUEUED = struct.Struct("24xI")  # of a listening socket, tcpi_unacked of TCP_INFO is the length of its queue
_SECONDS = 0.5


def turn_away(process: int) -> None:
    """Let no new client connect to a process, and wait until it has taken all that have.

    Where the system forbids to touch another process's sockets, as in many containers, nothing is done.
    """
    with contextlib.suppress(OSError), contextlib.ExitStack() as held:
        sockets = [held.enter_context(each) for each in _listening(process)]
        content = ctypes.create_string_buffer(_DROP_ALL)
        program = struct.pack("HL", 1, ctypes.addressof(content))
        for each in sockets:
            each.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)
        wait_until(lambda: not any(map(_queue, sockets)), _SECONDS, every=0.005)


def _listening(process: int) -> Iterator[socket.socket]:
    """The TCP sockets that a child listens on, as our own."""
    call = ctypes.CDLL(None).syscall
    handle = os.pidfd_open(process)
    try:
        for entry in os.scandir(f"/proc/{process}/fd"):
            copy = call(_PIDFD_GETFD, handle, int(entry.name), 0) if _is_socket(entry.path) else -1
            if copy < 0:
                continue
            found = socket.socket(fileno=copy)
            internet = found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM
            if internet and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                yield found
            else:
                found.close()
    finally:
        os.close(handle)


def _is_socket(path: str) -> bool:
    try:
        return os.readlink(path).startswith("socket:")  # noqa: PTH115 - no path
    except OSError:  # closed meanwhile
        return False


def _queue(found: socket.socket) -> int:
    length: int = _QUEUED.unpack(found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _QUEUED.size))[0]
    return length
