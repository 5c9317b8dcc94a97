"""Follows a local pipeline run: turns what KFP and its steps print into events, and keeps it all in log files.

KFP reports in two ways, neither meant for programs: messages to the root logger, and the steps' output on standard
output. Both are process-wide, so a process can follow one local run at a time. The messages are held by a test.
"""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from serinus.engines.kfp_prune import RUN_LOG
from serinus.engines.kfp_step import MARKER, Message

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_STARTED = re.compile(r"Executing task '(?P<step>[^']+)'")
_ENDED = re.compile(r"Task '(?P<step>[^']+)' finished with status (?P<status>\w+)")
_CACHED = re.compile(r"Task (?P<step>\S+) cache hit")
_INDENT = "    "
_TAIL = 30


@dataclass(frozen=True)
class StepEvent:
    """Something that happened to a step; `text` is its progress or result in a few words."""

    type: Literal["started", "progress", "finished", "cached", "failed"]
    step: str
    seconds: float = 0.0
    text: str = ""


@dataclass
class StepRun:
    """One step of a run. `log` is None when nothing ran, because the result was there already."""

    name: str
    status: Literal["running", "ran", "cached", "failed"]
    seconds: float = 0.0
    log: Path | None = None
    result: str = ""
    error: Message | None = None
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL))


class Watcher(logging.Filter):
    """Collects the steps of one run, in the order in which they ran."""

    def __init__(self, folder: Path, on_event: Callable[[StepEvent], None]) -> None:
        super().__init__()
        self.steps: list[StepRun] = []
        self._folder = folder
        self._on_event = on_event
        self._began = 0.0
        self._log: io.TextIOBase | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow what is run inside the block; nothing of it reaches the screen but through events."""
        root = logging.getLogger()
        level, placeholder = root.level, logging.NullHandler()
        root.addHandler(placeholder)  # without any handler, logging would add one of its own for good
        root.addFilter(self)
        root.setLevel(logging.INFO)
        try:
            path = self._folder / RUN_LOG
            with path.open("w", encoding="utf-8") as self._run_log, redirect_stdout(_Lines(self._line)):
                yield
        finally:
            root.setLevel(level)
            root.removeFilter(self)
            root.removeHandler(placeholder)
            self._close()

    def filter(self, record: logging.LogRecord) -> bool:
        """Take KFP's messages, which it logs straight to the root logger."""
        text = _COLOUR.sub("", record.getMessage())
        self._run_log.write(f"{record.levelname} {text}\n")
        if found := _STARTED.search(text):
            self._start(found["step"])
        elif found := _CACHED.search(text):
            self.steps.append(StepRun(found["step"], "cached"))
            self._on_event(StepEvent("cached", found["step"]))
        elif found := _ENDED.search(text):
            self._end(succeeded=found["status"] == "SUCCESS")
        return False

    def _start(self, name: str) -> None:
        path = self._folder / f"{name}.log"
        self._log = path.open("w", encoding="utf-8")
        self._began = time.monotonic()
        self.steps.append(StepRun(name, "running", log=path))
        self._on_event(StepEvent("started", name))

    def _end(self, succeeded: bool) -> None:
        step = self.steps[-1]
        step.seconds = time.monotonic() - self._began
        step.status = "ran" if succeeded else "failed"
        self._close()
        self._on_event(StepEvent("finished" if succeeded else "failed", step.name, step.seconds, step.result))

    def _line(self, line: str) -> None:
        if self._log is None:
            return
        line = line.removeprefix(_INDENT)
        self._log.write(line + "\n")
        self._log.flush()
        step = self.steps[-1]
        message = Message.read(line) if MARKER in line else None
        if message is None:
            if line.strip():
                step.tail.append(line)
        elif message.type == "error":
            step.error = message
        else:
            if message.type == "result":
                step.result = message.text
            seconds = time.monotonic() - self._began
            self._on_event(StepEvent("progress", step.name, seconds, message.text))

    def _close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None


class _Lines(io.TextIOBase):
    """A text stream that hands on whole lines."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return sys.__stdout__.encoding if sys.__stdout__ else "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._on_line(line)
        return len(text)
