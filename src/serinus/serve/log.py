"""The prediction log's writer in a predictor's worker: answered rows into segments, off the request's path.

A request's thread hands over arrays that it has anyway, counts their rows and goes on; it never waits. A thread of its
own joins what came within a tenth of a second, appends it to the open segment by one write, and closes segments by
size, age and day. Rows that find the queue or the disk full are dropped and counted. A worker that is killed loses the
rows that were not appended yet, a tenth of a second's, and the counters show how many: they were counted as logged
when they were handed over, and no segment has them.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import queue
import secrets
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from serinus.core.prediction_log import SAMPLED
from serinus.core.serving import ServingConfig
from serinus.core.signature import Signature
from serinus.core.spec.log import PredictionLog
from serinus.serve.log_columns import LogColumns, blank
from serinus.serve.log_segment import Label, OpenSegment
from serinus.serve.served import Served

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

EPOCH_FILE = "log-epoch"
_GATHER_SECONDS = 0.1
_QUEUE_ROWS = 16_384
_STOP_SECONDS = 5.0
_DAY = 86_400_000_000
# The shipper makes room at the limit; where none is alive, the writer stops here.
_HARD_LIMIT = 1.25
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Counts(Protocol):
    """What `Telemetry` gives."""

    def count(self, name: str, amount: int, *labels: str) -> None:
        """Add to one of `METRICS`' counters."""
        ...


