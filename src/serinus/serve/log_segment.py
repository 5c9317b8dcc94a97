"""A segment: some rows of a log in one file on the predictor's own disk, in Arrow's stream format.

A batch of rows is one message, appended by one write, so that whatever kills the writer, the file is whole up to its
last message. While a segment is written its name ends in `.open` and its writer holds a lock on it, which the kernel
takes away from the dead: an open segment that can be locked has no writer any more, and is recovered.

    new      <writer>-<sequence>.new             the header is being written; holds no rows
    open     <writer>-<sequence>.open            rows come in
    closed   <writer>-<sequence>-<rows>.arrows   complete, on the disk for good, ready to be shipped
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from serinus.core.errors import IntegrityError
from serinus.core.prediction_log import MODEL, VERSION, Stream, object_name

log = logging.getLogger(__name__)

NEW, OPEN, CLOSED = ".new", ".open", ".arrows"
_LABEL = b"serinus"
_DIGITS = 16
_UNREADABLE = (pa.ArrowException, OSError, EOFError)


@dataclass(frozen=True, slots=True)
class Label:
    """Whose rows a segment holds, written into its header.

    `epoch` names the period over which the predictor's counters run: rows of an earlier one are not balanced against
    them. `day` is the UTC date of all its rows, in ISO form. `version` is empty for outcomes.
    """

    stream: Stream
    model: str
    version: str
    epoch: str
    writer: str
    day: str
    schema_digest: str
    sequence: int = 0

    @property
    def leaf(self) -> str:
        return f"{self.writer}-{self.sequence:06d}"

    def object_name(self, digest: str) -> str:
        """Where its rows belong at the destination; the same at every attempt."""
        partition = {MODEL: self.model} | ({VERSION: self.version} if self.version else {})
        return object_name(self.stream, date.fromisoformat(self.day), partition, f"{self.leaf}-{digest}")

    def following(self, sequence: int, day: str) -> Label:
        return replace(self, sequence=sequence, day=day)


class OpenSegment:
    """The file that a writer appends to. Not for several threads at once.

    Raises:
        OSError: from any method, when the disk refuses; what was appended before is safe.
    """

    def __init__(self, folder: Path, label: Label, schema: pa.Schema) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.rows = 0
        self.opened = time.monotonic()
        self.label = label
        self._folder = folder
        self._torn = False
        new = folder / f"{label.leaf}{NEW}"
        self._path = new.with_suffix(OPEN)
        metadata = {**(schema.metadata or {}), _LABEL: json.dumps(asdict(label)).encode()}
        header = schema.with_metadata(metadata).serialize()
        self._file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.size = _write(self._file, header, 0)
            new.rename(self._path)
        except OSError:
            os.close(self._file)
            new.unlink(missing_ok=True)
            raise

    def append(self, batch: pa.RecordBatch, *, durable: bool = False) -> int:
        """Add rows all or none, `durable` also against a power cut; gives the bytes they took.

        On an error the file is cut back to what it held before.
        """
        before = self.size
        try:
            self.size = _write(self._file, batch.serialize(), before)
            if durable:
                os.fsync(self._file)
                self._sync_name()
        except OSError:
            self.size = before
            try:
                os.ftruncate(self._file, before)
            except OSError:
                self._torn = True
            raise
        self.rows += batch.num_rows
        return self.size - before

    def _sync_name(self) -> None:
        if self.rows:
            return  # done with the first rows
        folder = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> Path | None:
        """Finish the file, safe from power cuts, and give its name; None where there is none.

        A file without rows is removed. One whose end is torn, or that cannot be finished, is left to be recovered.
        """
        try:
            if self._torn:
                return None
            if self.rows == 0:
                self._path.unlink()
                return None
            os.fsync(self._file)
            return self._path.rename(self._folder / f"{self.label.leaf}-{self.rows}{CLOSED}")
        finally:
            os.close(self._file)


def _write(file: int, content: Any, at: int) -> int:
    """Write all of a buffer at an offset; gives where it ends."""
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, at)
        at += written
        view = view[written:]
    return at


@dataclass(frozen=True, slots=True)
class Scan:
    """What a segment's file holds: whole batches up to the byte `end`."""

    label: Label
    schema: pa.Schema
    rows: int
    end: int


def read_label(path: Path) -> Label:
    """
    Raises:
        IntegrityError: the file's header is damaged.
        FileNotFoundError: the file is gone.
    """
    return scan_header(path).label


def scan_header(path: Path) -> Scan:
    """A scan that has read the header only. Raises as `read_label`."""
    with _opened(path) as file:
        try:
            schema = pa.ipc.read_schema(file)
            label = Label(**json.loads(schema.metadata[_LABEL]))
        except (*_UNREADABLE, ValueError, TypeError, KeyError) as error:
            raise IntegrityError(f"the segment {path} has no readable header: {error}") from error
        return Scan(label, schema, 0, file.tell())


def scan_on(path: Path, known: Scan, *, thorough: bool = False) -> Scan:
    """Continue a scan over the batches that were appended since; `thorough` also checks every value's form.

    Raises:
        FileNotFoundError: the file is gone.
    """
    rows, end = known.rows, known.end
    with _opened(path) as file:
        file.seek(end)
        while True:
            try:
                message = pa.ipc.read_message(file)
                batch = pa.ipc.read_record_batch(message, known.schema)
                if thorough:
                    batch.validate(full=True)
            except _UNREADABLE:
                break  # the end, or a batch that was cut short
            rows, end = rows + batch.num_rows, file.tell()
    return Scan(known.label, known.schema, rows, end)


def read_segment(path: Path) -> pa.Table:
    """All rows of a closed segment.

    Raises:
        IntegrityError: it is damaged.
    """
    with _opened(path) as file:
        try:
            table = pa.ipc.open_stream(file).read_all()
            table.validate(full=True)
        except _UNREADABLE as error:
            raise IntegrityError(f"the segment {path} is damaged: {error}") from error
    if table.num_rows != closed_rows(path):
        raise IntegrityError(f"the segment {path} holds {table.num_rows} rows, its name says {closed_rows(path)}")
    return table


def segment_digest(path: Path) -> str:
    """The first digits of the SHA-256 of a closed segment."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]


def closed_rows(path: Path) -> int:
    """How many rows a closed segment's name says it has."""
    return int(path.stem.rpartition("-")[2])


def recover(path: Path) -> Path | None:
    """Close a dead writer's segment after its last whole batch; None while the writer lives, or if there are no rows.

    Raises:
        IntegrityError: its header is damaged.
        OSError: the disk refuses.
    """
    with suppress(FileNotFoundError), path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if os.fstat(file.fileno()).st_ino != path.stat().st_ino:
            return None
        found = scan_on(path, scan_header(path), thorough=True)
        size = os.fstat(file.fileno()).st_size
        log.info("recovered %d rows of %s; %d bytes after them were cut short", found.rows, path.name, size - found.end)
        if found.rows == 0:
            path.unlink()
            return None
        os.ftruncate(file.fileno(), found.end)
        os.fsync(file.fileno())
        return path.rename(path.with_name(f"{found.label.leaf}-{found.rows}{CLOSED}"))
    return None


@contextmanager
def _opened(path: Path) -> Iterator[pa.OSFile]:
    """Read by plain reads: a mapped file that its writer cuts back would kill the reader."""
    with pa.OSFile(str(path), "rb") as file:
        yield file
