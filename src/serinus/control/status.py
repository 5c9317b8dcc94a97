"""What is up, and how it does: from the state file, supervision and the front door, each asked now."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from serinus.control.instance import ready
from serinus.control.stack import answers, is_supervised
from serinus.control.state import RunFolder, StackState
from serinus.core.errors import EngineError
from serinus.core.platform import Platform
from serinus.engines import envoy_admin, processes


class ProgramStatus(BaseModel):
    """One supervised process, with the memory of its descendants in bytes."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: str
    pid: int
    memory: int
    detail: str


class VersionStatus(BaseModel):
    """One model version: `weight` is the percent of requests that it answers, `shadow` of those it gets a copy of.
    A version without a role is being started or drained. `requests` is how many Envoy has sent to it since it started,
    copies included; None where Envoy cannot be asked."""

    model_config = ConfigDict(frozen=True)

    version: int
    role: Literal["stable", "canary"] | None
    weight: float
    shadow: float
    ready: bool
    requests: int | None


class Status(BaseModel):
    """`healthy`: everything runs and every version answers. `degraded`: something does not, as `problems` say.
    `down`: nothing runs. `version` and `digest` are those of the stable version."""

    model_config = ConfigDict(frozen=True)

    condition: Literal["healthy", "degraded", "down"]
    problems: tuple[str, ...] = ()
    address: str | None = None
    model: str | None = None
    version: int | None = None
    digest: str | None = None
    since: datetime | None = None
    as_of: datetime | None = None
    versions: tuple[VersionStatus, ...] = ()
    programs: tuple[ProgramStatus, ...] = ()


def status(platform: Platform) -> Status:
    """How the stack of a platform does. Changes nothing.

    Raises:
        Conflict: the state file is damaged.
    """
    folder = RunFolder(platform)
    state = folder.read()
    if state is None:
        return Status(condition="down")
    if is_supervised(folder, state):
        programs = _programs(folder, state)
        problems = [f"{each.name} is {each.state.lower()}: {each.detail}" for each in programs if not _well(each)]
    elif processes.marked(state.mark):
        programs = ()
        problems = ["supervision has ended: what dies is not started again; run `serinus up`"]
    else:
        return Status(condition="down", problems=("a stack was up and has died; `serinus up` starts it again",))
    versions = _versions(state)
    problems += [f"version {each.version} is not ready" for each in versions if each.role and not each.ready]
    if not answers(state):
        problems.append(f"the model does not answer at {state.address}")
    return Status(
        condition="degraded" if problems else "healthy",
        problems=tuple(problems),
        address=state.address,
        model=state.model,
        version=state.stable,
        digest=state.digest,
        since=state.started_at,
        as_of=state.as_of,
        versions=versions,
        programs=programs,
    )


def _versions(state: StackState) -> tuple[VersionStatus, ...]:
    canary = state.canary.version if state.canary else None
    roles: dict[int | None, Literal["stable", "canary"]] = {canary: "canary", state.stable: "stable"}
    workers = state.deployment.predictor.workers
    try:
        received = envoy_admin.received(state.door)
    except EngineError:
        received = {}  # that it does not answer shows in the problems
    return tuple(
        VersionStatus(
            version=each.version,
            role=roles.get(each.version),
            weight=each.weight,
            shadow=each.shadow,
            ready=ready(state.instances[each.version], workers),
            requests=received.get(each.version),
        )
        for each in state.door.backends
    )


def _programs(folder: RunFolder, state: StackState) -> tuple[ProgramStatus, ...]:
    return tuple(
        ProgramStatus(
            name=each.name,
            state=each.state,
            pid=each.pid,
            memory=processes.memory(each.pid) if each.pid else 0,
            detail=each.description,
        )
        for each in folder.supervisor(state).states()
    )


def _well(program: ProgramStatus) -> bool:
    return program.state == "RUNNING"
