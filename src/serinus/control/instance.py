"""One served model version: its files, its TorchServe, and when it is ready to take requests."""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from serinus.control.state import RunFolder, StackState
from serinus.core import inference
from serinus.core.errors import EngineError
from serinus.core.platform import Platform
from serinus.core.serving import MAXIMUM_ROWS, ServingConfig
from serinus.core.signature import Signature
from serinus.core.spec.deployment import ModelDeploymentSpec
from serinus.core.version import ModelVersion
from serinus.engines import envoy, envoy_admin, torchserve
from serinus.engines.archive import MANIFEST, SIGNATURE, read_archive
from serinus.engines.envoy import PROTOCOL_HEADER, Backend, Door
from serinus.engines.files import write_text
from serinus.engines.ports import free_ports
from serinus.engines.supervisor import Program, ProgramState
from serinus.engines.torchserve import Instance
from serinus.engines.waiting import wait_until
from serinus.serve import openapi, rpc
from serinus.serve.drain import Drain
from serinus.serve.entry import Launch

log = logging.getLogger(__name__)

Fetch = Callable[[ModelVersion, Path], Path]
"""Brings a version's archive into a folder, its digest verified: the registry's `fetch`."""

_LOG_LINES = 20
# The handler has run its model when it loaded it; these take the way that requests take. It counts and logs none of
# them, as they only ask whether it lives.
_WARM_UP_ROUNDS = 50
_SOCKET = "front.sock"
_UNCOUNTED = {PROTOCOL_HEADER: f"{rpc.PREFIX}ServerLive", "content-type": rpc.CONTENT_TYPE}
_EMPTY_MESSAGE = bytes(5)
_REPLAY_AGE = timedelta(seconds=1)
_SERINUS = (sys.executable, "-P", "-m", "serinus")


class Exposure(NamedTuple):
    """Where a predictor listens for others than this machine's: in a pod."""

    address: str
    copies_port: int
    sidecar_port: int


@dataclass(frozen=True)
class Serving:
    """How versions of one model are served here.

    With `as_of` the past is replayed from that time: the age of a value is measured against the request's own time,
    and the replay moves the clock. Without it, and with a `spec`, a loop beside the model keeps features fresh and
    starts the spec's pipeline when it is due. `exposed` to other machines it is in a pod alone.
    """

    platform: Platform
    deployment: ModelDeploymentSpec
    feature_project: str
    as_of: datetime | None = None
    spec: Path | None = None
    exposed: Exposure | None = None

    @property
    def clock(self) -> Literal["wall", "request"]:
        return "wall" if self.as_of is None else "request"


def program_name(version: int) -> str:
    return f"torchserve-{version}"


def program(folder: RunFolder, version: int) -> Program:
    """The supervised TorchServe of a version."""
    name = program_name(version)
    return Program(name, folder.launch(name), steady_seconds=2, stop_seconds=15)


def prepare(
    serving: Serving, version: ModelVersion, fetch: Fetch, place: tuple[Path, Collection[int]]
) -> tuple[Instance, Backend]:
    """Fetch a version and write all that its TorchServe reads.

    Args:
        serving: how it is served.
        version: what is served.
        fetch: brings the archive.
        place: the folder for sockets, and ports that others will listen on.

    Returns:
        Its TorchServe, and what Envoy needs to know of it; no request goes to it yet.

    Raises:
        IntegrityError: the archive is not the one that was registered.
        Conflict: no free ports.
    """
    folder = RunFolder(serving.platform)
    home = folder.version(version.version)
    shutil.rmtree(home, ignore_errors=True)
    archive = fetch(version, home / "store")
    with read_archive(archive, version.digest) as opened:
        manifest = json.loads(opened.read(MANIFEST))
        signature = Signature.model_validate_json(opened.read(SIGNATURE))
    runtime, taken = place
    ports = free_ports(4, avoid=taken)
    temporary = runtime / program_name(version.version)
    instance = Instance(
        model=version.name,
        archive=archive,
        archive_version=manifest["model"]["modelVersion"],
        folder=home,
        temporary=temporary,
        inference_socket=temporary / _SOCKET,
        management_port=ports[0],
        metrics_port=ports[1],
        grpc_inference_port=ports[2],
        grpc_management_port=ports[3],
    )
    _write(serving, version, instance)
    return instance, _backend(serving, instance, signature, version.version)


def _backend(serving: Serving, instance: Instance, signature: Signature, version: int) -> Backend:
    return Backend(
        version=version,
        socket=instance.inference_socket,
        management_port=instance.management_port,
        weight=0,
        metadata=inference.model_metadata(signature),
        openapi=openapi.document(signature, instance.model, serving.clock, MAXIMUM_ROWS),
    )


def sidecar_config(serving: Serving, version: ModelVersion, door: Door) -> ServingConfig:
    """What the sidecar is told: as the handler, and where to ask the front door."""
    return serving_config(serving, version).model_copy(update={"door_admin": door.admin})


def serving_config(serving: Serving, version: ModelVersion) -> ServingConfig:
    """What the handler is told. In a replay a minute may be days of the data's: rows go to the log sooner then."""
    deployment = serving.deployment
    if serving.as_of is not None:
        sooner = deployment.log.model_copy(update={"segment_age": min(_REPLAY_AGE, deployment.log.segment_age)})
        deployment = deployment.model_copy(update={"log": sooner})
    return ServingConfig(
        version=version.version,
        digest=version.digest,
        deployment=deployment,
        platform=serving.platform,
        feature_project=serving.feature_project,
        clock=serving.clock,
        cache_age=serving.deployment.features.cache_age,
        metrics_dir=RunFolder(serving.platform).metrics,
        spool_dir=RunFolder(serving.platform).spool,
    )


