"""Servers that outlive the command which started them. A record on disk is believed only as far as it agrees with the
process: the same start time and the same command line."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from serinus.engines.processes import ProcessId, command_line, end, is_alive


class Servers:
    """Processes with a name each, recorded in `FOLDER/pid`, their output in `FOLDER/log`."""

    def __init__(self, folder: Path) -> None:
        self._pids = folder / "pid"
        self._logs = folder / "log"

    def start(self, name: str, command: Sequence[str], inside: Sequence[str]) -> None:
        """Start a server, unless exactly this one runs. `inside` is what must go before its command."""
        if (running := self._running(name)) and command_line(running)[:-1] == list(command):
            return
        self.stop(name)
        for folder in (self._pids, self._logs):
            folder.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{name}.log").open("ab") as log:
            started = subprocess.Popen(
                [*inside, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        if found := ProcessId.of(started.pid):
            (self._pids / name).write_text(found.model_dump_json(), encoding="utf-8")
        # It is to outlive this process, whose end is not to wait for it.
        started.returncode = 0

    def stop(self, *names: str) -> None:
        """End servers, the first ones first; those that do not run are forgotten."""
        for name in names:
            if running := self._running(name):
                end([running])
            (self._pids / name).unlink(missing_ok=True)

    def recorded(self) -> list[str]:
        """The names of the servers that were started and not stopped."""
        return sorted(path.name for path in self._pids.iterdir()) if self._pids.is_dir() else []

    def check(self) -> None:
        """Whether all that was started still runs.

        Raises:
            RuntimeError: with the last lines of what one said that does not.
        """
        for name in self.recorded():
            if self._running(name) is None:
                lines = (self._logs / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
                raise RuntimeError("\n".join([f"{name} has ended:", *lines[-15:]]))

    def _running(self, name: str) -> ProcessId | None:
        record = self._pids / name
        if not record.is_file():
            return None
        found = ProcessId.model_validate_json(record.read_text(encoding="utf-8"))
        return found if is_alive(found) else None
