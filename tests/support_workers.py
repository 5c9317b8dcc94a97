"""A sidecar with real workers that log as fast as told; each can be killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from serinus.control.log_balance import parse_counts
from serinus.core.prediction_log import Completeness, LogCounts, completeness
from serinus.core.times import Interval, utc
from serinus.engines.prediction_log import read_predictions
from serinus.engines.prediction_store import PredictionStore
from tests.support import eventually
from tests.support_log import MODEL
from tests.support_sidecar import Sidecar

ROOT = Path(__file__).parents[1]
EVER = Interval(since=utc("2000-01-01"), until=utc("2100-01-01"))


class Site(Sidecar):
    """A sidecar and workers that log rows as fast as told."""

    def __init__(self, folder: Path, log: dict[str, Any] | None = None, **fields: Any) -> None:
        super().__init__(folder, {"segmentAge": "400ms", **(log or {})}, **fields)
        self.workers: list[subprocess.Popen[str]] = []

    def worker(self, pause: float = 0.002, batches: int = 10**9) -> subprocess.Popen[str]:
        """A process that logs 16 rows every `pause` seconds, so many times or until it is ended."""
        command = [sys.executable, "-m", "tests.support_log", str(self._file), str(pause)]
        pipe = subprocess.PIPE
        found = subprocess.Popen([*command, str(batches)], cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self.workers.append(found)
        assert found.stdout is not None
        assert found.stdout.readline()
        return found

    def end(self, worker: subprocess.Popen[str]) -> None:
        """Let a worker end in order."""
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.wait(60) == 0

    def counts(self) -> LogCounts:
        """The stations of the log, as metrics show them."""
        return parse_counts(self.client.get("/metrics").text)

    def balance(self) -> Completeness:
        return completeness(self.counts())

    def settled(self) -> Completeness:
        """The balance when no worker lives and all that is left of them has been shipped."""
        assert all(worker.poll() is not None for worker in self.workers)
        eventually(lambda: self.counts().spooled == 0, timeout=30)
        return self.balance()

    def predictions(self) -> pa.Table:
        return read_predictions(PredictionStore(self.config.log_destination), MODEL, EVER)

    def files(self) -> list[Path]:
        return sorted(Path(self.config.log_destination).rglob("*.parquet"))


@contextmanager
def site(folder: Path, log: dict[str, Any] | None = None, **fields: Any) -> Iterator[Site]:
    found = Site(folder, log, **fields)
    try:
        yield found
    finally:
        for worker in found.workers:
            worker.kill()
            worker.wait()
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.close()
            worker.stdout.close()
        found.close()
