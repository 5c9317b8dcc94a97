"""The loop that keeps a model fresh: new data in, online features up to date, the pipeline when it is due.

One tick is one pass at a given time. All of it can be repeated: a tick that died half-way is made good by the next.
"""

from __future__ import annotations

import fcntl
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from serinus.core.errors import Conflict, SerinusError
from serinus.core.triggers import Due, TriggerState, due, next_run
from serinus.engines.files import write_text

if TYPE_CHECKING:
    from serinus.core.platform import Platform
    from serinus.core.spec import ContinuousTrainingSpec
    from serinus.training.project import LoadedProject

log = logging.getLogger(__name__)

# Runs the pipeline as of a time. The edge passes it in, so that the loop knows nothing of KFP.
RunPipeline = Callable[[datetime], object]


class LoopState(BaseModel):
    """What the loop remembers between ticks."""

    model_config = ConfigDict(frozen=True)

    triggers: TriggerState
    last_failure: str | None = None

    @classmethod
    def read(cls, path: Path) -> LoopState | None:
        return cls.model_validate_json(path.read_text()) if path.exists() else None

    def write(self, path: Path) -> None:
        write_text(path, self.model_dump_json(indent=2))


class LoopStatus(BaseModel):
    """What `serinus status` says of the loop: the run that started last, why it failed if it did, and the next one.

    `next_run` is None without a schedule, or where the spec cannot be read; one in the past starts at the next pass.
    """

    model_config = ConfigDict(frozen=True)

    last_run: datetime | None
    last_failure: str | None
    next_run: datetime | None

    @classmethod
    def read(cls, path: Path, spec: ContinuousTrainingSpec | None) -> LoopStatus | None:
        """Of the loop whose state is at `path`; None where none has looked at its schedule yet."""
        state = LoopState.read(path)
        if state is None:
            return None
        return cls(
            last_run=state.triggers.last_started,
            last_failure=state.last_failure,
            next_run=None if spec is None else _next_run(spec, state.triggers),
        )


def _next_run(spec: ContinuousTrainingSpec, state: TriggerState) -> datetime | None:
    """When the next run may start: at its scheduled time, but not too soon after the last start."""
    scheduled = next_run(spec.triggers, state.handled_until)
    if scheduled is None or state.last_started is None:
        return scheduled
    return max(scheduled, state.last_started + spec.limits.minimum_interval)


def state_path(platform: Platform, replaying: bool = False) -> Path:
    """Where the loop's state is; a replay, whose time is the data's, has its own."""
    return platform.state / "run" / ("replay.json" if replaying else "loop.json")


@contextmanager
def lease(platform: Platform) -> Iterator[None]:
    """Hold the right to be this state folder's only loop; it ends with the process, however that dies.

    Raises:
        Conflict: another process holds it.
    """
    path = platform.state / "run" / "loop.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"another loop already runs on {platform.state}", hint="`serinus status` shows it"
            ) from error
        yield


def begin_schedule(path: Path, now: datetime) -> None:
    """Let the schedule whose state is at `path` begin at `now`: nothing before it is due."""
    LoopState(triggers=TriggerState(handled_until=now)).write(path)


def run_forever(tick: Callable[[], None], every_seconds: float, stop: threading.Event) -> None:
    """Tick until `stop` is set. A tick that fails is logged and made up for by the next one."""
    while not stop.is_set():
        try:
            tick()
        except SerinusError as error:
            log.error("%s", error)
        stop.wait(every_seconds)


class BackgroundRuns:
    """Pipeline runs beside the loop, one at a time, each a process: training never holds up fresh features."""

    def __init__(self, command: Callable[[datetime], Sequence[str]], platform: Platform) -> None:
        self._command = command
        self._platform = platform
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, as_of: datetime) -> None:
        """Start the run of a time; its output goes where ours goes."""
        self._process = subprocess.Popen(self._command(as_of), stdout=sys.stderr)

    def busy(self) -> bool:
        """Whether a run is under way. One that has just ended is logged, and a failure remembered."""
        if self._process is None:
            return False
        code = self._process.poll()
        if code is None:
            return True
        self._process = None
        log.info("the pipeline run ended with exit code %d", code)
        state = LoopState.read(state_path(self._platform))
        if state is not None and code not in (0, 1):  # 1 is a refused candidate: an answer, not a failure
            failed = state.model_copy(update={"last_failure": f"the pipeline run ended with exit code {code}"})
            failed.write(state_path(self._platform))
        return False

    def end(self) -> None:
        """End the run that is under way and wait for it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


def fire(loaded: LoadedProject, path: Path, run: RunPipeline, now: datetime) -> Due | None:
    """Run the pipeline if a trigger is due at `now`; the first call only notes where the schedule begins.

    What was handled is remembered at `path`.

    The trigger is marked as handled before the run starts: a run that kills its process is not started again and
    again. A run that fails is remembered with its message and left to the next trigger.
    """
    state = LoopState.read(path)
    if state is None:
        begin_schedule(path, now)
        return None
    spec = loaded.training.spec
    found = due(spec.triggers, spec.limits, state.triggers, now)
    if found is None:
        return None
    log.info("run due: %s", found.reason)
    state = LoopState(triggers=TriggerState(handled_until=found.scheduled_for, last_started=now))
    state.write(path)
    try:
        run(found.scheduled_for)
    except Exception as error:
        state.model_copy(update={"last_failure": str(error)}).write(path)
        raise
    return found
