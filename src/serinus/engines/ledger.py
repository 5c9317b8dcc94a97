"""The ledger as a file: one line of JSON an entry, only ever added to, each line on disk before it counts.

Beside it lies the head, so that a look need not read the whole file. It is a copy: if it is lost, or a process died
between the two writes, it is made again by replaying the entries. A line that was cut short by such a death was never
acted on; it is moved aside, not lost. The head is written after its entry, so one that names an entry which is not
there tells of entries that were taken away.

One process adds and repairs, the holder of the rollout's lease; others only read, and leave a line alone that is just
being written.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from serinus.core.errors import EngineError, IntegrityError, NotFound
from serinus.core.ledger import (
    Broken,
    Checked,
    Entry,
    Head,
    Progress,
    advance,
    chain,
    entry_from,
    line_of,
    missing,
    other,
    replay,
    state_digest,
    verify,
)
from serinus.core.rollout import RolloutState
from serinus.engines.files import write_text

log = logging.getLogger(__name__)

_NEWLINE = b"\n"
_BLOCK = 1 << 16
_HINT = "`serinus ledger verify` tells more"


class Ledger:
    """One deployment's ledger. One process at a time may add to it: whoever holds the rollout's lease.

    Args:
        folder: where its files are.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.jsonl"
        self._head = folder / "head.json"
        self._torn = folder / "ledger.torn"

    def head(self) -> Head:
        """Where the ledger stands, for the holder of the lease: makes good what a death between two writes left.

        Raises:
            IntegrityError: the ledger is broken: an entry is damaged, was changed or is missing.
            EngineError: it cannot be read or repaired.
        """
        with self._reading():
            self._repair()
            copy = self._copy()
            head = self._stands(copy)
        if head is not copy and head.number:
            self._keep(head)
        return head

    def seen(self) -> Head:
        """The same for everyone else: nothing is repaired or written.

        Raises:
            IntegrityError: the ledger is broken.
            EngineError: it cannot be read.
        """
        with self._reading():
            return self._stands(self._copy())

    def append(self, head: Head, entry: Entry, state: RolloutState) -> Head:
        """Add the entry that follows `head`, and say where the ledger stands then.

        Raises:
            EngineError: it cannot be written; then it does not count.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                self._write(file, line_of(entry) + _NEWLINE)
        except OSError as error:
            raise EngineError(f"cannot write to the ledger {self.path}: {error}") from error
        after = Head(number=entry.number, digest=entry.digest, policy=entry.policy or head.policy, state=state)
        self._keep(after)
        return after

    def entries(self) -> Iterator[Entry]:
        """Every entry, oldest first.

        Raises:
            IntegrityError: a line is no entry, or was changed.
        """
        for number, line in enumerate(self._lines(), start=1):
            yield self._entry(line, number)

    def newest_first(self) -> Iterator[Entry]:
        """Every entry, the newest first, read from the file's end as far as is asked for.

        Raises:
            IntegrityError: a line is no entry, or was changed.
        """
        if self.path.exists():
            with self.path.open("rb") as file:
                for _, line in _backwards(file):
                    yield self._entry(line)

    def entry(self, number: int) -> Entry:
        """One entry.

        Raises:
            NotFound: there is none of the number.
            IntegrityError: its line is no entry, or was changed.
        """
        line = next(islice(self._lines(), number - 1, None), None) if number > 0 else None
        if line is None:
            raise NotFound(f"there is no entry {number} in the ledger {self.path}")
        return self._entry(line, number)

    def count(self) -> int:
        """How many entries there are, damaged ones included."""
        return sum(1 for _ in self._lines())

    def verify(self, progress: Progress | None = None) -> Checked:
        """Whether the entries are as they were written, none is missing, and the head names one of them."""
        return verify(self._lines(), self._copy(), progress)

    def replay(self, progress: Progress | None = None) -> Checked:
        """Make every decision again, and say which is the first that does not come out as it was written."""
        return replay(self._lines(), progress)

    def _write(self, file: BinaryIO, line: bytes) -> None:
        """Put a line on disk whole, or leave the file as it was."""
        before = file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(line):
                written += file.write(line[written:])
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):  # the next head moves a rest aside
                file.truncate(before)
            raise

    def _keep(self, head: Head) -> None:
        """Write the copy. Without it the next look makes it again, so a failure takes nothing back."""
        try:
            write_text(self._head, head.model_dump_json(by_alias=True))
        except OSError as error:
            log.warning("cannot write %s: %s", self._head, error)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EngineError(f"cannot read the ledger {self.path}: {error}") from error

    def _lines(self) -> Iterator[bytes]:
        """Whole lines, oldest first; one that is cut short never counted."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(_NEWLINE):
                    yield line[:-1]

    def _entry(self, line: bytes, number: int | None = None) -> Entry:
        try:
            return entry_from(line)
        except IntegrityError as error:
            which = "an entry" if number is None else f"entry {number}"
            raise IntegrityError(f"{which} of the ledger {self.path} is broken: {error.message}", hint=_HINT) from error

    def _copy(self) -> Head | None:
        try:
            return Head.model_validate_json(self._head.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def _stands(self, copy: Head | None) -> Head:
        """The head by the last entry: the copy if it is of that one, or made again from where the copy is of."""
        newest = next(self.newest_first(), None)
        if newest is None and copy is None:
            return Head()
        if newest is None or (copy is not None and copy.number > newest.number):
            assert copy is not None
            raise self._broken(Broken(number=newest.number + 1 if newest else 1, why=missing(copy)))
        if copy is not None and (copy.number, copy.digest) == (newest.number, newest.digest):
            if copy.state is not None and state_digest(copy.state) == newest.after:
                return copy
            copy = None  # its state is another one than was decided
        known = copy or Head()
        for each in chain(self._lines_after(copy), known):
            if isinstance(each, Broken):
                raise self._broken(each)
            known = advance(known, each)
        return known

    def _lines_after(self, copy: Head | None) -> Iterator[bytes]:
        """The lines that follow the copy's entry, searched from the end: it is near."""
        with self.path.open("rb") as file:
            start = 0
            for offset, line in _backwards(file) if copy is not None else ():
                entry = self._entry(line)
                if copy is not None and entry.number == copy.number:
                    if entry.digest != copy.digest:
                        raise self._broken(Broken(number=entry.number, why=other(copy)))
                    start = offset + len(line) + 1
                    break
            file.seek(start)
            for line in file:
                if line.endswith(_NEWLINE):
                    yield line[:-1]

    def _broken(self, broken: Broken) -> IntegrityError:
        return IntegrityError(f"entry {broken.number} of the ledger {self.path} is broken: {broken.why}", hint=_HINT)

    def _repair(self) -> None:
        """Move a last line that was cut short aside."""
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            size, whole = file.seek(0, os.SEEK_END), _end_of_lines(file)
            if whole == size:
                return
            file.seek(whole)
            with self._torn.open("ab") as torn:
                torn.write(file.read() + _NEWLINE)
                torn.flush()
                os.fsync(torn.fileno())
            file.truncate(whole)
            os.fsync(file.fileno())


def _end_of_lines(file: BinaryIO) -> int:
    """Where the last whole line ends."""
    position = file.seek(0, os.SEEK_END)
    while position:
        step = min(_BLOCK, position)
        position -= step
        file.seek(position)
        found = file.read(step).rfind(_NEWLINE)
        if found >= 0:
            return position + found + 1
    return 0


def _backwards(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Where each whole line begins, and the line, the last one first."""
    position, rest = _end_of_lines(file), b""
    while position:
        step = min(_BLOCK, position)
        position -= step
        file.seek(position)
        rest = file.read(step) + rest
        first, *whole, _ = rest.split(_NEWLINE)
        offset = position + len(rest)
        for line in reversed(whole):
            offset -= len(line) + 1
            yield offset, line
        rest = first + _NEWLINE
    if rest:
        yield 0, rest[:-1]
