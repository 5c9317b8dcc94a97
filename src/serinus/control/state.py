"""What a running stack is, as written beside it: enough to ask it, change it and end it from another process."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from serinus.core.errors import Conflict
from serinus.core.platform import Platform
from serinus.core.spec.deployment import ModelDeploymentSpec
from serinus.engines.envoy import Door
from serinus.engines.files import write_text
from serinus.engines.ports import LOOPBACK
from serinus.engines.processes import ProcessId
from serinus.engines.supervisor import SOCKET_PATH_LIMIT, Supervisor
from serinus.engines.torchserve import Instance

# The longest name below the runtime folder: the socket of a TorchServe worker, with its port.
_LONGEST_NAME = "/torchserve-000000/.ts.sock.00000"


class Canary(BaseModel):
    """The second version: `weight` is the percent of requests that it answers, `shadow` of those it gets a copy of."""

    model_config = ConfigDict(frozen=True)

    version: int
    digest: str
    weight: float = 0
    shadow: float = 0


class StackState(BaseModel):
    """One running stack: one model behind one front port.

    `mark` is unique to it and in the environment of all its processes. `stable` is the version that answers what the
    `canary` does not; `instances` may for a while hold another that is being started or drained. With `as_of` it
    replays the past.
    """

    model_config = ConfigDict(frozen=True)

    mark: str
    started_at: datetime
    runtime: Path
    supervisor: ProcessId | None
    stable: int
    digest: str
    canary: Canary | None = None
    as_of: datetime | None
    feature_project: str
    deployment: ModelDeploymentSpec
    instances: dict[int, Instance]
    door: Door

    @property
    def model(self) -> str:
        return self.deployment.model.name

    @property
    def roles(self) -> tuple[int, ...]:
        """The versions that are to be up: the stable one, and the canary if there is one."""
        return (self.stable, self.canary.version) if self.canary else (self.stable,)

    @property
    def address(self) -> str:
        """Where applications ask."""
        return f"http://{LOOPBACK}:{self.door.port}"


class RunFolder:
    """The folder `run` of a platform: where everything of a running stack is written."""

    def __init__(self, platform: Platform) -> None:
        self.path = platform.state / "run"

    @property
    def _state(self) -> Path:
        return self.path / "state.json"

    def launch(self, program: str) -> Path:
        return self.path / "launch" / f"{program}.json"

    def version(self, number: int) -> Path:
        return self.path / "versions" / str(number)

    @property
    def metrics(self) -> Path:
        """Where workers of every version write what they count, and the sidecar reads it."""
        return self.path / "metrics"

    @property
    def spool(self) -> Path:
        """Where the prediction log waits to be shipped. It stays when a stack ends: the next one ships what is left."""
        return self.path / "spool"

    @property
    def sidecar(self) -> Path:
        """The sidecar's ServingConfig."""
        return self.path / "sidecar.json"

    def supervisor(self, state: StackState) -> Supervisor:
        return Supervisor(self.path, state.runtime)

    def read(self) -> StackState | None:
        """The stack that was last started here and not ended; its processes may have died since.

        Raises:
            Conflict: the state file is damaged.
        """
        try:
            return StackState.model_validate_json(self._state.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise Conflict(
                f"the state file {self._state} is damaged or of another version of Serinus",
                hint="end the processes that serve this project by hand, then remove the file",
            ) from error

    def write(self, state: StackState) -> None:
        write_text(self._state, state.model_dump_json(indent=2))

    def forget(self) -> None:
        self._state.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one command changes a stack at a time.

        Raises:
            Conflict: another command is at it.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict(
                    "another serinus command is starting, changing or stopping this stack", hint="wait for it to end"
                ) from error
            yield

    def new_runtime(self) -> Path:
        """A folder of the user's own for sockets: below `run` where its path is short enough and it can hold sockets,
        else a new one in the system's folder for temporary files."""
        own = self.path / "rt"
        own.mkdir(parents=True, exist_ok=True, mode=0o700)
        if len(os.fsencode(own)) + len(_LONGEST_NAME) <= SOCKET_PATH_LIMIT and _holds_sockets(own):
            return own
        return Path(tempfile.mkdtemp(prefix="serinus-", dir=_short_folder()))


def _short_folder() -> str:
    usual = tempfile.gettempdir()
    room = SOCKET_PATH_LIMIT - len(_LONGEST_NAME) - len("/serinus-xxxxxxxx")
    return usual if len(os.fsencode(usual)) <= room else "/tmp"  # noqa: S108 - mkdtemp makes a private folder there


def _holds_sockets(folder: Path) -> bool:
    """Some shared folders of virtual machines and networks cannot hold a Unix socket."""
    path = folder / "probe.sock"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(str(path))
        except OSError:
            return False
    path.unlink(missing_ok=True)
    return True
