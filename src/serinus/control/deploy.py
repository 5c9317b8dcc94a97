"""`deploy`: puts another version in front, or beside the one in front, without a failed request.

A new version is started beside those that answer; it takes requests only when it is ready and warm; a version that is
replaced is ended only when it has answered all that it took. Each step is written down, so that a deploy that died
half-way leaves a stack that answers, and the next one clears away what it left.
"""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass, replace

from serinus.control import instance as instances
from serinus.control.instance import Fetch, Serving
from serinus.control.shares import require_share, shared
from serinus.control.stack import Options, is_supervised
from serinus.control.state import Canary, RunFolder, StackState
from serinus.core.errors import Conflict, EngineError, InvalidInput, NotFound
from serinus.core.version import ModelVersion
from serinus.engines import envoy_admin
from serinus.engines.envoy import Door
from serinus.engines.files import write_text
from serinus.engines.waiting import wait_until

log = logging.getLogger(__name__)

_APPLY_SECONDS = 10.0
# A request that Envoy routed just before it took over new weights shows in its statistics within this time.
_QUIET_SECONDS = 0.5
# Envoy reads them once, at its start.
_FIXED = ("quota", "maximum_body", "drain")


@dataclass(frozen=True)
class Share:
    """What a canary gets: `weight` percent of the requests to answer, or a copy of `shadow` percent of them."""

    weight: float = 0
    shadow: float = 0


@dataclass(frozen=True)
class Deployed:
    """What `deploy` did. `changed` is false when all was so already.

    `version` is the one that was deployed; `stable` the one in front now and `previous` the one before, `canary` the
    one beside it with its shares.
    """

    model: str
    version: int
    stable: int
    previous: int
    canary: Canary | None
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


def deploy(
    serving: Serving, version: ModelVersion, fetch: Fetch, options: Options, share: Share | None = None
) -> Deployed:
    """Serve `version` in place of all others, or with a `share` as the canary beside the stable one.

    A canary that is named again without a share becomes the stable version; the stable one named again ends the canary.
    The clock stays the one that the stack was started with. If the new version cannot be loaded, the others go on as
    before.

    Raises:
        NotFound: no stack is up.
        InvalidInput: the version is of another model than the one that is up, or the share makes no sense.
        Conflict: the spec has other limits for the front door than those it was started with.
        IntegrityError: the version's archive is not the one that was registered.
        EngineError: the new version did not get ready; with the end of its log.
    """
    started = time.monotonic()
    folder = RunFolder(serving.platform)
    with folder.lock():
        state = before = running(folder)
        stable, canary = _wanted(state, version, share)
        _require_same_door(state, serving)
        state = _settle(folder, state)
        changed = (stable, canary) != ((state.stable, state.digest), state.canary)
        if changed:
            serving = replace(serving, as_of=state.as_of)
            state = _start_beside(folder, state, (serving, version, fetch), options)
            state = _switch(folder, state, (serving, version, stable, canary), options)
            state = _settle(folder, state, options)
    seconds = time.monotonic() - started
    return Deployed(state.model, version.version, state.stable, before.stable, state.canary, changed, seconds)


def _wanted(state: StackState, version: ModelVersion, share: Share | None) -> tuple[tuple[int, str], Canary | None]:
    """The stable version with its digest, and the canary, after the deploy."""
    if version.name != state.model:
        raise InvalidInput(f"{state.model} is up, and {version.name} is another model")
    if share is None:
        return (version.version, version.digest), None
    require_share(share.weight, share.shadow)
    if version.version == state.stable:
        raise InvalidInput(f"version {version.version} is the stable one: a share is for a version beside it")
    canary = Canary(version=version.version, digest=version.digest, weight=share.weight, shadow=share.shadow)
    return (state.stable, state.digest), canary


def _require_same_door(state: StackState, serving: Serving) -> None:
    was, now = state.door.traffic, serving.deployment.traffic
    differing = [name for name in _FIXED if getattr(was, name) != getattr(now, name)]
    if differing:
        names = ", ".join(type(now).model_fields[name].alias or name for name in differing)
        raise Conflict(
            f"spec.traffic has changed in what the front door reads at its start: {names}",
            hint="run `serinus down`, then `serinus up`",
        )


