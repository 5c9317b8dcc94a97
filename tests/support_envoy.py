"""A real Envoy with our configuration, and small HTTP servers that stand where TorchServe would be."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from serinus.core.spec import Traffic
from serinus.engines import envoy_admin
from serinus.engines.envoy import Backend, Door, command
from serinus.engines.ports import free_ports
from tests.support import eventually

READY = json.dumps([{"modelName": "tiny", "workers": [{"status": "UNLOADING"}, {"status": "READY"}]}], indent=2)
LOADING = json.dumps([{"modelName": "tiny", "workers": [{"status": "UNLOADING"}]}], indent=2)


@dataclass
class Request:
    """What an upstream received: header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    length: int


@dataclass
class Upstream:
    """Answers with its name and what it received. `kill` does what the end of its process would; `start` is a new one.

    `seconds` is how long it thinks about an answer, `status` what it answers with, `described` what its GET answers.
    """

    name: str
    port: int
    described: str = READY
    seconds: float = 0.0
    status: int = 200
    received: list[Request] = field(default_factory=list)
    answered: int = 0

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None
        self.start()

    def start(self) -> None:
        self._run(self._start())

    def kill(self) -> None:
        self._run(self._kill())

    def close(self) -> None:
        self.kill()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def predictions(self) -> list[Request]:
        return [each for each in self.received if each.method == "POST"]

    def _run(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 20)

    async def _kill(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while True:
                    await self._answer(await self._read(reader), writer)
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> Request:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        pairs = (line.split(":", 1) for line in head[1:] if line)
        headers = {name.lower(): value.strip() for name, value in pairs}
        length = 0
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readline(), 16):
                await reader.readexactly(size + 2)
                length += size
            await reader.readline()
        elif wanted := int(headers.get("content-length", 0)):
            length = len(await reader.readexactly(wanted))
        return Request(method, path, headers, length)

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.received.append(request)
        described = request.method == "GET" and request.path.startswith("/models/")
        seen = {"name": self.name, "path": request.path, "length": request.length, "headers": request.headers}
        body = (self.described if described else json.dumps(seen)).encode()
        if self.seconds and not described:
            await asyncio.sleep(self.seconds)
        status = 200 if described else self.status
        head = f"HTTP/1.1 {status} Whatever\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        self.answered += 1


@dataclass
class Front:
    """Envoy before two versions of the model `tiny`, and the sidecar."""

    door: Door
    client: httpx.Client
    upstreams: dict[int, Upstream]
    management: dict[int, Upstream]
    process: subprocess.Popen[bytes]

    def ask(self, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post("/predictions/tiny", json={}, headers=named)

    def version_of(self, **headers: str) -> int:
        return int(self.ask(**headers).json()["name"])

    def apply(self, door: Door) -> None:
        """Change the dynamic part, as `deploy` does."""
        before, self.door = self.door, door.model_copy(update={"revision": self.door.revision + 1})
        envoy_admin.change(before, self.door, 10)

    def weights(self, canary: float, shadow: float = 0) -> None:
        self.apply(weighted(self.door, canary, shadow))


def new_door(folder: Path, traffic: Traffic | None = None, canary: float = 0, shadow: float = 0) -> Door:
    """Version 1 is stable, version 2 the canary."""
    front, sidecar, *ports = free_ports(6)
    backends = (
        Backend(
            version=1, port=ports[0], management_port=ports[1], weight=100,
            metadata={"platform": "old"},
        ),
        Backend(
            version=2, port=ports[2], management_port=ports[3], weight=0,
            metadata={"platform": "new"},
        ),
    )  # fmt: skip
    door = Door(
        model="tiny",
        port=front,
        admin=folder / "admin.sock",
        folder=folder / "envoy",
        sidecar_port=sidecar,
        timeout=timedelta(seconds=5),
        traffic=traffic or Traffic(),
        backends=backends,
        stable=1,
        canary=2,
        revision=1,
    )
    return weighted(door, canary, shadow)


def weighted(door: Door, canary: float, shadow: float = 0) -> Door:
    """The door with another share for the canary."""
    first, second = door.backends
    backends = (
        first.model_copy(update={"weight": 100 - canary}),
        second.model_copy(update={"weight": canary, "shadow": shadow}),
    )
    return door.model_copy(update={"backends": backends})


@contextmanager
def running(door: Door) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    """Envoy alone, ended with its context."""
    envoy_admin.write(door)
    address = f"http://127.0.0.1:{door.port}"
    with (door.folder / "log").open("wb") as log, subprocess.Popen(command(door), stderr=log) as process:
        try:
            eventually(lambda: listens(address), 20)
            with httpx.Client(base_url=address, timeout=20) as client:
                yield client, process
        finally:
            process.kill()


@contextmanager
def front(door: Door, loading: tuple[int, ...] = ()) -> Iterator[Front]:
    """Envoy with everything behind it, once it knows which versions are ready. Those in `loading` are not."""
    with ExitStack() as stack:
        upstreams, management = {}, {}
        for each in door.backends:
            upstreams[each.version] = Upstream(str(each.version), each.port)
            described = LOADING if each.version in loading else READY
            management[each.version] = Upstream(str(each.version), each.management_port, described)
        sidecar = Upstream("sidecar", door.sidecar_port)
        for upstream in (*upstreams.values(), *management.values(), sidecar):
            stack.callback(upstream.close)
        client, process = stack.enter_context(running(door))
        yield Front(door, client, upstreams, management, process)


def listens(address: str) -> bool:
    """Whether Envoy takes requests."""
    try:
        return httpx.get(f"{address}/v2").status_code == 200
    except httpx.TransportError:
        return False


class Load:
    """Clients that ask without a pause from `with` to its end; `found` counts status and version of what came back.

    A request without a whole answer is counted under status 0, and what happened to it under `broken`. `slowest` is how
    many seconds the slowest answer took, `said` the words of failures by status.
    """

    def __init__(
        self,
        address: str,
        clients: int = 4,
        body: Callable[[], Any] = dict,
        path: str = "/predictions/tiny",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.found: Counter[tuple[int, str]] = Counter()
        self.broken: Counter[str] = Counter()
        self.slowest = 0.0
        self.said: dict[int, str] = {}
        self._path = path
        self._headers = dict(headers or {})
        self._address = address
        self._body = body
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._clients = clients

    def __enter__(self) -> Load:
        self._futures = [self._pool.submit(self._ask) for _ in range(self._clients)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        for future in self._futures:
            future.result()

    @property
    def total(self) -> int:
        return self.found.total()

    @property
    def failed(self) -> dict[tuple[int, str], int]:
        return {outcome: count for outcome, count in self.found.items() if outcome[0] != 200}

    def of(self, version: int) -> int:
        return self.found[200, str(version)]

    def wait_for(self, more: int, seconds: float = 60) -> None:
        """Until so many more requests have been answered."""
        target = self.total + more
        eventually(lambda: self.total >= target, seconds, interval=0.01)

    def _ask(self) -> None:
        with httpx.Client(base_url=self._address, timeout=30, headers=self._headers) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(self._path, json=self._body())
                except httpx.ConnectError:
                    return  # the door is closed: it says so, and takes nothing
                except httpx.TransportError as error:
                    self.broken[type(error).__name__] += 1
                    self.found[0, ""] += 1
                    continue
                content = answer.json()
                version = content.get("name", content.get("version", content.get("model_version", "")))
                self.found[answer.status_code, str(version)] += 1
                if answer.status_code != 200:
                    self.said[answer.status_code] = answer.text
                self.slowest = max(self.slowest, answer.elapsed.total_seconds())
