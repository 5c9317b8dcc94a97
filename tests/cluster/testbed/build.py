"""The testbed's programs, compiled once: kept in the user's cache under the digest of what they are made of."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
NICE = ["nice", "-n", "19"]


def programs(level: str) -> Path:
    """The folder with the programs of a level, built now if it is not in the cache.

    Raises:
        RuntimeError: they cannot be built.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "serinus" / "testbed"
    cache.mkdir(parents=True, exist_ok=True)
    built = cache / f"{level}-{digest()}"
    # Whoever comes second waits for the first one, and finds what that has built.
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.is_dir():
            _build(level, built)
    return built


def digest() -> str:
    """Digest of everything that decides what is built."""
    sources = [HERE / "go.mod", HERE / "go.sum", HERE / "build.sh", *sorted((HERE / "cmd").rglob("*.go"))]
    found = hashlib.sha256()
    for path in sources:
        found.update(f"{path.relative_to(HERE)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()[:16]


def _build(level: str, built: Path) -> None:
    if shutil.which("go") is None:
        raise RuntimeError("the testbed is compiled: install Go 1.26 or newer, or set KUBECONFIG to use a cluster")
    # Built beside its place, and moved there whole. With the lock held, what another build left is of no use to anyone.
    unfinished = built.parent / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    result = subprocess.run([*NICE, HERE / "build.sh", level, unfinished], stdin=subprocess.DEVNULL, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{HERE / 'build.sh'} {level} failed with exit code {result.returncode}")
    unfinished.rename(built)
