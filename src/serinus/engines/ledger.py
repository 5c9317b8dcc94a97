"""The ledger as a file: one line of JSON an entry, only ever added to, each line on disk before it counts.

Beside it lies the head, so that a look need not read the whole file. It is a copy: if it is lost, or a process died
between the two writes, it is made again by replaying the entries. A line that was cut short by such a death was never
acted on; it is moved aside, not lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from serinus.core.errors import EngineError, IntegrityError
from serinus.core.ledger import Broken, Entry, Head, advance, chain
from serinus.core.rollout import RolloutState
from serinus.engines.files import write_text

_NEWLINE = b"\n"


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
        """Where the ledger stands; makes good what a death between two writes left.

        Raises:
            IntegrityError: the ledger is broken: an entry is damaged, or was changed.
        """
        self._repair()
        head = self._copy()
        newest = self._newest()
        if newest is None:
            return Head()
        if head is not None and (head.number, head.digest) == (newest.number, newest.digest):
            return head
        return self._replayed(head)

    def append(self, head: Head, entry: Entry, state: RolloutState) -> Head:
        """Add the entry that follows `head`, and say where the ledger stands then.

        Raises:
            EngineError: it cannot be written; then it does not count.
        """
        line = entry.model_dump_json(by_alias=True).encode() + _NEWLINE
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            after = Head(number=entry.number, digest=entry.digest, policy=entry.policy or head.policy, state=state)
            write_text(self._head, after.model_dump_json(by_alias=True))
        except OSError as error:
            raise EngineError(f"cannot write to the ledger {self.path}: {error}") from error
        return after

    def entries(self) -> Iterator[Entry]:
        """Every entry, oldest first.

        Raises:
            IntegrityError: a line is no entry.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(_NEWLINE):  # what is cut short never counted
                    yield self._entry(line, number)

    def verify(self) -> tuple[int, Broken | None]:
        """How many entries are as they were written, and the first one that is not."""
        good = 0
        try:
            for each in chain(self.entries()):
                if isinstance(each, Broken):
                    return good, each
                good += 1
        except IntegrityError as error:
            return good, Broken(number=good + 1, why=error.message)
        return good, None

    def _entry(self, line: bytes, number: int) -> Entry:
        try:
            return Entry.model_validate_json(line)
        except ValidationError as error:
            raise IntegrityError(f"entry {number} of the ledger {self.path} is damaged") from error

    def _copy(self) -> Head | None:
        try:
            return Head.model_validate_json(self._head.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def _newest(self) -> Entry | None:
        """The last entry, read from the file's end."""
        if not self.path.exists() or not self.path.stat().st_size:
            return None
        with self.path.open("rb") as file:
            size, reach = file.seek(0, os.SEEK_END), 4096
            while True:
                file.seek(max(0, size - reach))
                tail = file.read()
                lines = tail[:-1].split(_NEWLINE)
                if len(lines) > 1 or reach >= size:
                    return self._entry(lines[-1], -1)
                reach *= 4

    def _replayed(self, head: Head | None) -> Head:
        """The head made again: from the copy, if the ledger goes on from there, or from the beginning."""
        known = head if head is not None and self._holds(head) else Head()
        for each in chain((entry for entry in self.entries() if entry.number > known.number), known):
            if isinstance(each, Broken):
                raise IntegrityError(
                    f"entry {each.number} of the ledger {self.path} is broken: {each.why}",
                    hint="`serinus ledger verify` tells more",
                )
            known = advance(known, each)
        write_text(self._head, known.model_dump_json(by_alias=True))
        return known

    def _holds(self, head: Head) -> bool:
        return any(entry.number == head.number and entry.digest == head.digest for entry in self.entries())

    def _repair(self) -> None:
        """Move a last line that was cut short aside."""
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            content = file.seek(0, os.SEEK_END)
            if not content:
                return
            file.seek(content - 1)
            if file.read(1) == _NEWLINE:
                return
            file.seek(0)
            whole = file.read()
            cut = whole.rfind(_NEWLINE) + 1
            with self._torn.open("ab") as torn:
                torn.write(whole[cut:] + _NEWLINE)
            file.truncate(cut)
            os.fsync(file.fileno())
