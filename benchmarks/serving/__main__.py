"""Runs the cells, prints the table, writes the report."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.serving import report
from benchmarks.serving.ground import Keys, Prepared, prepared
from benchmarks.serving.load import Loaded, closed, opened
from benchmarks.serving.measure import Cell, measured
from benchmarks.serving.peers import bare_envoy, limit, ours
from benchmarks.serving.peers.base import Running, await_answer, processes, python, v1

# Connections that keep a peer busy. Slow peers get fewer: more would only make their queues longer.
BUSY, FEW = 128, 32
WARM_UPS = 6
SCRIPTS = {"kserve": "kserve_model", "fastapi": "fastapi_app", "litserve": "litserve_app"}


class Run:
    """The cells measured so far, by name."""

    def __init__(self, ground: Prepared, seconds: float) -> None:
        self.prepared = ground
        self.seconds = seconds
        self.cells: dict[str, Cell] = {}
        self.folder = Path(ground.ground.folder)
        self.bodies: dict[str, Path] = {}
        self._warmed: set[str] = set()
        for keys, rows in ground.rows.items():
            self._write(keys, [v1(row) for row in rows])
            self._write(f"limit-{keys}", limit.bodies(ground, rows))

    def _write(self, name: str, bodies: list[bytes]) -> None:
        self.bodies[name] = self.folder / f"{name}.jsonl"
        self.bodies[name].write_bytes(b"\n".join(bodies) + b"\n")

    def first(self, name: str) -> bytes:
        return self.bodies[name].read_bytes().split(b"\n", 1)[0]

    def busy(self, name: str, server: Running, bodies: str, connections: int) -> Cell:
        """Closed loop, on a warm server."""
        self._warm(server, bodies, connections)
        return self._keep(name, server, lambda: closed(server.url, self.bodies[bodies], connections, self.seconds))

    def paced(self, name: str, server: Running, bodies: str, rate: float) -> Cell:
        """Open loop at a rate, on a server that has been busy before."""
        opened(server.url, self.bodies[bodies], rate, 1.0)
        return self._keep(name, server, lambda: opened(server.url, self.bodies[bodies], rate, self.seconds))

    def _warm(self, server: Running, bodies: str, connections: int) -> None:
        """A new server is kept busy until it gets no faster: Java compiles as it goes. A known one, for a second."""
        if server.url in self._warmed:
            closed(server.url, self.bodies[bodies], connections, 1)
            return
        best = 0.0
        for _ in range(WARM_UPS):
            rate = closed(server.url, self.bodies[bodies], connections, 2).rate
            if rate < best * 1.1:
                break
            best = rate
        self._warmed.add(server.url)

    def _keep(self, name: str, server: Running, load: Callable[[], Loaded]) -> Cell:
        cell = self.cells[name] = measured({**server.roots(), **self.prepared.store}, load)
        sys.stderr.write(f"{name}: {cell.loaded.rate:,.0f}/s, p99 {cell.loaded.p99:.1f} ms, {cell.cpu:.0f} us CPU\n")
        return cell


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--store", choices=["redis", "sqlite"], default="redis", help="Feast's online store")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a cell, after its warm-up")
    parser.add_argument("--only", nargs="*", default=[], help="ours, limit, usual, kserve, fastapi, litserve")
    parser.add_argument("--report", type=Path, default=Path("build/reports/serving.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, prepared(Path(folder), given.store) as ground:
        run = Run(ground, given.seconds)
        wanted = set(given.only) or {"ours", "limit", "usual", *SCRIPTS}
        measure(run, wanted)
    figures = report.figures(run.cells, given.store)
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    report.show(run.cells, figures)
    return 0


def measure(run: Run, wanted: set[str]) -> None:
    """All cells of the wanted peers; what is compared directly runs one right after the other.

    The open loop offers everyone what the usual pattern can just bear.
    """
    rate = None
    if "usual" in wanted:
        with usual(run) as server:
            rate = run.busy("usual zipf", server, "zipf", FEW).loaded.rate
            run.paced("usual zipf paced", server, "zipf", rate)
    for name in SCRIPTS:
        if name in wanted:
            with script(run, name) as server:
                run.busy(f"{name} zipf", server, "zipf", FEW)
                if rate is not None:
                    run.paced(f"{name} zipf paced", server, "zipf", rate)
    with contextlib.ExitStack() as stack:
        at_limit = stack.enter_context(limited(run)) if "limit" in wanted else None
        if at_limit is not None and rate is not None:
            run.paced("limit zipf paced", at_limit, "limit-zipf", rate)
        for keys, cached in (("zipf", True), ("uniform", False)):
            if wanted & {"ours", "limit"}:
                _pair(run, (keys, cached), at_limit, rate, "ours" in wanted)


def _pair(run: Run, what: tuple[Keys, bool], at_limit: Running | None, rate: float | None, own: bool) -> None:
    """Ours and the limit in turn, twice, the better of each kept: other work on the machine only ever takes away."""
    keys, cached = what
    word = "cached" if cached else "uncached"
    with contextlib.ExitStack() as stack:
        doors = stack.enter_context(ours.running(run.prepared, cached, run.first(keys))) if own else None
        bare = (
            stack.enter_context(bare_envoy.running(doors.direct, run.first(keys), run.folder))
            if doors is not None and cached
            else None
        )
        for _ in range(2):
            if at_limit is not None:
                _better(run, f"limit {keys}", partial(_busy, run, at_limit, f"limit-{keys}"))
            if doors is not None:
                _better(run, f"ours {keys} {word} direct", partial(_busy, run, doors.direct, keys))
                _better(run, f"ours {keys} {word}", partial(_busy, run, doors.envoy, keys))
            if bare is not None:
                _better(run, f"ours {keys} {word} bare envoy", partial(_busy, run, bare, keys))
        if doors is not None:
            other = "uniform" if keys == "zipf" else "zipf"
            run.busy(f"ours {other} {word}", doors.envoy, other, BUSY)
            if rate is not None:
                run.paced(f"ours {keys} {word} paced", doors.envoy, keys, rate)


def _busy(run: Run, server: Running, bodies: str, name: str) -> Cell:
    return run.busy(name, server, bodies, BUSY)


def _better(run: Run, name: str, measure: Callable[[str], Cell]) -> None:
    before = run.cells.get(name)
    after = measure(name)
    if before is not None and before.loaded.rate > after.loaded.rate:
        run.cells[name] = before


@contextlib.contextmanager
def script(run: Run, name: str) -> Iterator[Running]:
    """A peer that is one Python server with Feast in process."""
    ground = run.prepared.ground
    log = run.folder / f"{name}.log"
    with processes({name: python(SCRIPTS[name], ground)}, log) as roots:
        url = f"http://127.0.0.1:{ground.port}/v1/models/flights:predict"
        await_answer(url, run.first("zipf"), log)
        yield Running(url, lambda: roots)


@contextlib.contextmanager
def limited(run: Run) -> Iterator[Running]:
    from serinus.engines.ports import free_ports

    (port,) = free_ports(1)
    predictor = run.prepared.deployment.predictor
    with limit.running(run.prepared, predictor, run.first("limit-zipf"), port) as server:
        yield server


@contextlib.contextmanager
def usual(run: Run) -> Iterator[Running]:
    """KServe's transformer, Feast's feature server, TorchServe."""
    ground = run.prepared.ground
    log = run.folder / "usual.log"
    feast = [str(Path(sys.executable).with_name("feast")), "-c", ground.repo, "serve", "-p", str(ground.feast_port)]
    feast += ["--no-access-log", "--workers", "2", "--max-requests", "0"]
    commands = {"feast server": feast, "transformer": python("transformer", ground)}
    predictor = limit.running(
        run.prepared, run.prepared.deployment.predictor, run.first("limit-zipf"), ground.predictor_port
    )
    with predictor as served, processes(commands, log) as roots:
        url = f"http://127.0.0.1:{ground.port}/v1/models/flights:predict"
        await_answer(url, run.first("zipf"), log)
        yield Running(url, lambda: {**roots, **served.roots()})


if __name__ == "__main__":
    raise SystemExit(main())
