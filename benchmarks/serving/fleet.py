"""All servers up at once, so that their loads can take turns: what else the machine does meets everyone alike.

A server that waits costs next to nothing. One that does not start is left out and named in the report.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving.bodies import Bodies
from benchmarks.serving.ground import Prepared, listens
from benchmarks.serving.peers import bare_envoy, limit, ours
from benchmarks.serving.peers.base import START_SECONDS, Running, await_answer, processes, python
from serinus.engines.ports import free_ports
from serinus.engines.waiting import wait_until

SCRIPTS = {"kserve": "kserve_model", "fastapi": "fastapi_app", "litserve": "litserve_app"}
PEERS = ("ours", "limit", "usual", *SCRIPTS)
FEAST_WORKERS = 2


@dataclass
class Fleet:
    """Servers by name, and why one is not there."""

    servers: dict[str, Running] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Yard:
    """What starting a server needs."""

    prepared: Prepared
    bodies: Bodies
    fleet: Fleet
    stack: contextlib.ExitStack

    def enter(self, name: str, server: contextlib.AbstractContextManager[Running]) -> Running | None:
        """Start a server; None if it does not."""
        began = time.monotonic()
        try:
            running = self.stack.enter_context(server)
        except (TimeoutError, OSError) as error:
            self.fleet.missing[name] = str(error)
            sys.stderr.write(f"{name} does not start: {error}\n")
            return None
        sys.stderr.write(f"{name} is up, {time.monotonic() - began:.0f} s\n")
        self.fleet.servers[name] = running
        return running


@contextlib.contextmanager
def started(prepared: Prepared, bodies: Bodies, wanted: set[str]) -> Iterator[Fleet]:
    """Start the wanted peers; ends them afterwards."""
    fleet = Fleet()
    with contextlib.ExitStack() as stack:
        yard = _Yard(prepared, bodies, fleet, stack)
        if wanted & {"limit", "usual"}:
            port = prepared.ground.predictor_port
            predictor = prepared.deployment.predictor
            yard.enter("limit", limit.running(prepared, predictor, bodies.first("limit-zipf"), port))
        if "usual" in wanted and "limit" in fleet.servers:
            yard.enter("usual", _usual(prepared, bodies, fleet.servers["limit"]))
        for name in SCRIPTS:
            if name in wanted:
                yard.enter(name, _script(prepared, bodies, name))
        if "ours" in wanted:
            _start_ours(yard)
        yield fleet


def _start_ours(yard: _Yard) -> None:
    """With and without the cache; and behind an Envoy that does nothing else."""
    first = yard.bodies.first("zipf")
    for cached in (True, False):
        word = "cached" if cached else "uncached"
        door = yard.stack.enter_context(ours.running(yard.prepared, cached, first))
        yard.fleet.servers[f"ours {word}"] = door
        sys.stderr.write(f"ours {word} is up\n")
        if cached:
            yard.enter("bare envoy", bare_envoy.running(door, first, yard.bodies.folder))


@contextlib.contextmanager
def _script(prepared: Prepared, bodies: Bodies, name: str) -> Iterator[Running]:
    """A peer that is one Python server with Feast in process."""
    (port,) = free_ports(1)
    log = bodies.folder / f"{name}.log"
    with processes({name: python(SCRIPTS[name], prepared.ground, port)}, log) as roots:
        yield _answering(port, bodies, log, roots)


@contextlib.contextmanager
def _usual(prepared: Prepared, bodies: Bodies, predictor: Running) -> Iterator[Running]:
    """KServe's transformer, Feast's feature server, TorchServe (the one of the limit, which takes features)."""
    ground = prepared.ground
    (port,) = free_ports(1)
    log = bodies.folder / "usual.log"
    feast = [str(Path(sys.executable).with_name("feast")), "-c", ground.repo, "serve", "-p", str(ground.feast_port)]
    feast += ["--no-access-log", "--workers", str(FEAST_WORKERS), "--max-requests", "0"]
    commands = {"feast server": feast, "transformer": python("transformer", ground, port)}
    with processes(commands, log) as roots:
        if not wait_until(lambda: listens(ground.feast_port), START_SECONDS):
            raise TimeoutError(f"Feast's feature server does not listen: {log.read_text(errors='replace')[-3000:]}")
        yield _answering(port, bodies, log, {**roots, **predictor.roots()})


def _answering(port: int, bodies: Bodies, log: Path, roots: dict[str, int]) -> Running:
    url = f"http://127.0.0.1:{port}/v1/models/flights:predict"
    await_answer(url, bodies.first("zipf"), log)
    return Running(url, lambda: roots)
