"""What is up, and how it does: from the state file, supervision and the front door, each asked now."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from serinus.control.instance import ready
from serinus.control.loop import LoopStatus, state_path
from serinus.control.rollout_laptop import RolloutFolder
from serinus.control.rollout_view import Glance, glance
from serinus.control.stack import answers, is_supervised
from serinus.control.state import RunFolder, StackState
from serinus.core.errors import EngineError, SerinusError
from serinus.core.platform import Platform
from serinus.core.profile import Profile
from serinus.core.signature import Signature
from serinus.core.spec import ContinuousTrainingSpec
from serinus.engines import envoy_admin, processes
from serinus.engines.archive import PROFILE, SIGNATURE, read_archive
from serinus.engines.files import sha256
from serinus.serve.telemetry import series


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
    copies included; None where Envoy cannot be asked. `series` is how many time series a worker of it exposes at most,
    None where its archive cannot be read."""

    model_config = ConfigDict(frozen=True)

    version: int
    role: Literal["stable", "canary"] | None
    weight: float
    shadow: float
    ready: bool
    requests: int | None
    series: int | None = None


class Status(BaseModel):
    """`healthy`: everything runs and every version answers. `degraded`: something does not, as `problems` say.
    `down`: nothing runs. `version` and `digest` are those of the stable version. `loop` is None where none began;
    `rollout` is what was decided last."""

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
    rollout: Glance | None = None
    loop: LoopStatus | None = None


def status(platform: Platform, training: ContinuousTrainingSpec | None = None) -> Status:
    """How the stack of a platform does, and when `training` runs next. Changes nothing.

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
    rollout = _rollout(platform, problems)
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
        rollout=rollout,
        loop=LoopStatus.read(state_path(platform, replaying=state.as_of is not None), training),
    )


def _rollout(platform: Platform, problems: list[str]) -> Glance | None:
    try:
        return glance(RolloutFolder(platform).ledger)
    except SerinusError as error:
        problems.append(f"nothing can be said of rollouts: {error}")
        return None


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
            series=_series(state.instances[each.version].archive),
        )
        for each in state.door.backends
    )


def _series(path: Path) -> int | None:
    try:
        with read_archive(path, sha256(path)) as opened:
            profile = Profile.model_validate_json(opened.read(PROFILE))
            return series(profile, len(Signature.model_validate_json(opened.read(SIGNATURE)).views))
    except (SerinusError, OSError, ValueError):
        return None  # a version that cannot be started says so itself


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
