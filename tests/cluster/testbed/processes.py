"""Servers that outlive the command which started them. A record on disk is believed only as far as it agrees with the
process: the same start time and the same command line. What they start in turn is known by a mark in its environment.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serinus.engines.processes import MARK, ProcessId, command_line, end, is_alive, marked


@dataclass(frozen=True)
class Server:
    """A program that runs as long as the cluster is up.

    Attributes:
        name: what its record and its log are called.
        command: the program and its arguments, as they are in the end.
        inside: what must go before the command, and is gone when that runs.
        environment: what it has besides this process's.
    """

    name: str
    command: Sequence[str]
    inside: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


class Servers:
    """Processes with a name each, recorded in `FOLDER/pid`, their output in `FOLDER/log`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mark = folder.name
        self._pids = folder / "pid"
        self._logs = folder / "log"

    def start(self, server: Server) -> None:
        """Start a server, unless exactly this one runs."""
        running = self._running(server.name)
        if running and command_line(running)[:-1] == list(server.command):
            return
        self.stop(server.name)
        for folder in (self._pids, self._logs):
            folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, MARK: self._mark, **server.environment}
        command = [*server.inside, *server.command]
        with (self._logs / f"{server.name}.log").open("ab") as log:
            started = subprocess.Popen(
                command, cwd=self._folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        if found := ProcessId.of(started.pid):
            (self._pids / server.name).write_text(found.model_dump_json(), encoding="utf-8")
        # It is to outlive this process, whose end is not to wait for it.
        started.returncode = 0

    def stop(self, *names: str) -> None:
        """End servers, all at once; those that do not run are forgotten."""
        end([running for name in names if (running := self._running(name))])
        for name in names:
            (self._pids / name).unlink(missing_ok=True)

    def stop_all(self, *last: str) -> None:
        """End them all, those named last; then what they have started and left behind."""
        self.stop(*(name for name in self.recorded() if name not in last))
        for name in last:
            self.stop(name)
        end(marked(self._mark))

    def forget_ended(self) -> None:
        """Drop the records of those that have ended, which are to be started again."""
        for name in self.recorded():
            if self._running(name) is None:
                (self._pids / name).unlink()

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
