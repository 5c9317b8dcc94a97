"""`deploy`: puts another version in front without a failed request.

The new version is started beside the old one; it takes requests only when it is ready; the old one is ended only when
it has answered all that it took. Each step is written down, so that a deploy that died half-way leaves a stack that
answers, and the next one clears away what it left.
"""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass, replace

from serinus.control import instance as instances
from serinus.control.instance import Fetch, Serving
from serinus.control.stack import Options, is_supervised
from serinus.control.state import RunFolder, StackState
from serinus.core.errors import EngineError, InvalidInput, NotFound
from serinus.core.version import ModelVersion
from serinus.engines import envoy_admin
from serinus.engines.envoy import Door
from serinus.engines.files import write_text
from serinus.engines.waiting import wait_until

log = logging.getLogger(__name__)

_APPLY_SECONDS = 10.0
# A request that Envoy routed just before it took over new weights shows in its statistics within this time.
_QUIET_SECONDS = 0.5


@dataclass(frozen=True)
class Deployed:
    """What `deploy` did. `changed` is false when the version was in front already."""

    model: str
    version: int
    previous: int
    changed: bool
    seconds: float


def running(folder: RunFolder) -> StackState:
    """The stack that is up.

    Raises:
        NotFound: none is.
    """
    state = folder.read()
    if state is None or not is_supervised(folder, state):
        raise NotFound("nothing is up", hint="start it with `serinus up`")
    return state


def deploy(serving: Serving, version: ModelVersion, fetch: Fetch, options: Options) -> Deployed:
    """Serve `version` in place of the one in front. The clock stays the one that the stack was started with.

    If the new version cannot be loaded, the old one goes on as before.

    Raises:
        NotFound: no stack is up.
        InvalidInput: the version is of another model than the one that is up.
        IntegrityError: the version's archive is not the one that was registered.
        EngineError: the new version did not get ready; with the end of its log.
    """
    started = time.monotonic()
    folder = RunFolder(serving.platform)
    with folder.lock():
        state = running(folder)
        if version.name != state.model:
            raise InvalidInput(f"{state.model} is up, and {version.name} is another model")
        previous = state.stable
        state = _settle(folder, state)
        changed = (version.version, version.digest) != (state.stable, state.digest)
        if changed:
            serving = replace(serving, as_of=state.as_of)
            options.progress(f"start version {version.version} beside version {previous}")
            state = _start_beside(folder, state, (serving, version, fetch))
            state = _switch(folder, state, (serving, version), options)
            options.progress(f"drain and stop version {previous}")
            state = _settle(folder, state)
    return Deployed(state.model, state.stable, previous, changed, time.monotonic() - started)


def _start_beside(folder: RunFolder, state: StackState, new: tuple[Serving, ModelVersion, Fetch]) -> StackState:
    serving, version, fetch = new
    number = version.version
    folder.supervisor(state).log(instances.program_name(number)).unlink(missing_ok=True)
    instance, signature = instances.prepare(serving, version, fetch, state.runtime)
    backend = instances.backend(instance, signature, number, weight=0)
    door = _revised(state.door, backends=(*state.door.backends, backend))
    state = state.model_copy(update={"instances": {**state.instances, number: instance}, "door": door})
    folder.write(state)
    folder.supervisor(state).add(instances.program(folder, number))
    return state


def _switch(folder: RunFolder, state: StackState, new: tuple[Serving, ModelVersion], options: Options) -> StackState:
    """Give all requests to the new version once it is ready; on any failure the old one has them, alone."""
    serving, version = new
    number = version.version
    try:
        instances.await_ready(folder, state, number, options.ready_seconds)
        options.progress(f"switch from version {state.stable} to version {number}")
        # Clusters before routes: a route must never name a cluster that Envoy does not know yet.
        envoy_admin.write_clusters(state.door)
        envoy_admin.await_clusters(state.door, _APPLY_SECONDS)
        door = _all_to(state.door, number).model_copy(update={"timeout": serving.deployment.predictor.timeout})
        envoy_admin.write_routes(door)
        envoy_admin.await_routes(door, _APPLY_SECONDS)
    except BaseException:
        _settle(folder, state)
        raise
    switched = {"stable": number, "digest": version.digest, "deployment": serving.deployment, "door": door}
    state = state.model_copy(update=switched)
    folder.write(state)
    write_text(folder.sidecar, instances.serving_config(serving, version).model_dump_json(indent=2))
    return state


def _settle(folder: RunFolder, state: StackState) -> StackState:
    """Leave only the stable version: it has all requests, the others are drained, stopped and forgotten."""
    others = [number for number in state.instances if number != state.stable]
    if not others:
        return state
    door = _all_to(state.door, state.stable)
    envoy_admin.write_clusters(door)
    envoy_admin.write_routes(door)
    envoy_admin.await_routes(door, _APPLY_SECONDS)
    for number in others:
        _drain(state, number)
        folder.supervisor(state).remove(instances.program_name(number))
        shutil.rmtree(folder.version(number), ignore_errors=True)
    door = _revised(door, backends=tuple(each for each in door.backends if each.version == state.stable))
    envoy_admin.write_clusters(door)
    state = state.model_copy(update={"instances": {state.stable: state.instances[state.stable]}, "door": door})
    folder.write(state)
    return state


def _drain(state: StackState, number: int) -> None:
    """Wait until a version without weight has answered all that it took, at most as long as an answer may take."""
    quiet_since = time.monotonic()

    def drained() -> bool:
        nonlocal quiet_since
        try:
            busy = envoy_admin.requests_under_way(state.door, number) > 0
        except EngineError:
            busy = False  # Envoy ended, and with it the requests that it held
        if busy:
            quiet_since = time.monotonic()
        return time.monotonic() - quiet_since >= _QUIET_SECONDS

    limit = state.door.timeout.total_seconds() + 2 * _QUIET_SECONDS
    if not wait_until(drained, limit):
        log.warning("version %d still had requests under way after %.0f s", number, limit)


def _all_to(door: Door, number: int) -> Door:
    weights = (each.model_copy(update={"weight": 100 if each.version == number else 0}) for each in door.backends)
    return _revised(door, backends=tuple(weights))


def _revised(door: Door, **changes: object) -> Door:
    return door.model_copy(update={**changes, "revision": door.revision + 1})
