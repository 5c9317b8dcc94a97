"""Load on a server, in two ways.

Closed loop: `wrk` keeps a number of connections busy; that finds the throughput. Open loop: requests are due at times
that do not depend on the answers, as from independent users, and a latency counts from when its request was due, so
that a server that stalls is charged for the requests that had to wait (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop

from serinus.core.errors import NotFound

SCRIPT = Path(__file__).with_name("wrk.lua")
_JSON = re.compile(r"^JSON (\{.*\})$", re.MULTILINE)
_PATIENCE = 10.0


@dataclass(frozen=True)
class Loaded:
    """What came back. Latencies in milliseconds."""

    requests: int
    seconds: float
    failed: int
    p50: float
    p99: float
    p999: float

    @property
    def rate(self) -> float:
        return (self.requests - self.failed) / self.seconds


def closed(url: str, bodies: Path, connections: int, seconds: float) -> Loaded:
    """Keep `connections` busy for `seconds` with the bodies of a file, one a line.

    Raises:
        NotFound: wrk is not installed.
    """
    command = [require_wrk(), "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(SCRIPT), url]
    done = subprocess.run([*command, "--", str(bodies)], capture_output=True, text=True, check=True)
    found = _JSON.search(done.stdout)
    if found is None:
        raise RuntimeError(f"wrk printed no figures: {done.stdout}{done.stderr}")
    return Loaded(**json.loads(found[1]))


def require_wrk() -> str:
    """Where wrk is.

    Raises:
        NotFound: it is not installed.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise NotFound("wrk is not installed", hint="apt-get install wrk")
    return wrk


def opened(url: str, bodies: Path, rate: float, seconds: float) -> Loaded:
    """Send `rate` requests a second, at random times (Poisson), whatever becomes of those before them."""
    lines = bodies.read_bytes().splitlines()
    return uvloop.run(_Generator(url, lines).run(rate, seconds))


class _Connection(asyncio.Protocol):
    """One kept-alive connection with at most one request under way."""

    def __init__(self, owner: _Generator) -> None:
        self.owner = owner
        self.due: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.parser = httptools.HttpResponseParser(self)

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self.transport.write(request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        due, self.due = self.due, None
        keep = self.parser.should_keep_alive()
        self.owner.answered(self, due, self.parser.get_status_code(), keep)
        self.parser = httptools.HttpResponseParser(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.owner.lost(self)


class _Generator:
    def __init__(self, url: str, bodies: list[bytes]) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname, parts.port
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        self.requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        self.idle: deque[_Connection] = deque()
        self.waiting: deque[tuple[bytes, float]] = deque()
        self.latencies: list[float] = []
        self.failed = 0
        self.open = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def run(self, rate: float, seconds: float) -> Loaded:
        gaps = np.random.default_rng(3).exponential(1 / rate, int(rate * seconds))
        due = (np.cumsum(gaps)).tolist()
        await asyncio.gather(*(self._connect() for _ in range(64)))
        loop = asyncio.get_running_loop()
        start = time.perf_counter() + 0.05
        for at, moment in enumerate(due):
            wait = start + moment - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            self._send(self.requests[at % len(self.requests)], start + moment)
            if self.waiting and self.open < 1024:
                task = loop.create_task(self._connect())
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
        await self._rest(len(due))
        found = np.array(self.latencies) * 1000
        p50, p99, p999 = (float(np.quantile(found, share)) for share in (0.5, 0.99, 0.999))
        return Loaded(len(due), seconds, self.failed, p50, p99, p999)

    async def _rest(self, count: int) -> None:
        """Wait for what is under way; what never comes counts as failed, with the time that it was waited for."""
        deadline = time.perf_counter() + _PATIENCE
        while len(self.latencies) < count and time.perf_counter() < deadline:
            await asyncio.sleep(0.01)
        missing = count - len(self.latencies)
        self.failed += missing
        self.latencies += [_PATIENCE] * missing

    async def _connect(self) -> None:
        self.open += 1
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(self), self.host, self.port
        )
        self._ready(connection)

    def _send(self, request: bytes, due: float) -> None:
        if self.idle:
            self.idle.pop().send(request, due)
        else:
            self.waiting.append((request, due))

    def _ready(self, connection: _Connection) -> None:
        if self.waiting:
            connection.send(*self.waiting.popleft())
        else:
            self.idle.append(connection)

    def answered(self, connection: _Connection, due: float | None, status: int, keep: bool) -> None:
        assert due is not None
        self.latencies.append(time.perf_counter() - due)
        self.failed += status != 200
        if keep:
            self._ready(connection)
        else:
            connection.transport.close()

    def lost(self, connection: _Connection) -> None:
        self.open -= 1
        if connection in self.idle:
            self.idle.remove(connection)
        if connection.due is not None:
            self.latencies.append(time.perf_counter() - connection.due)
            self.failed += 1
