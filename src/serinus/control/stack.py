"""`up` and `down`: the serving processes of one project on one machine, started, recognised and ended as a whole."""

from __future__ import annotations

import logging
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from serinus.control import instance as instances
from serinus.control.instance import Fetch, Serving
from serinus.control.shares import shared
from serinus.control.state import Canary, RunFolder, StackState
from serinus.core.errors import Conflict, EngineError
from serinus.core.platform import Platform
from serinus.core.spec.traffic import Canary as CanaryShare
from serinus.core.version import ModelVersion
from serinus.engines import processes
from serinus.engines.envoy import Backend, Door
from serinus.engines.files import write_text
from serinus.engines.ports import LOOPBACK, free_ports, require_free
from serinus.engines.torchserve import Instance
from serinus.engines.waiting import wait_until

log = logging.getLogger(__name__)

DEFAULT_PORT = 8080
# All programs end within it, one after another, once the door is drained.
_STOP_SECONDS = 60.0

Progress = Callable[[str], None]
"""Is told each step as it begins."""


@dataclass(frozen=True)
class Options:
    """How `up` starts. `port` None means the default, or for a stack that runs already, the one it has."""

    port: int | None = None
    ready_seconds: float = 120.0
    progress: Progress = log.info


@dataclass(frozen=True)
class Up:
    """What `up` did. `already` is true when the stack ran before the call."""

    address: str
    model: str
    version: int
    already: bool
    seconds: float


@dataclass(frozen=True)
class Down:
    """What `down` did. `was_up` is false when there was nothing to end."""

    was_up: bool
    seconds: float


def up(
    serving: Serving, version: ModelVersion, fetch: Fetch, options: Options, canary: ModelVersion | None = None
) -> Up:
    """Serve a model version; repeating the call for a running stack only checks its health.

    With `canary` a second version is served beside it, with the share that `spec.traffic.canary` gives it. When
    anything fails, everything that was started is ended again.

    Raises:
        Conflict: the front port is taken, another version or port is up, or another command is at the stack.
        IntegrityError: the version's archive is not the one that was registered.
        EngineError: a process did not start or the model did not load; with the end of the log that tells.
    """
    started = time.monotonic()
    folder = RunFolder(serving.platform)
    with folder.lock():
        state = folder.read()
        already = state is not None and is_supervised(folder, state)
        if state is not None and already:
            _require_same(state, serving, version, options)
            _await_healthy(folder, state, options.ready_seconds)
        else:
            if state is not None:
                options.progress("clear away what an earlier stack left")
                _end(folder, state)
            state = _start(serving, [version, *([canary] if canary else [])], fetch, options)
    return Up(state.address, state.model, state.stable, already, time.monotonic() - started)


def down(platform: Platform) -> Down:
    """End exactly what `up` started, whatever has died of it. No stack is no error.

    Raises:
        Conflict: another command is at the stack.
        EngineError: a process could not be ended.
    """
    started = time.monotonic()
    folder = RunFolder(platform)
    if folder.read() is None:
        return Down(was_up=False, seconds=0.0)
    with folder.lock():
        state = folder.read()
        if state is not None:
            _end(folder, state)
    return Down(was_up=state is not None, seconds=time.monotonic() - started)


def is_up(platform: Platform) -> bool:
    """Whether a stack that `up` started is supervised still."""
    folder = RunFolder(platform)
    state = folder.read()
    return state is not None and is_supervised(folder, state)


def is_supervised(folder: RunFolder, state: StackState) -> bool:
    """Whether the stack's own supervisord lives and answers."""
    supervisor = folder.supervisor(state)
    return state.supervisor is not None and supervisor.is_ours(state.supervisor) and supervisor.answers()


def answers(state: StackState) -> bool:
    """Whether the front door says that the model is ready."""
    import httpx

    try:
        return httpx.get(f"{state.address}/v2/models/{state.model}/ready", timeout=3.0).status_code == 200
    except httpx.TransportError:
        return False


def _require_same(state: StackState, serving: Serving, version: ModelVersion, options: Options) -> None:
    if (state.model, state.stable, state.digest) != (version.name, version.version, version.digest):
        raise Conflict(
            f"{state.model} version {state.stable} is up at {state.address}, asked was {version.name} "
            f"version {version.version}",
            hint=f"`serinus deploy {version.version}` changes the version while requests are answered",
        )
    if options.port not in (None, state.door.port):
        raise Conflict(
            f"the stack is up on port {state.door.port}, asked was {options.port}", hint="run `serinus down` first"
        )
    if (state.as_of, state.deployment) != (serving.as_of, serving.deployment):
        raise Conflict(
            "the stack is up with other settings than those asked for", hint="run `serinus down`, then `serinus up`"
        )


def _start(serving: Serving, versions: list[ModelVersion], fetch: Fetch, options: Options) -> StackState:
    folder = RunFolder(serving.platform)
    port = options.port or DEFAULT_PORT
    require_free(port)
    named = " and ".join(f"version {each.version}" for each in versions)
    options.progress(f"fetch {versions[0].name} {named} and verify")
    _clean(folder)
    runtime = folder.new_runtime()
    try:
        state = _plan(serving, versions, fetch, (runtime, port))
    except BaseException:
        shutil.rmtree(runtime, ignore_errors=True)
        raise
    folder.write(state)  # before the first process, so that `down` knows the mark whatever happens next
    try:
        state = _launch(folder, state, serving, versions[0], options)
    except BaseException:
        options.progress("end what was started")
        _end(folder, state)
        raise
    return state