def epoch(folder: Path) -> str:
    """The name of the period over which the counters in a folder of metrics run; made by whoever asks first."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / EPOCH_FILE).open("a+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        name = file.read()
        if not name:
            name = secrets.token_hex(8)
            file.write(name)
        return name


def new_writer() -> str:
    """A name that no other writer anywhere has."""
    return f"{os.getpid()}-{secrets.token_hex(6)}"


def spool_bytes(folder: Path) -> int:
    """Bytes of all files below a spool."""
    total = 0
    for path in folder.glob("*/*"):
        with suppress(FileNotFoundError):  # shipped meanwhile
            total += path.stat().st_size
    return total


class LogWriter:
    """The log of one model version in one worker; `add` belongs to one thread.

    Raises:
        InvalidInput: the signature cannot be laid out as a log.
    """

    def __init__(self, config: ServingConfig, signature: Signature, spool: Path, counts: Counts) -> None:
        self._columns = LogColumns(signature, config.deployment.features)
        self._columns.batch([blank(signature)]).serialize()
        label = Label(
            stream="predictions",
            model=config.deployment.model.name,
            version=str(config.version),
            epoch=epoch(config.metrics_dir),
            writer=new_writer(),
            day="",
            schema_digest=signature.schema_digest,
        )
        self._segments = Segments(spool, label, config.deployment.log, self._columns.schema)
        self._settings = config.deployment.log
        self._counts = counts
        self._random = np.random.default_rng()
        self._queue: queue.SimpleQueue[Served | None] = queue.SimpleQueue()
        self._added = 0
        self._taken = 0
        self._stop = threading.Event()
        self._healthy = True
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def add(self, served: Served) -> None:
        """Hand over rows; returns at once, and raises nothing."""
        rows = served.rows
        self._counts.count("serinus_log_rows_total", rows)
        # Each of the two is written by one thread only, so no lock is needed.
        if self._added + rows - self._taken > _QUEUE_ROWS:
            self._drop("queue_full", rows)
            return
        self._added += rows
        self._queue.put(served)

    def close(self) -> None:
        """Write what waits and close the segment."""
        self._stop.set()
        self._queue.put(None)
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._round()
        self._write(self._waiting())
        self._segments.close()
        self._count_closed()

    def _round(self) -> None:
        """Wait for rows, or until the open segment is old enough; then write what there is."""
        try:
            first = self._queue.get(timeout=self._segments.seconds_left())
        except queue.Empty:
            first = None
        if first is not None:
            self._stop.wait(_GATHER_SECONDS)
            self._write([first, *self._waiting()])
        if self._segments.seconds_left() == 0.0:
            self._segments.close()
        self._count_closed()

    def _waiting(self) -> list[Served]:
        found = []
        with suppress(queue.Empty):
            while True:
                served = self._queue.get_nowait()
                if served is not None:
                    found.append(served)
        return found

    def _write(self, waiting: list[Served]) -> None:
        """Append rows, those of each day to a segment of that day."""
        while waiting:
            day = waiting[0].served_at // _DAY
            count = next((at for at, each in enumerate(waiting) if each.served_at // _DAY != day), len(waiting))
            part, waiting = waiting[:count], waiting[count:]
            rows = sum(each.rows for each in part)
            if rows:
                self._append(part, rows, datetime.fromtimestamp(day * _DAY // 1_000_000, UTC).date().isoformat())
            self._taken += rows

    def _append(self, served: Sequence[Served], rows: int, day: str) -> None:
        try:
            batch = self._sample(self._columns.batch(served))
        except Exception:  # values that Arrow refuses, in whatever way, must not end the log
            log.exception("%d rows cannot be laid out for the prediction log", rows)
            self._drop("invalid", rows)
            return
        try:
            size = self._segments.append(batch, day)
        except OSError as error:
            self._failed(error, batch.num_rows)
            return
        self._recovered()
        self._counts.count("serinus_log_appended_rows_total", batch.num_rows)
        self._counts.count("serinus_log_appended_bytes_total", size)

    def _sample(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if self._settings.sample >= 1:
            return batch
        kept = batch.take(np.flatnonzero(self._random.random(batch.num_rows) < self._settings.sample))
        self._drop(SAMPLED, batch.num_rows - kept.num_rows)
        return kept

    def _failed(self, error: OSError, rows: int) -> None:
        reason = "disk_full" if error.errno in _FULL else "disk_error"
        self._drop(reason, rows)
        if self._healthy:  # one line when it begins and one when it is over
            log.error("prediction log: %s; rows are dropped and counted until there is room", error)
        self._healthy = False

    def _recovered(self) -> None:
        if not self._healthy:
            log.info("prediction log: rows are written again")
        self._healthy = True

    def _drop(self, reason: str, rows: int) -> None:
        if rows:
            self._counts.count("serinus_log_dropped_rows_total", rows, reason)

    def _count_closed(self) -> None:
        closed, self._segments.closed = self._segments.closed, 0
        if closed:
            self._counts.count("serinus_log_segments_total", closed)


class Segments:
    """The segments of one writer, one after another; `closed` counts those that were finished. Not for several threads
    at once."""

    def __init__(self, spool: Path, label: Label, settings: PredictionLog, schema: pa.Schema) -> None:
        self.closed = 0
        self._spool = spool
        self._folder = spool / label.stream
        self._label = label
        self._settings = settings
        self._schema = schema
        self._open: OpenSegment | None = None
        self._sequence = 0

    def append(self, batch: pa.RecordBatch, day: str, *, durable: bool = False) -> int:
        """Append rows of one UTC day; gives the bytes they took.

        Raises:
            OSError: the disk refuses, or the spool holds more than it may; no row of the batch is kept.
        """
        if self._open is not None and self._open.label.day != day:
            self.close()
        if self._open is None:
            self._open = self._new(day)
        try:
            size = self._open.append(batch, durable=durable)
        except OSError:
            # What it holds is safe and may be shipped, which makes room; the next rows try another file.
            self.close()
            raise
        if self._open.rows >= self._settings.segment_rows or self._open.size >= self._settings.segment_bytes:
            self.close()
        return size

    def seconds_left(self) -> float | None:
        """Until the open segment is old enough to be closed; None without one."""
        if self._open is None:
            return None
        return max(0.0, self._open.opened + self._settings.segment_age.total_seconds() - time.monotonic())

    def close(self) -> None:
        """Close the open segment, if there is one. One that cannot be is left to be recovered."""
        if self._open is None:
            return
        segment, self._open = self._open, None
        try:
            self.closed += segment.close() is not None
        except OSError as error:
            log.error("prediction log: cannot close segment %s: %s", segment.label.leaf, error)

    def _new(self, day: str) -> OpenSegment:
        if spool_bytes(self._spool) > _HARD_LIMIT * self._settings.buffer_limit:
            raise OSError(errno.ENOSPC, "the spool is beyond its limit; does the sidecar run?", str(self._spool))
        segment = OpenSegment(self._folder, self._label.following(self._sequence, day), self._schema)
        self._sequence += 1
        return segment
