"""The shipper in the sidecar: closed segments to their destination as Parquet, each exactly once.

A segment's name at the destination follows from its content, so bringing it there again changes nothing. It is removed
here only after it is there and written into the ledger; a segment that the ledger has and that is still here is
removed without being counted again. So the shipper may be killed at any line. What a dead worker left open is closed
after its last whole batch. When the destination cannot be reached the spool grows up to its limit; then the oldest
files go, counted.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from serinus.core.errors import Conflict, EngineError, IntegrityError
from serinus.engines.files import write_text
from serinus.engines.prediction_store import PredictionStore
from serinus.serve.log_columns import readable
from serinus.serve.log_segment import (
    CLOSED,
    NEW,
    OPEN,
    Label,
    Scan,
    closed_rows,
    read_label,
    read_segment,
    recover,
    scan_header,
    scan_on,
    segment_digest,
)

log = logging.getLogger(__name__)

LEDGER = "log-ledger.json"
_DAMAGED = "damaged"
_ROUND_SECONDS = 1.0
_LONGEST_PAUSE = 60.0
_ABANDONED_SECONDS = 60.0

Key = tuple[str, str, str]
"""Stream, model, version."""


class Totals(BaseModel):
    """What became of the segments of one stream, model and version."""

    model_config = ConfigDict(frozen=True)

    rows: int = 0
    segments: int = 0
    bytes: int = 0
    discarded: int = 0
    damaged: int = 0
    failures: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(**{name: getattr(self, name) + getattr(other, name) for name in Totals.model_fields})


class Ledger(BaseModel):
    """Totals since counting began, and `done`: segments that are in them and may still be on the disk."""

    epoch: str
    totals: dict[str, Totals] = {}
    done: list[str] = []

    def get(self, key: Key) -> Totals:
        return self.totals.get("|".join(key), Totals())

    def add(self, label: Label, change: Totals) -> None:
        """Count, if the rows belong to this period."""
        if label.epoch == self.epoch:
            name = "|".join((label.stream, label.model, label.version))
            self.totals[name] = self.totals.get(name, Totals()) + change

    @property
    def keys(self) -> list[Key]:
        return [(stream, model, version) for stream, model, version in (name.split("|") for name in self.totals)]


@dataclass(slots=True)
class Waiting:
    """What waits in the spool: rows of this period, and bytes and the age of the oldest file of any."""

    rows: int = 0
    bytes: int = 0
    age: float = 0.0


class Shipper:
    """One a spool. `step` may be called by one thread, `waiting` and `totals` by any.

    Args:
        spool: the folder that writers append below.
        store: where segments go.
        limit: bytes that may wait here.
        state: folder of the ledger.
        epoch: the period that is counted.

    Raises:
        Conflict: another shipper is at the spool.
    """

    def __init__(self, spool: Path, store: PredictionStore, limit: int, state: Path, epoch: str) -> None:
        spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._spool = spool
        self._store = store
        self._limit = limit
        self._path = state / LEDGER
        self._lock = threading.Lock()
        self._scans: dict[Path, Scan] = {}
        self._claim = _claim(spool / "shipper.lock")
        self._ledger = self._read(epoch)
        self._failing = False

    def run(self, stop: threading.Event, before: Callable[[], None]) -> None:
        """Ship until told to stop, then whatever can still be shipped; waits longer after each failure.

        `before` is called before each round, to close what is due.
        """
        pause = _ROUND_SECONDS
        while not stop.wait(pause):
            before()
            pause = _ROUND_SECONDS if self.step() else min(2 * pause, _LONGEST_PAUSE)
        self.step()

    def close(self) -> None:
        """Let another shipper have the spool."""
        os.close(self._claim)

    def step(self) -> bool:
        """Recover, ship and make room; whether all that was closed is at the destination."""
        try:
            self._recover()
            done = self._ship_all()
            self._make_room()
        except OSError as error:
            log.error("prediction log: the spool %s: %s", self._spool, error)
            return False
        return done

    def totals(self) -> dict[Key, Totals]:
        """What was shipped, discarded and damaged in this period."""
        with self._lock:
            return {key: self._ledger.get(key) for key in self._ledger.keys}

    def waiting(self) -> dict[Key, Waiting]:
        """What is in the spool, counted from its files."""
        with self._lock:
            return self._waiting(time.time())

    def balance(self) -> dict[Key, tuple[Totals, Waiting]]:
        """Both at one moment: no row is in neither or in both."""
        with self._lock:
            waiting = self._waiting(time.time())
            keys = dict.fromkeys([*self._ledger.keys, *waiting])
            return {key: (self._ledger.get(key), waiting.get(key, Waiting())) for key in keys}

    def _waiting(self, now: float) -> dict[Key, Waiting]:
        found: dict[Key, Waiting] = {}
        done = set(self._ledger.done)
        # Open ones first: a segment that is closed in between is then seen twice, not never, and counts once.
        paths = {path.with_suffix("").name: path for path in self._files(OPEN)}
        paths |= {path.stem.rpartition("-")[0]: path for path in self._files(CLOSED) if path.name not in done}
        scans: dict[Path, Scan] = {}
        for path in paths.values():
            with suppress(FileNotFoundError, IntegrityError):  # recovered, or set aside soon
                scan = scans[path] = self._scan(path)
                status = path.stat()
                label = scan.label
                entry = found.setdefault((label.stream, label.model, label.version), Waiting())
                entry.rows += scan.rows if label.epoch == self._ledger.epoch else 0
                entry.bytes += status.st_size
                entry.age = max(entry.age, now - status.st_mtime)
        self._scans = scans
        return found

    def _scan(self, path: Path) -> Scan:
        known = self._scans.get(path) or scan_header(path)
        if path.suffix == CLOSED:
            return Scan(known.label, known.schema, closed_rows(path), known.end)
        return scan_on(path, known)

    def _recover(self) -> None:
        for path in self._files(OPEN):
            try:
                with self._lock:  # or its rows might be counted under both names, or under none
                    recover(path)
            except IntegrityError as error:
                self._set_aside(path, error)
        for path in self._files(NEW):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()

    def _ship_all(self) -> bool:
        for path in self._oldest_first():
            if path.name in self._ledger.done:
                path.unlink(missing_ok=True)  # a predecessor shipped and counted it
                continue
            try:
                self._ship(path)
            except IntegrityError as error:
                self._set_aside(path, error)
            except EngineError as error:
                self._failed(path, error)
                return False
        return True

    def _ship(self, path: Path) -> None:
        label = read_label(path)
        table = readable(read_segment(path))
        content = parquet(table, label)
        self._store.put(label.object_name(segment_digest(path)), content)
        if self._failing:
            log.info("prediction log: %s can be reached again", self._store.url)
        self._failing = False
        self._commit(path, label, Totals(rows=table.num_rows, segments=1, bytes=len(content)))

    def _commit(self, path: Path, label: Label, change: Totals) -> None:
        """Count a segment and remove it. On a full disk the removal comes first, as it makes room for the ledger: a
        kill between the two then shows as a gap, though nothing is lost."""
        with self._lock:
            self._ledger.add(label, change)
            here = {each.name for each in self._files(CLOSED)}
            self._ledger.done = [*(name for name in self._ledger.done if name in here), path.name]
            try:
                self._write()
                path.unlink()
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
                path.unlink()
                with suppress(OSError):  # the next commit writes it
                    self._write()

    def _failed(self, path: Path, error: EngineError) -> None:
        """One line when the destination is lost and one when it is back; every attempt is counted."""
        if not self._failing:
            log.error("prediction log: %s; will try again", error)
        self._failing = True
        with self._lock, suppress(IntegrityError):
            self._ledger.add(read_label(path), Totals(failures=1))

    def _make_room(self) -> None:
        """Drop the oldest closed segments of predictions while the spool is over its limit. Outcomes were promised to
        be kept: they are refused when there is no room, never dropped."""
        excess = sum(entry.bytes for entry in self.waiting().values()) - self._limit
        for path in self._oldest_first():
            if excess <= 0:
                return
            with suppress(IntegrityError):
                label = read_label(path)
                if label.stream == "outcomes" or path.name in self._ledger.done:
                    continue
                excess -= path.stat().st_size
                log.warning("prediction log: the spool is over its limit; %s is dropped", path.name)
                self._commit(path, label, Totals(discarded=closed_rows(path)))

    def _set_aside(self, path: Path, error: IntegrityError) -> None:
        """Keep what cannot be read, out of the way. Its rows show as a gap."""
        log.error("prediction log: %s; it is kept in %s", error, self._spool / _DAMAGED)
        target = self._spool / _DAMAGED / path.name
        target.parent.mkdir(exist_ok=True)
        path.replace(target)
        with self._lock, suppress(IntegrityError):
            self._ledger.add(read_label(target), Totals(damaged=1))

    def _files(self, suffix: str) -> Iterator[Path]:
        for stream in ("predictions", "outcomes"):
            yield from (self._spool / stream).glob(f"*{suffix}")

    def _oldest_first(self) -> list[Path]:
        found = []
        for path in self._files(CLOSED):
            with suppress(FileNotFoundError):
                found.append((path.stat().st_mtime_ns, path))
        return [path for _, path in sorted(found)]

    def _read(self, epoch: str) -> Ledger:
        try:
            ledger = Ledger.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return Ledger(epoch=epoch)
        except ValidationError as error:
            log.error("the ledger %s is damaged, counting begins anew: %s", self._path, error)
            return Ledger(epoch=epoch)
        return ledger if ledger.epoch == epoch else Ledger(epoch=epoch, done=ledger.done)

    def _write(self) -> None:
        write_text(self._path, self._ledger.model_dump_json())


def parquet(table: pa.Table, label: Label) -> bytes:
    """A table as a Parquet file, in memory: a full disk must not stop what empties it."""
    metadata = {
        b"serinus.stream": label.stream.encode(),
        b"serinus.writer": label.leaf.encode(),
        b"serinus.schema_digest": label.schema_digest.encode(),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(metadata), sink, compression="zstd", write_page_checksum=True, version="2.6"
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _claim(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise Conflict(f"another sidecar ships the spool {path.parent}", hint="end it first") from error
    return file


@contextmanager
def shipping(shipper: Shipper, before: Callable[[], None], seconds: float) -> Iterator[None]:
    """Ship on a thread of its own; at the end ship what is left, for so many seconds at most."""
    stop = threading.Event()
    thread = threading.Thread(target=shipper.run, args=(stop, before), name="shipper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(seconds)
        if not thread.is_alive():
            shipper.close()