def _write(serving: Serving, version: ModelVersion, instance: Instance) -> None:
    folder = RunFolder(serving.platform)
    config = instance.folder / "serving.json"
    write_text(config, serving_config(serving, version).model_dump_json(indent=2))
    deployment = serving.deployment
    values = torchserve.properties(instance, deployment.predictor, deployment.traffic.maximum_body)
    write_text(instance.properties_file, torchserve.properties_text(values))
    write_text(instance.log_file, torchserve.log_configuration())
    own = {"SERINUS_SERVING": str(config), "PROMETHEUS_MULTIPROC_DIR": str(folder.metrics)}
    Launch(
        command=torchserve.command(instance),
        environment=torchserve.environment(instance) | own,
        temporary=str(instance.temporary),
        archive=str(instance.archive),
        digest=version.digest,
    ).write(folder.launch(program_name(version.version)))


def door_program(folder: RunFolder, door: Door) -> Program:
    """The supervised Envoy, with all its files written. It is the first to end: nothing comes in any more then."""
    envoy_admin.write(door)
    launch = folder.launch("envoy")
    times = door.traffic.drain
    drain = Drain(str(door.admin), times.notice.total_seconds(), times.limit.total_seconds())
    Launch(command=envoy.command(door), environment={}, drain=drain).write(launch)
    seconds = math.ceil(drain.notice + drain.limit) + 5
    return Program("envoy", launch, stop_seconds=seconds, priority=900)


def sidecar_program(folder: RunFolder, door: Door) -> Program:
    """The supervised process that exposes metrics. It is the last to end, after those whose metrics it has."""
    launch = folder.launch("sidecar")
    own = {"PROMETHEUS_MULTIPROC_DIR": str(folder.metrics)}
    own_port = ("--port", str(door.sidecar_port), "--address", door.address, "--door", str(door.admin))
    command = (*_SERINUS, "sidecar", "--config", str(folder.sidecar), *own_port)
    Launch(command=command, environment=own).write(launch)
    return Program("sidecar", launch, stop_seconds=15, priority=100)


def loop_program(folder: RunFolder, spec: Path) -> Program:
    """The supervised loop: fresh features, and the pipeline when it is due."""
    launch = folder.launch("loop")
    Launch(command=(*_SERINUS, "loop", "--file", str(spec)), environment={}).write(launch)
    return Program("loop", launch, stop_seconds=15)


def rollout_program(folder: RunFolder, spec: Path) -> Program:
    """The supervised process that decides about rollouts."""
    launch = folder.launch("rollout")
    Launch(command=(*_SERINUS, "rollout", "run", "--file", str(spec)), environment={}).write(launch)
    return Program("rollout", launch, stop_seconds=30)


def await_ready(folder: RunFolder, state: StackState, version: int, seconds: float, log_from: int = 0) -> None:
    """Wait until every worker of a version is ready, and warm. Its log is read from the byte `log_from`.

    Raises:
        EngineError: it cannot load the model, ended again and again, or was not ready in time; says why, with the
            last lines of its log.
    """
    instance = state.instances[version]
    supervisor = folder.supervisor(state)
    name = program_name(version)
    words = supervisor.log(name)

    def failed() -> str | None:
        reason = torchserve.load_failure(_since(words, log_from))
        if reason:
            return f"version {version} of {instance.model} could not be loaded: {reason}"
        return _dead(supervisor.states(), name)

    def settled() -> bool:
        return ready(instance, state.deployment.predictor.workers) or failed() is not None

    if not wait_until(settled, seconds, every=0.2):
        raise EngineError(
            f"version {version} of {instance.model} was not ready within {seconds:.0f} s", hint=last_lines(words)
        )
    reason = failed()
    if reason and not ready(instance, state.deployment.predictor.workers):
        raise EngineError(reason, hint=last_lines(words))
    rounds = _WARM_UP_ROUNDS * state.deployment.predictor.workers
    answered = torchserve.ask_often(instance, _UNCOUNTED, _EMPTY_MESSAGE, rounds)
    log.info("%s version %d is ready, and warm after %d requests", instance.model, version, answered)


def ready(instance: Instance, workers: int) -> bool:
    """Whether all workers of a version are ready."""
    return torchserve.worker_states(instance).count("READY") >= workers


def last_lines(words: Path) -> str:
    """The end of a log, for an error."""
    if not words.exists():
        return f"it wrote no log at {words}"
    lines = words.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
    return f"the end of {words}:\n    " + "\n    ".join(lines)


def _since(words: Path, start: int) -> str:
    if not words.exists():
        return ""
    with words.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")


def _dead(states: list[ProgramState], name: str) -> str | None:
    """A program that ended while starting is started again, but what it is given does not change: once is enough."""
    state = next((each for each in states if each.name == name), None)
    if state is None:
        return f"{name} is not supervised any more"
    if state.state in ("BACKOFF", "FATAL", "EXITED"):
        return f"{name} ended while it started ({state.state.lower()}: {state.description})"
    return None
