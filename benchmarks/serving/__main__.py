"""Starts everyone, lets their loads take turns, prints the table, writes the report."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.serving import report
from benchmarks.serving.bodies import Bodies
from benchmarks.serving.fleet import PEERS, Fleet, started
from benchmarks.serving.ground import Prepared, prepared
from benchmarks.serving.load import Loaded, closed, opened, require_wrk
from benchmarks.serving.measure import Cell, measured
from benchmarks.serving.peers.base import Running
from serinus.core.errors import SerinusError

# Connections that keep a server busy. Slow ones get fewer: more would only make their queues longer.
BUSY, FEW = 128, 32
WARM_UPS = 6


class Load(NamedTuple):
    """A closed loop: what it is called in the report, on which server, with which bodies and connections."""

    name: str
    server: str
    bodies: str
    connections: int = BUSY


# In turns, so that what is divided by one another is measured close together.
TURNS = (
    Load("usual zipf", "usual", "zipf", FEW),
    Load("kserve zipf", "kserve", "zipf", FEW),
    Load("fastapi zipf", "fastapi", "zipf", FEW),
    Load("litserve zipf", "litserve", "zipf", FEW),
    Load("ours zipf cached", "ours cached", "zipf"),
    Load("ours zipf cached bare envoy", "bare envoy", "zipf"),
    Load("limit zipf", "limit", "limit-zipf"),
    Load("ours uniform uncached", "ours uncached", "uniform"),
    Load("limit uniform", "limit", "limit-uniform"),
)
ONCE = (
    Load("ours zipf uncached", "ours uncached", "zipf"),
    Load("ours uniform cached", "ours cached", "uniform"),
)
PACED = (
    *(Load(f"{name} zipf paced", name, "zipf") for name in ("kserve", "fastapi", "litserve")),
    Load("limit zipf paced", "limit", "limit-zipf"),
    Load("ours zipf uncached paced", "ours uncached", "zipf"),
)
PACED_TURNS = (
    Load("usual zipf paced", "usual", "zipf"),
    Load("ours zipf cached paced", "ours cached", "zipf"),
)
PACED_ROUNDS = 2


class Run:
    """The cells measured so far: every round's, by name."""

    def __init__(self, ground: Prepared, bodies: Bodies, fleet: Fleet, seconds: int) -> None:
        self.cells: dict[str, list[Cell]] = {}
        self._store = ground.store
        self._bodies = bodies
        self._servers = fleet.servers
        self._seconds = seconds

    def warm(self) -> None:
        """Keep each server busy until it gets no faster: Java compiles as it goes."""
        for load in (*TURNS, *ONCE):
            if load.server in self._servers and load.name != "limit uniform":
                best = 0.0
                for _ in range(WARM_UPS):
                    rate = self._closed(load, 1).rate
                    if rate < best * 1.1:
                        break
                    best = rate

    def busy(self, load: Load) -> None:
        """One round of a closed loop, after a second to come back from the others' turns."""
        if load.server in self._servers:
            self._closed(load, 1)
            self._keep(load, lambda: self._closed(load, self._seconds))

    def paced(self, load: Load, rate: float) -> None:
        """An open loop at a rate."""
        if load.server in self._servers:
            self._opened(load, rate, 1)
            self._keep(load, lambda: self._opened(load, rate, 2 * self._seconds))

    def best(self, name: str) -> float | None:
        return report.best(self.cells[name]).loaded.rate if name in self.cells else None

    def _closed(self, load: Load, seconds: int) -> Loaded:
        return closed(self._servers[load.server].url, self._bodies.files[load.bodies], load.connections, seconds)

    def _opened(self, load: Load, rate: float, seconds: int) -> Loaded:
        return opened(self._servers[load.server].url, self._bodies.files[load.bodies], rate, seconds)

    def _keep(self, load: Load, run: Callable[[], Loaded]) -> None:
        server: Running = self._servers[load.server]
        cell = measured({**server.roots(), **self._store}, run)
        self.cells.setdefault(load.name, []).append(cell)
        parts = f"{cell.loaded.rate:,.0f}/s, p99 {cell.loaded.p99:.1f} ms, {cell.cpu:.0f} us CPU"
        sys.stderr.write(f"  {load.name}: {parts}{f', {cell.loaded.failed} FAILED' if cell.loaded.failed else ''}\n")


def measure(run: Run, rounds: int) -> None:
    """All loads. The open loop offers everyone what the usual pattern can just bear."""
    _say("warming up")
    run.warm()
    for each in range(rounds):
        _say(f"closed loop, round {each + 1} of {rounds}")
        for load in TURNS:
            run.busy(load)
    _say("closed loop, once")
    for load in ONCE:
        run.busy(load)
    rate = run.best("usual zipf")
    if rate is None:
        return
    _say(f"open loop, {rate:.0f} requests/s, at which the usual pattern is saturated")
    for _ in range(PACED_ROUNDS):
        for load in PACED_TURNS:
            run.paced(load, rate)
    for load in PACED:
        run.paced(load, rate)


_BEGAN = time.monotonic()


def _say(text: str) -> None:
    sys.stderr.write(f"[{time.monotonic() - _BEGAN:4.0f} s] {text}\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--store", choices=["redis", "sqlite"], default="redis", help="Feast's online store")
    parser.add_argument("--seconds", type=int, default=3, help="length of one load in each round")
    parser.add_argument("--rounds", type=int, default=3, help="how often each load takes its turn")
    parser.add_argument("--only", nargs="*", choices=PEERS, default=[], help="start only some of the peers")
    parser.add_argument("--report", type=Path, default=Path("build/reports/serving.json"))
    given = parser.parse_args()
    require_wrk()
    _say("preparing: the model, the store, the requests")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, prepared(Path(folder), given.store) as ground:
        bodies = Bodies(ground)
        _say("starting servers")
        with started(ground, bodies, set(given.only or PEERS)) as fleet:
            run = Run(ground, bodies, fleet, given.seconds)
            measure(run, given.rounds)
            _say("ending servers")
    figures = report.figures(run.cells, given.store, fleet.missing)
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    given.report.with_suffix(".md").write_text(report.markdown(run.cells, figures), encoding="utf-8")
    report.show(run.cells, figures)
    _say(f"written to {given.report}")
    return 1 if fleet.missing else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except SerinusError as error:
        raise SystemExit(f"benchmarks.serving: {error}") from error
