"""Kubeflow Pipelines on this machine: runs the pipeline of a cluster here, each step its own process.

A run has one folder: a log a step, and what the steps made. Results are cached by what they were computed from, so that
a run after a failure, or after nothing changed, computes only what is missing. Old runs are removed when one begins.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from serinus.core.errors import Conflict, EngineError, InvalidInput, SerinusError
from serinus.core.platform import Platform
from serinus.engines.kfp_prune import prune
from serinus.engines.kfp_watch import StepEvent, StepRun, Watcher

if TYPE_CHECKING:
    from kfp.dsl.base_component import BaseComponent

logger = logging.getLogger(__name__)

_CACHE = ".cache"
_LOCK = ".lock"


@dataclass(frozen=True)
class RunResult:
    """A pipeline run that ended well. `outputs` are the pipeline's: parameters as values, artifacts as paths."""

    run: str
    folder: Path
    seconds: float
    steps: tuple[StepRun, ...]
    outputs: Mapping[str, Any]


class StepFailed(EngineError):
    """A step ended without saying why: its log's last lines are all there is. `tail` has them."""

    def __init__(self, step: StepRun) -> None:
        last = step.tail[-1].strip() if step.tail else "it printed nothing"
        super().__init__(f"the step {step.name} failed: {last}", hint=f"its whole log: {step.log}")
        self.tail = tuple(step.tail)


def run_local(
    pipeline: BaseComponent,
    arguments: Mapping[str, Any],
    platform: Platform,
    run: str,
    on_event: Callable[[StepEvent], None] = lambda event: None,
) -> RunResult:
    """Run a pipeline on this machine and wait for it.

    Only one run at a time in a process, and in a state folder. Standard output is redirected meanwhile.

    Args:
        pipeline: a function decorated with `dsl.pipeline`.
        arguments: values of its parameters.
        platform: `pipeline_root` is the folder for runs and for cached results.
        run: the run's name, and that of its folder; not used before.
        on_event: told of every step's start, progress and end.

    Raises:
        Conflict: another run holds the folder, or the name is taken.
        SerinusError: the error that a step raised, of the step's class.
        StepFailed: a step ended in another way.
    """
    root = Path(platform.pipeline_root)
    _require_plain_paths(root, arguments)
    folder = root / run
    with _exclusive(root):
        prune(root, root / _CACHE)
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            raise Conflict(f"there was a run {run} already: {folder}", hint="give another name") from error
        began = time.monotonic()
        watcher = Watcher(folder, on_event)
        try:
            with _local_execution(root, folder), _ending_steps_with_us(), watcher.watching():
                outputs = pipeline(**arguments).outputs
        except RuntimeError as error:  # what KFP raises when a step fails
            raise _failure(watcher.steps, error) from error
        values = {name: getattr(value, "path", value) for name, value in outputs.items()}
        return RunResult(run, folder, time.monotonic() - began, tuple(watcher.steps), values)


def _failure(steps: list[StepRun], error: RuntimeError) -> SerinusError:
    failed = next((step for step in steps if step.status in ("failed", "running")), None)
    if failed is None:
        return EngineError(f"the pipeline failed: {error}")
    if failed.error is None:
        return StepFailed(failed)
    told = failed.error.error()
    advice = f"{told.hint}; " if told.hint else ""
    return type(told)(f"{failed.name}: {told.message}", hint=f"{advice}the step's whole log: {failed.log}")


def _require_plain_paths(root: Path, arguments: Mapping[str, Any]) -> None:
    """KFP replaces `python3` by the interpreter's path in all that it passes to the shell, and quotes neither."""
    if any(character in sys.executable for character in " '\"$`\\;&|<>()*?"):
        raise InvalidInput(
            f"KFP cannot start steps with {sys.executable}: the path has a character that a shell reads",
            hint="make the environment in a folder without spaces and special characters",
        )
    for name, value in {**arguments, "the state folder": str(root.absolute())}.items():
        if isinstance(value, str) and "python3" in value:
            raise InvalidInput(
                f"KFP cannot pass {name}: it holds 'python3', which KFP's local runner replaces: {value}",
                hint="rename the folder",
            )


@contextmanager
def _exclusive(root: Path) -> Iterator[None]:
    """Hold the folder of runs; the lock ends with this process, however that ends."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / _LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise Conflict(
                f"another pipeline runs in {root} (process {file.read().strip() or 'unknown'})",
                hint="wait for it to end, or end that process",
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def _local_execution(root: Path, folder: Path) -> Iterator[None]:
    """Set KFP up to run pipelines here, and undo it: while it is set, a call of a pipeline runs it."""
    from kfp import local
    from kfp.local import config

    from serinus.engines.kfp_cache import VerifiedCache

    # Each step writes its source to a new temporary folder and leaves it there. The name stays short, as temporary
    # folders hold sockets, whose paths may not be long.
    temporary = tempfile.mkdtemp(prefix="serinus-")
    earlier = os.environ.get("TMPDIR")
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder),
        workspace_root=str(folder / "workspace"),
        raise_on_error=True,
        enable_caching=True,
        cache_root=str(root / _CACHE),
    )
    VerifiedCache.install((root / _CACHE).absolute())
    os.environ["TMPDIR"] = temporary
    try:
        with warnings.catch_warnings():
            # That an image's name lacks "python", and that a laptop ignores a cluster's settings, is as meant.
            warnings.filterwarnings("ignore", "You may be attemping to run a task", RuntimeWarning)
            warnings.filterwarnings("ignore", ".*have no effect in the current local runner", UserWarning)
            yield
    finally:
        config.LocalExecutionConfig.instance = None
        if earlier is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = earlier
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _ending_steps_with_us() -> Iterator[None]:
    """End the running step's processes when this one is told to end: KFP would leave them, or wait for them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for process in _descendants(os.getpid()):
            try:
                os.kill(process, signal.SIGTERM)
            except ProcessLookupError:
                continue
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    handled = (signal.SIGTERM, signal.SIGINT)
    earlier = {number: signal.signal(number, stop) for number in handled}
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, earlier[number])


def _descendants(process: int) -> list[int]:
    """Processes started by a process, directly or not, the deepest first."""
    found: list[int] = []
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            listed = children.read_text().split()
        except OSError:  # it ended meanwhile
            continue
        for child in map(int, listed):
            found += [*_descendants(child), child]
    return found