def _clean(folder: RunFolder) -> None:
    for name in ("launch", "programs", "versions", "metrics", "envoy", "rt"):
        shutil.rmtree(folder.path / name, ignore_errors=True)
    if (folder.path / "logs").exists():
        shutil.rmtree(folder.path / "logs.previous", ignore_errors=True)
        (folder.path / "logs").rename(folder.path / "logs.previous")
    folder.metrics.mkdir(parents=True, mode=0o700)


def _plan(serving: Serving, versions: list[ModelVersion], fetch: Fetch, place: tuple[Path, int]) -> StackState:
    runtime, port = place
    stable, *others = versions
    prepared: dict[int, tuple[Instance, Backend]] = {}
    for version in versions:
        taken = {port} | {each for instance, _ in prepared.values() for each in instance.ports}
        prepared[version.version] = instances.prepare(serving, version, fetch, (runtime, taken))
    traffic = serving.deployment.traffic
    share = traffic.canary or CanaryShare(version=1)
    canaries = [Canary(version=v.version, digest=v.digest, weight=share.weight, shadow=share.shadow) for v in others]
    canary = canaries[0] if canaries else None
    door = _door(serving, stable, (runtime, port), tuple(prepared.values()))
    return StackState(
        mark=secrets.token_hex(16),
        started_at=datetime.now(UTC),
        runtime=runtime,
        supervisor=None,
        stable=stable.version,
        digest=stable.digest,
        canary=canary,
        as_of=serving.as_of,
        feature_project=serving.feature_project,
        deployment=serving.deployment,
        instances={number: instance for number, (instance, _) in prepared.items()},
        door=shared(door, stable.version, canary),
    )


def _door(
    serving: Serving, stable: ModelVersion, place: tuple[Path, int], prepared: tuple[tuple[Instance, Backend], ...]
) -> Door:
    runtime, port = place
    exposed = serving.exposed
    beside = {each for instance, _ in prepared for each in instance.ports}
    return Door(
        model=stable.name,
        port=port,
        address=exposed.address if exposed else LOOPBACK,
        copies_port=exposed.copies_port if exposed else None,
        admin=runtime / "envoy.sock",
        folder=RunFolder(serving.platform).path / "envoy",
        sidecar_port=exposed.sidecar_port if exposed else free_ports(1, avoid=beside)[0],
        timeout=serving.deployment.predictor.timeout,
        traffic=serving.deployment.traffic,
        stable=stable.version,
        backends=tuple(backend for _, backend in prepared),
        revision=0,
    )


def _launch(
    folder: RunFolder, state: StackState, serving: Serving, version: ModelVersion, options: Options
) -> StackState:
    write_text(folder.sidecar, instances.sidecar_config(serving, version, state.door).model_dump_json(indent=2))
    programs = [
        *(instances.program(folder, number) for number in state.instances),
        instances.door_program(folder, state.door),
        instances.sidecar_program(folder, state.door),
    ]
    if serving.spec is not None and serving.as_of is None:
        programs.append(instances.loop_program(folder, serving.spec))
        if serving.deployment.rollout is not None:
            programs.append(instances.rollout_program(folder, serving.spec))
    options.progress("start TorchServe, Envoy and the sidecar")
    process = folder.supervisor(state).start(programs, {processes.MARK: state.mark})
    state = state.model_copy(update={"supervisor": process})
    folder.write(state)
    options.progress("wait until the model is ready")
    _await_healthy(folder, state, options.ready_seconds, log_from=0)
    return state


def _await_healthy(folder: RunFolder, state: StackState, seconds: float, log_from: int | None = None) -> None:
    deadline = time.monotonic() + seconds
    supervisor = folder.supervisor(state)
    for number in state.roles:
        words = supervisor.log(instances.program_name(number))
        start = log_from if log_from is not None else _size(words)
        instances.await_ready(folder, state, number, max(1.0, deadline - time.monotonic()), start)

    def settled() -> bool:
        states = supervisor.states()
        return (all(each.running for each in states) and answers(state)) or any(
            each.state == "FATAL" for each in states
        )

    if wait_until(settled, max(5.0, min(20.0, deadline - time.monotonic())), every=0.1) and answers(state):
        return
    bad = next((each for each in supervisor.states() if not each.running), None)
    name = bad.name if bad else "envoy"
    what = f"{name} does not stay up ({bad.state.lower()})" if bad else f"{state.address} does not answer"
    raise EngineError(what, hint=instances.last_lines(supervisor.log(name)))


def _size(words: Path) -> int:
    return words.stat().st_size if words.exists() else 0


def _end(folder: RunFolder, state: StackState) -> None:
    """The daemon ends its programs; then whatever still carries the stack's mark is ended one by one."""
    if state.supervisor is not None:
        drain = state.door.traffic.drain
        seconds = (drain.notice + drain.limit).total_seconds() + _STOP_SECONDS
        folder.supervisor(state).shutdown(state.supervisor, seconds)
    left = processes.marked(state.mark)
    processes.end(left)
    left = processes.marked(state.mark)
    if left:
        pids = ", ".join(str(each.pid) for each in left)
        raise EngineError(f"these processes of the stack could not be ended: {pids}")
    shutil.rmtree(state.runtime, ignore_errors=True)
    folder.forget()