def _start_beside(
    folder: RunFolder, state: StackState, new: tuple[Serving, ModelVersion, Fetch], options: Options
) -> StackState:
    serving, version, fetch = new
    number = version.version
    if number in state.instances:
        return state
    options.progress(f"start version {number} beside version {state.stable}")
    folder.supervisor(state).log(instances.program_name(number)).unlink(missing_ok=True)
    taken = {port for instance in state.instances.values() for port in instance.ports}
    instance, backend = instances.prepare(serving, version, fetch, (state.runtime, taken))
    door = state.door.model_copy(update={"backends": (*state.door.backends, backend)})
    state = state.model_copy(update={"instances": {**state.instances, number: instance}, "door": door})
    folder.write(state)
    folder.supervisor(state).add(instances.program(folder, number))
    return state


def _switch(
    folder: RunFolder,
    state: StackState,
    new: tuple[Serving, ModelVersion, tuple[int, str], Canary | None],
    options: Options,
) -> StackState:
    """Change who gets what once the new version is ready; on any failure all stays as it was."""
    serving, version, (stable, digest), canary = new
    settings = {"timeout": serving.deployment.predictor.timeout, "traffic": serving.deployment.traffic}
    try:
        instances.await_ready(folder, state, version.version, options.ready_seconds)
        options.progress(_words(stable, canary))
        door = shared(state.door, stable, canary, **settings)
        envoy_admin.change(state.door, door, _APPLY_SECONDS)
    except BaseException:
        envoy_admin.write_routes(state.door)
        _settle(folder, state)
        raise
    roles = {"stable": stable, "digest": digest, "canary": canary}
    state = state.model_copy(update={**roles, "deployment": serving.deployment, "door": door})
    folder.write(state)
    if version.version == stable:
        write_text(folder.sidecar, instances.sidecar_config(serving, version, door).model_dump_json(indent=2))
    return state


def _words(stable: int, canary: Canary | None) -> str:
    if canary is None:
        return f"give all requests to version {stable}"
    if canary.shadow:
        return f"copy {canary.shadow:g} % of the requests to version {canary.version}"
    return f"give {canary.weight:g} % of the requests to version {canary.version}"


def _settle(folder: RunFolder, state: StackState, options: Options | None = None) -> StackState:
    """Leave only the versions that have a role: the others get nothing more, are drained, stopped and forgotten."""
    others = [number for number in state.instances if number not in state.roles]
    if not others:
        return state
    door = shared(state.door, state.stable, state.canary)
    envoy_admin.change(state.door, door, _APPLY_SECONDS)
    for number in others:
        if options is not None:
            options.progress(f"drain and stop version {number}")
        _drain(door, number)
        folder.supervisor(state).remove(instances.program_name(number))
        shutil.rmtree(folder.version(number), ignore_errors=True)
    kept = tuple(each for each in door.backends if each.version in state.roles)
    door = door.model_copy(update={"backends": kept, "revision": door.revision + 1})
    envoy_admin.write_clusters(door)
    left = {number: state.instances[number] for number in state.roles}
    state = state.model_copy(update={"instances": left, "door": door})
    folder.write(state)
    return state


def _drain(door: Door, number: int) -> None:
    """Wait until a version without weight has answered all that it took, at most as long as an answer may take."""
    quiet_since = time.monotonic()

    def drained() -> bool:
        nonlocal quiet_since
        try:
            busy = envoy_admin.requests_under_way(door, number) > 0
        except EngineError:
            busy = False  # Envoy ended, and with it the requests that it held
        if busy:
            quiet_since = time.monotonic()
        return time.monotonic() - quiet_since >= _QUIET_SECONDS

    limit = door.timeout.total_seconds() + 2 * _QUIET_SECONDS
    if not wait_until(drained, limit):
        log.warning("version %d still had requests under way after %.0f s", number, limit)
