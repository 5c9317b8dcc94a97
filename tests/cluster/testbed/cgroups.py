"""The control groups of one cluster's containers: below one of the cluster's own, in each hierarchy of the machine. By
them containers are found and ended, whatever has become of the programs that started them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from serinus.engines.waiting import wait_until

_ROOT = Path("/sys/fs/cgroup")
_SECONDS = 30


class ControlGroups:
    """One control group of a name, with all below it."""

    def __init__(self, name: str) -> None:
        self.path = f"/{name}"
        self._name = name

    def up(self) -> None:
        """Make it, where it is not there yet."""
        for hierarchy in self._hierarchies():
            group = hierarchy / self._name
            group.mkdir(exist_ok=True)
            # Version 1 starts a group with no processor and no memory node, in which no process can be.
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (group / name).is_file() and (allowed := (hierarchy / name).read_text(encoding="ascii").strip()):
                    (group / name).write_text(allowed, encoding="ascii")

    def down(self) -> None:
        """End every process in it and remove it.

        Raises:
            RuntimeError: some process cannot be ended.
        """
        if not wait_until(lambda: not self._kill(), _SECONDS):
            raise RuntimeError(f"processes in the control group {self.path} do not end: {sorted(self._processes())}")
        for hierarchy in self._hierarchies():
            for folder, _, _ in os.walk(hierarchy / self._name, topdown=False):
                with suppress(FileNotFoundError):  # removed meanwhile, by who made it
                    Path(folder).rmdir()

    def _kill(self) -> set[int]:
        found = self._processes()
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return found

    def _processes(self) -> set[int]:
        found = set()
        for hierarchy in self._hierarchies():
            # Groups may go while one looks: walking passes over what is no more.
            for folder, _, _ in os.walk(hierarchy / self._name):
                with suppress(OSError):
                    found.update(map(int, (Path(folder) / "cgroup.procs").read_text(encoding="ascii").split()))
        return found

    def _hierarchies(self) -> Iterator[Path]:
        """Version 2 has one, version 1 a folder each."""
        if (_ROOT / "cgroup.controllers").is_file():
            yield _ROOT
        else:
            yield from (path for path in _ROOT.iterdir() if path.is_dir() and not path.is_symlink())
