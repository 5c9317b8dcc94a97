"""Follows a pipeline run on a cluster, in the same events as a run on this machine has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from serinus.core.errors import EngineError, SerinusError
from serinus.engines.kfp_cluster import ClusterRun, Task
from serinus.engines.kfp_step import Message
from serinus.engines.kfp_watch import StepEvent
from serinus.engines.kubernetes_logs import Line
from serinus.engines.waiting import wait_until

EVERY_SECONDS = 2.0
_PATIENCE = 10
"""Looks in a row that may fail before following is given up: the run itself goes on."""


class Engine(Protocol):
    """Where the run is."""

    def get(self, run: str) -> ClusterRun: ...


class Logs(Protocol):
    """What its steps print."""

    def new(self) -> Iterator[Line]: ...


@dataclass
class Follower:
    """Looks at a run again and again.

    Attributes:
        engine: where the run is.
        run: its id.
        steps: the names of the pipeline's steps; an engine has more of its own.
        on_event: told what happens.
        logs: of the steps, where they can be read.
        on_line: told of every line of them that is no message of ours.
    """

    engine: Engine
    run: str
    steps: frozenset[str]
    on_event: Callable[[StepEvent], None]
    logs: Logs | None = None
    on_line: Callable[[Line], None] = lambda line: None
    results: dict[str, str] = field(default_factory=dict)
    error: SerinusError | None = None
    _states: dict[str, str] = field(default_factory=dict)

    def until_over(self, seconds: float) -> ClusterRun:
        """Follow the run to its end.

        Raises:
            EngineError: it is not over after so many seconds, or cannot be asked for.
        """
        failures: list[SerinusError] = []
        last: list[ClusterRun] = []

        def over() -> bool:
            try:
                last[:] = [self.look()]
                failures.clear()
            except SerinusError as error:
                failures.append(error)
                if len(failures) == _PATIENCE:
                    raise
            return bool(last) and last[0].over

        if not wait_until(over, seconds, every=EVERY_SECONDS):
            raise EngineError(f"the run {self.run} is not over after {seconds:.0f} s", hint="it goes on; ask again")
        return last[0]

    def look(self) -> ClusterRun:
        """One look: tells what is new."""
        found = self.engine.get(self.run)
        for line in self.logs.new() if self.logs is not None else ():
            self._read(line)
        for task in found.tasks:
            if task.name in self.steps and self._states.get(task.name) != task.state:
                self._changed(task)
        return found

    def _read(self, line: Line) -> None:
        message = Message.read(line.text)
        if message is None:
            self.on_line(line)
        elif message.type == "progress":
            self.on_event(StepEvent("progress", line.step, text=message.text))
        elif message.type == "result":
            self.results[line.step] = message.text
        else:
            self.error = message.error()

    def _changed(self, task: Task) -> None:
        before = self._states.get(task.name)
        self._states[task.name] = task.state
        if task.state == "pending":
            return
        if before in (None, "pending"):
            self.on_event(StepEvent("started", task.name))
        if task.state == "succeeded":
            text = self.results.get(task.name, "")
            self.on_event(StepEvent("finished", task.name, task.seconds, text))
        elif task.state in ("failed", "canceled"):
            self.on_event(StepEvent("failed", task.name, task.seconds))
