"""Removes old local runs, so that a laptop that trains every day does not fill its disk.

What a step made lies in the folder of the run that computed it, and the cache refers to it there; so an old run may
hold what every later one reuses. An entry's file is touched whenever it is used. What stays: the newest runs, every
entry that one of them used, and the runs that hold what those entries refer to. Everything else can be computed again.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

KEPT_RUNS = 20
"""How many runs are kept for their own sake, whether they ended well or not."""

RUN_LOG = "run.log"
"""The file that every run's folder has; a folder without one is not ours to remove."""
DIGESTS = ".digests"


def prune(root: Path, cache: Path, kept: int = KEPT_RUNS) -> list[str]:
    """Remove runs beyond the newest `kept` and cache entries that none of those used; gives the removed runs' names.

    No run may be under way. What cannot be removed stays, and the next call tries again.

    Args:
        root: the folder of runs.
        cache: the folder of cache entries.
        kept: how many runs stay whatever they hold.
    """
    runs = sorted(root.glob(f"[!.]*/{RUN_LOG}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    old = [path for path in runs[kept:] if not path.parent.is_symlink()]
    if not old:
        return []
    unused_since = old[0].stat().st_mtime_ns  # the end of the newest old run: what was used later, a kept run used
    needed = _forget_unused(cache, root.absolute(), unused_since)
    removed = []
    for folder in (path.parent for path in old if path.parent.name not in needed):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            log.warning("could not remove the old run %s: %s", folder, error)
        else:
            removed.append(folder.name)
    return removed


def _forget_unused(cache: Path, root: Path, since: int) -> set[str]:
    """Remove entries not used after a time; gives the names of the runs that the others refer to."""
    needed: set[str] = set()
    for entry in cache.glob("*.json"):
        if entry.stat().st_mtime_ns > since:
            needed |= {path.relative_to(root).parts[0] for path in _paths(entry) if path.is_relative_to(root)}
        else:
            entry.unlink()  # before its digests: an entry without them is a miss
            entry.with_suffix(DIGESTS).unlink(missing_ok=True)
    return needed


def _paths(entry: Path) -> Iterator[Path]:
    try:
        outputs = json.loads(entry.read_text(encoding="utf-8"))
    except ValueError:
        return  # a damaged entry is a miss, and refers to nothing
    yield from (Path(uri) for uri in _uris(outputs))


def _uris(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("uri"), str):
            yield value["uri"]
        for each in value.values():
            yield from _uris(each)
    elif isinstance(value, list):
        for each in value:
            yield from _uris(each)
