"""HTTP over a Unix socket, for supervision and Envoy's admin API. Only the standard library, for a short start."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path


class UnixConnection(http.client.HTTPConnection):
    """A connection to a server that listens on the path of a Unix socket."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(path: Path, method: str, target: str, seconds: float = 5.0) -> bytes:
    """The body of the answer to one request.

    Raises:
        OSError: nobody listens, or the answer is not 200.
        HTTPException: what came back is not HTTP.
    """
    connection = UnixConnection(path, seconds)
    try:
        connection.request(method, target)
        answer = connection.getresponse()
        if answer.status != 200:
            raise OSError(f"answered {answer.status} to {target}")
        return answer.read()
    finally:
        connection.close()
