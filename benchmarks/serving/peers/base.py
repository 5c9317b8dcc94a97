"""How a peer is started, found ready, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.serving.given import Ground
from benchmarks.serving.measure import Roots
from serinus.engines.scheduling import take_turns
from serinus.engines.waiting import wait_until

HERE = Path(__file__).parent
Body = Callable[[dict[str, Any]], bytes]
START_SECONDS = 300


@dataclass(frozen=True)
class Running:
    """A peer that answers. `roots` may be asked for anew, as servers replace their processes."""

    url: str
    roots: Callable[[], Roots]


def v1(row: dict[str, Any]) -> bytes:
    """The body that most peers take: one row of keys and request features."""
    return json.dumps({"instances": [row]}, separators=(",", ":")).encode()


@contextlib.contextmanager
def processes(
    commands: Mapping[str, Sequence[str]], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Roots]:
    """Run commands, scheduled as ours are, their words in a log file; ends them and all their descendants."""
    started: dict[str, subprocess.Popen[bytes]] = {}
    own = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    with log.open("ab") as words:
        try:
            for label, command in commands.items():
                started[label] = subprocess.Popen(
                    command, stdout=words, stderr=words, env=own, cwd=HERE.parents[2], preexec_fn=take_turns
                )
            yield {label: process.pid for label, process in started.items()}
        finally:
            for process in started.values():
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for each in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.terminate()
        _, alive = psutil.wait_procs(tree, timeout=8)
        for each in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait(timeout=10)


def await_answer(url: str, body: bytes, log: Path, seconds: float = START_SECONDS) -> None:
    """Wait until a peer answers 200.

    Raises:
        TimeoutError: it does not; with the end of its log.
    """
    last = "no connection"

    def answers() -> bool:
        nonlocal last
        try:
            answer = httpx.post(url, content=body, headers={"Content-Type": "application/json"}, timeout=5)
        except httpx.TransportError as error:
            last = repr(error)
            return False
        last = f"{answer.status_code} {answer.text[:500]}"
        return answer.status_code == 200

    if not wait_until(answers, seconds, every=0.2):
        raise TimeoutError(f"{url} does not answer ({last}):\n{log.read_text(errors='replace')[-3000:]}")


def python(script: str, ground: Ground, port: int) -> list[str]:
    """The command of a peer's own script: the ground's file and the port to listen on."""
    module = f"benchmarks.serving.peers.{script}"
    return [sys.executable, "-m", module, str(Path(ground.folder) / "ground.json"), str(port)]
