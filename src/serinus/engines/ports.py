"""TCP ports on the loopback: which are free, and who holds one that is not."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Collection

from serinus.core.errors import Conflict

LOOPBACK = "127.0.0.1"

# Below the range from which Linux takes the ports of outgoing connections (32768 and up), so that a server which is
# started again finds its port still free.
_FIRST, _LAST = 20_000, 32_000
_ATTEMPTS = 500


def is_free(port: int) -> bool:
    """Whether a server could listen on the loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Otherwise connections of an earlier server that linger in TIME_WAIT would count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_ports(count: int, avoid: Collection[int] = ()) -> tuple[int, ...]:
    """Distinct ports on which nothing listens, and none of those to avoid: others have been given them already.

    Raises:
        Conflict: not enough were found.
    """
    found: list[int] = []
    for _ in range(_ATTEMPTS):
        if len(found) == count:
            return tuple(found)
        port = _FIRST + secrets.randbelow(_LAST - _FIRST)
        if port not in found and port not in avoid and is_free(port):
            found.append(port)
    raise Conflict(f"fewer than {count} free TCP ports between {_FIRST} and {_LAST}", hint="stop other servers")


def require_free(port: int) -> None:
    """Refuse a port that is taken.

    Raises:
        Conflict: naming the port and, where the system tells, the process that holds it.
    """
    if not is_free(port):
        held = _holder(port)
        raise Conflict(f"port {port} is taken{f' by {held}' if held else ''}", hint="choose another with --port")


def _holder(port: int) -> str | None:
    import psutil  # type: ignore[import-untyped]

    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return None
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.Error:
                return f"pid {connection.pid}"
    return None
