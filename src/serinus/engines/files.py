"""Files that are whole or absent, and digests of them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol


class Place(Protocol):
    """Where a file is to be: a path, or `upath.UPath`, which is one of a bucket."""

    def write_bytes(self, data: bytes, /) -> Any: ...


@contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, it replaces `path` in one step, durably.

    On any error the temporary file is removed and `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        publish(part, path, mode)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def publish(part: Path, path: Path, mode: int = 0o644) -> None:
    """Give a finished file of the same file system its final name in one step, durably and with `mode`."""
    _sync(part)  # content before name: after a crash the name never points at a file cut short
    part.chmod(mode)
    part.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Place, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Place, content: bytes) -> None:
    """Write a file atomically: on this machine, or in a bucket, where files only ever are whole."""
    if isinstance(path, Path):
        with replacing(path) as part:
            part.write_bytes(content)
    else:
        path.write_bytes(content)


def sha256(path: Path) -> str:
    """`sha256:` and the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
