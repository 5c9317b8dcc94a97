"""CPU and memory of a peer's processes, from /proc; the load generator is none of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import psutil

from benchmarks.serving.load import Loaded

Roots = Mapping[str, int]
"""Process id by label; a process's descendants count under the same label, unless they have one of their own."""


@dataclass(frozen=True)
class Cell:
    """One peer under one load: CPU in microseconds a request by process, memory in MB."""

    loaded: Loaded
    cpu_us: dict[str, float] = field(default_factory=dict)
    memory_mb: float = 0.0

    @property
    def cpu(self) -> float:
        return sum(self.cpu_us.values())


def measured(roots: Roots, load: Callable[[], Loaded]) -> Cell:
    """Run a load and say what it cost."""
    before = _cpu(roots)
    loaded = load()
    after = _cpu(roots)
    spent = {label: max(0.0, after[label] - before.get(label, 0.0)) * 1e6 / max(1, loaded.requests) for label in after}
    return Cell(loaded, spent, _memory(roots))


def _trees(roots: Roots) -> dict[str, list[psutil.Process]]:
    own = set(roots.values())
    found = {}
    for label, pid in roots.items():
        root = psutil.Process(pid)
        found[label] = [root, *(child for child in root.children(recursive=True) if child.pid not in own)]
    return found


def _cpu(roots: Roots) -> dict[str, float]:
    """CPU seconds by label."""
    return {label: sum(_seconds(each) for each in tree) for label, tree in _trees(roots).items()}


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _memory(roots: Roots) -> float:
    """Proportional set size in MB: a page that processes share is counted once."""
    total = 0
    for tree in _trees(roots).values():
        for process in tree:
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
    return total / 1e6
