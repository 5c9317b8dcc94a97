"""supervisord: keeps the serving processes running, restarts them with back-off, rotates their logs.

It is asked over a Unix socket in a folder of the user's own; there is no network server. Paths reach its configuration
only through the environment: the file format knows no quoting, so that a `#` or `%` in a folder's name would break it.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import xmlrpc.client
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serinus.core.errors import EngineError
from serinus.engines.files import write_text
from serinus.engines.processes import ProcessId, command_line, is_alive
from serinus.engines.sockets import UnixConnection
from serinus.engines.waiting import wait_until

CONFIGURATION = "supervisord.conf"
SOCKET = "supervisor.sock"
SOCKET_PATH_LIMIT = 100
"""Bytes that the path of a Unix socket may have (the system's limit is 108, and a suffix is added while binding)."""

_START_SECONDS = 15.0
_CALL_SECONDS = 60.0


@dataclass(frozen=True)
class Program:
    """One supervised process: `serinus.serve.entry` becomes it, as the launch file says.

    It counts as started after `steady_seconds`; when it ends before, the next attempt waits one second more each time.
    At the end, programs are stopped one after another, the one with the highest `priority` first.
    """

    name: str
    launch: Path
    steady_seconds: int = 1
    stop_seconds: int = 10
    priority: int = 500


@dataclass(frozen=True)
class ProgramState:
    """What supervision knows of a program. `state` is supervisord's name: RUNNING, STARTING, BACKOFF, FATAL, ..."""

    name: str
    state: str
    pid: int
    description: str

    @property
    def running(self) -> bool:
        return self.state == "RUNNING"


def configuration() -> str:
    """The daemon's section of supervisord.conf. `SERINUS_RUNTIME` names the folder of its socket."""
    return f"""[unix_http_server]
file=%(ENV_SERINUS_RUNTIME)s/{SOCKET}
chmod=0600

[supervisord]
directory=.
logfile=logs/supervisord.log
logfile_maxbytes=1MB
logfile_backups=1
pidfile=supervisord.pid
childlogdir=logs
umask=077
loglevel=info
strip_ansi=true
identifier=serinus

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[include]
files=programs/*.conf
"""


def program_configuration(program: Program, folder: Path) -> str:
    """A program's section. Paths are relative to `folder`, the daemon's working folder."""
    return f"""[program:{program.name}]
command="%(ENV_SERINUS_PYTHON)s" -P -m serinus.serve.entry {program.launch.relative_to(folder)}
priority={program.priority}
autostart=true
autorestart=true
startsecs={program.steady_seconds}
startretries=100
stopsignal=TERM
stopwaitsecs={program.stop_seconds}
killasgroup=true
redirect_stderr=true
stdout_logfile=logs/{program.name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=2
"""


class Supervisor:
    """The supervisord of one stack.

    Args:
        folder: its working folder: configuration, programs, logs.
        runtime: a folder with a short path, only the user's own, for the socket.
    """

    def __init__(self, folder: Path, runtime: Path) -> None:
        self._folder = folder
        self._runtime = runtime

    def log(self, program: str) -> Path:
        return self._folder / "logs" / f"{program}.log"

    def start(self, programs: Sequence[Program], environment: Mapping[str, str]) -> ProcessId:
        """Start the daemon, which starts the programs; returns when it answers.

        Raises:
            EngineError: it did not start; with what it said.
        """
        for name in ("logs", "programs"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        for old in (self._folder / "programs").glob("*.conf"):
            old.unlink()
        (self._folder / "supervisord.pid").unlink(missing_ok=True)
        write_text(self._folder / CONFIGURATION, configuration())
        for program in programs:
            self._write(program)
        self._spawn(environment)
        if not wait_until(self.answers, _START_SECONDS):
            raise EngineError(f"supervisord does not answer on {self._runtime / SOCKET}", hint=self._last_words())
        process = ProcessId.of(int(self._call("getPID")))
        if process is None:
            raise EngineError("supervisord ended at once", hint=self._last_words())
        return process

    def _spawn(self, environment: Mapping[str, str]) -> None:
        own = {"SERINUS_PYTHON": sys.executable, "SERINUS_RUNTIME": str(self._runtime)}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", CONFIGURATION],
            cwd=self._folder,
            env={**os.environ, **environment, **own},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_START_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise EngineError("supervisord could not start", hint=(done.stderr or done.stdout).strip())

    def answers(self) -> bool:
        """Whether the daemon can be asked."""
        try:
            self._call("getPID", seconds=5.0)
        except EngineError:
            return False
        return True

    def states(self) -> list[ProgramState]:
        """Every program's state, by name."""
        found: list[dict[str, Any]] = self._call("getAllProcessInfo")
        states = [ProgramState(each["name"], each["statename"], each["pid"], each["description"]) for each in found]
        return sorted(states, key=lambda state: state.name)

    def add(self, program: Program) -> None:
        """Start a further program."""
        self._write(program)
        self._call("reloadConfig")
        self._call("addProcessGroup", program.name)

    def remove(self, name: str) -> None:
        """Stop a program and forget it. One that is not there is no error."""
        (self._folder / "programs" / f"{name}.conf").unlink(missing_ok=True)
        state = next((each for each in self.states() if each.name == name), None)
        if state is None:
            return
        if state.state not in ("STOPPED", "EXITED", "FATAL"):
            self._call("stopProcess", name)
        self._call("removeProcessGroup", name)

    def shutdown(self, process: ProcessId, seconds: float = 30.0) -> bool:
        """Stop the programs and the daemon; False when it is not the recorded process, or did not end in time."""
        if not self.is_ours(process):
            return False
        try:
            self._call("shutdown")
        except EngineError:
            return False
        return wait_until(lambda: not is_alive(process), seconds)

    @staticmethod
    def is_ours(process: ProcessId) -> bool:
        """Whether the recorded process lives and is a supervisord."""
        return "supervisor.supervisord" in command_line(process)

    def _write(self, program: Program) -> None:
        text = program_configuration(program, self._folder)
        write_text(self._folder / "programs" / f"{program.name}.conf", text)

    def _last_words(self) -> str:
        log = self.log("supervisord")
        return "\n".join(log.read_text(errors="replace").splitlines()[-10:]) if log.exists() else f"no log at {log}"

    def _call(self, method: str, *arguments: Any, seconds: float = _CALL_SECONDS) -> Any:
        with _proxy(self._runtime / SOCKET, seconds) as proxy:
            try:
                return getattr(proxy.supervisor, method)(*arguments)
            except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
                raise EngineError(f"supervisord did not do {method}{arguments}: {error}") from error


@contextmanager
def _proxy(path: Path, seconds: float) -> Iterator[xmlrpc.client.ServerProxy]:
    transport = _SocketTransport(path, seconds)
    try:
        yield xmlrpc.client.ServerProxy("http://supervisor", transport=transport)
    finally:
        transport.close()


class _SocketTransport(xmlrpc.client.Transport):
    """XML-RPC over a Unix socket with a time limit (supervisor's own transport has none)."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__()
        self._path = path
        self._seconds = seconds

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = UnixConnection(self._path, self._seconds)
        self._connection = host, connection  # the base class closes what it finds here
        return connection
