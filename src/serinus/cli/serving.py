"""Verbs on the served model: up, down, status, deploy, predict."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serinus.cli.place import platform_of, served

if TYPE_CHECKING:
    from serinus.control.deploy import Deployed
    from serinus.control.instance import Serving
    from serinus.control.loop import LoopStatus
    from serinus.control.stack import Options
    from serinus.control.state import StackState
    from serinus.control.status import Status
    from serinus.core.spec import ContinuousTrainingSpec
    from serinus.core.version import ModelVersion
    from serinus.engines.mlflow import Registry

File = Annotated[Path, typer.Option("--file", "-f", help="The spec, or the folder that holds it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Wait = Annotated[float, typer.Option(min=1, help="Seconds until a model that is not ready counts as failed.")]

_SPEC = Path("serinus.yaml")
_EXIT = {"healthy": 0, "degraded": 1, "down": 3}


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command(epilog="Example: serinus up -f examples/flights/serinus.yaml --port 8080")(up)
    app.command(epilog="Example: serinus down")(down)
    app.command(epilog="Example: serinus status --json")(status)
    app.command(epilog="Example: serinus deploy 4 --weight 10")(deploy)
    app.command(epilog="Example: serinus predict origin=JFK carrier=B6 distance=1069")(predict)


def up(
    file: File = _SPEC,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port for applications.", show_default="8080")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Version or alias to serve.", show_default="what the spec says")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(help="Replay the past from this time (ISO 8601): ages count from the request's time.")
    ] = None,
    wait: Wait = 120,
    as_json: AsJson = False,
) -> None:
    """Serve the spec's model, and its canary if it has one: TorchServe behind Envoy, supervised. Repeating it is
    harmless.

    Exit codes: 3 no such version, 4 the port is taken or another version is up, 5 the archive is damaged, 6 the model
    did not get ready.
    """
    from dataclasses import asdict

    from serinus.control import stack
    from serinus.core.times import utc

    serving, registry = served(file)
    if as_of is not None:
        from dataclasses import replace

        serving = replace(serving, as_of=utc(as_of))
    chosen = _version(registry, serving, version)
    canary = _canary(registry, serving, chosen)
    if not stack.is_up(serving.platform):
        typer.echo("  put features online", err=True)
        _fill(file, serving)
    done = stack.up(serving, chosen, registry.fetch, _options(wait, port), canary)
    if as_json:
        _json(asdict(done))
    else:
        verb = "is already up" if done.already else f"is up after {done.seconds:.1f} s"
        _say(f"{done.model} version {done.version} {verb} at {done.address}/v2/models/{done.model}/infer")


def down(file: File = _SPEC, as_json: AsJson = False) -> None:
    """Stop what `serinus up` started, and nothing else."""
    from dataclasses import asdict

    from serinus.control import stack

    done = stack.down(platform_of(file))
    if as_json:
        _json(asdict(done))
    else:
        _say(f"stopped in {done.seconds:.1f} s" if done.was_up else "nothing was up")


def status(
    file: File = _SPEC,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="On the cluster of KUBECONFIG, not on this machine.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what is up and how it does, why the last pipeline run failed if it did, and when the next one is due.

    Exit codes: 0 healthy, 1 degraded, 3 not up.
    """
    if cluster:
        _cluster_status(file, as_json)
        return
    from serinus.control import status as control

    found = control.status(platform_of(file), _training(file))
    if as_json:
        _json(found.model_dump(mode="json"))
    else:
        _show(found)
    raise typer.Exit(_EXIT[found.condition])


def _cluster_status(file: Path, as_json: bool) -> None:
    from serinus.cli.cluster_screen import show
    from serinus.control.status_cluster import cluster_status
    from serinus.engines.kubernetes import connected
    from serinus.engines.specfile import read_service

    with connected() as there:
        found = cluster_status(there, read_service(file))
    if as_json:
        _json(found.model_dump(mode="json", by_alias=True))
    else:
        show(found)
    raise typer.Exit(0 if found.ready else 1)


def deploy(
    version: Annotated[str, typer.Argument(help="Version, or the alias champion or challenger.")],
    file: File = _SPEC,
    weight: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Percent of the requests, beside the stable version.", show_default="all"),
    ] = None,
    shadow: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Percent of the requests to copy to it; nobody sees its answers."),
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Also make it the champion in the registry.")] = False,
    wait: Wait = 120,
    as_json: AsJson = False,
) -> None:
    """Put another version in front without a failed request; the old one goes on if the new one cannot be loaded.

    With a weight or a shadow it is put beside the stable version, as its canary; repeat with another weight to change
    it, without one to give it all requests. The stable version's number ends the canary.

    Exit codes: 2 the share makes no sense, 3 nothing is up or no such version, 4 the front door's limits have changed,
    5 the archive is damaged, 6 the version did not get ready.
    """
    from dataclasses import asdict

    from serinus.control import deploy as control
    from serinus.control.rollout_laptop import require_by_hand
    from serinus.core.errors import InvalidInput

    share = None if weight is None and shadow is None else control.Share(weight or 0, shadow or 0)
    if share and promote:
        raise InvalidInput("--promote is for a version that gets all requests, not for one with a share of them")
    serving, registry = served(file)
    require_by_hand(serving, share)
    chosen = _version(registry, serving, version)
    done = control.deploy(serving, chosen, registry.fetch, _options(wait), share)
    if promote:
        registry.promote(chosen.name, chosen.version)
    if as_json:
        canary = done.canary.model_dump(mode="json") if done.canary else None
        _json({**asdict(done), "canary": canary, "promoted": promote})
    else:
        _say(_deployed(done) + (", and is the champion" if promote else ""))


def predict(
    pairs: Annotated[
        list[str] | None, typer.Argument(help="One row, as name=value pairs.", metavar="NAME=VALUE")
    ] = None,
    file: File = _SPEC,
    rows: Annotated[
        Path | None, typer.Option("--input", "-i", help="JSON file with one object or a list of them; - is stdin.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask the served model for a prediction, through the Open Inference Protocol.

    Exit codes: 1 a row failed, 2 the rows do not fit the model, 3 nothing is up.
    """
    from serinus.control import ask

    state = _state(file)
    answers = ask.predict(state.address, state.model, _rows(pairs or [], rows))
    if as_json:
        _json({"predictions": answers})
    else:
        _table(answers)
    if any(answer.get("error") for answer in answers):
        raise typer.Exit(1)


def _deployed(done: Deployed) -> str:
    name, took = f"{done.model} version {done.version}", f"after {done.seconds:.1f} s"
    if not done.changed:
        return f"{name} was so already"
    if done.canary is not None:
        share = f"a copy of {done.canary.shadow:g} %" if done.canary.shadow else f"{done.canary.weight:g} %"
        return f"{name} gets {share} of the requests {took}, version {done.stable} answers the others"
    if done.previous == done.version:
        return f"{name} gets all requests again {took}"
    return f"{name} replaced version {done.previous} {took}"


def _canary(registry: Registry, serving: Serving, stable: ModelVersion) -> ModelVersion | None:
    """The spec's canary. An alias may name the version that is stable by now: then there is none."""
    wanted = serving.deployment.traffic.canary
    if wanted is None:
        return None
    found = registry.get(serving.deployment.model.name, wanted.version)
    if found.version == stable.version:
        typer.echo(f"  {wanted.version} is version {found.version}, which is stable: there is no canary", err=True)
        return None
    return found


def _training(file: Path) -> ContinuousTrainingSpec | None:
    """The spec's schedule and limits; None where the spec cannot be read, as what is up can be told without it."""
    from serinus.core.errors import SerinusError
    from serinus.engines.specfile import read_service

    try:
        return read_service(file).training.spec
    except SerinusError:
        return None


def _fill(file: Path, serving: Serving) -> None:
    """Put online what is known now, or at the time that the past is replayed from."""
    from datetime import UTC, datetime

    from serinus.control.refresh import fill
    from serinus.engines.feast import FeatureStore
    from serinus.training.project import load_project

    loaded = load_project(file)
    fill(loaded, FeatureStore.open(serving.platform, serving.feature_project), serving.as_of or datetime.now(UTC))


def _version(registry: Registry, serving: Serving, wanted: str | None) -> ModelVersion:
    which = serving.deployment.model.version if wanted is None else wanted
    if isinstance(which, str) and which.isdigit():
        which = int(which)
    return registry.get(serving.deployment.model.name, which)


def _state(file: Path) -> StackState:
    from serinus.control.state import RunFolder
    from serinus.core.errors import NotFound

    state = RunFolder(platform_of(file)).read()
    if state is None:
        raise NotFound("nothing is up", hint="start it with `serinus up`")
    return state


def _options(wait: float, port: int | None = None) -> Options:
    from serinus.control.stack import Options

    def progress(step: str) -> None:
        typer.echo(f"  {step}", err=True)

    return Options(port=port, ready_seconds=wait, progress=progress)


def _rows(pairs: list[str], file: Path | None) -> list[dict[str, Any]]:
    from serinus.control.ask import parse_pairs
    from serinus.core.errors import InvalidInput, NotFound

    if bool(pairs) == (file is not None):
        raise InvalidInput("give either name=value pairs or --input FILE")
    if file is None:
        return [dict(parse_pairs(pairs))]
    try:
        content = json.loads(sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {file}") from error
    except ValueError as error:
        raise InvalidInput(f"{file} is not JSON: {error}") from error
    rows = content if isinstance(content, list) else [content]
    if not all(isinstance(row, dict) for row in rows):
        raise InvalidInput(f"{file}: found something else, allowed: one JSON object or a list of them")
    return rows


def _show(found: Status) -> None:
    from rich.console import Console
    from rich.table import Table

    if found.condition == "down":
        _say("\n".join(("nothing is up", *found.problems)))
        return
    replay = f", replaying from {found.as_of:%Y-%m-%d %H:%M} UTC" if found.as_of else ""
    _say(f"{found.model} version {found.version} is {found.condition} at {found.address}{replay}")
    for problem in found.problems:
        _say(f"  {problem}")
    if found.rollout is not None:
        _say(f"rollout: {found.rollout.headline}")
    for line in _loop_lines(found.loop):
        _say(f"  {line}")
    versions = Table("version", "role", "weight", "shadow", "requests", "series", "ready")
    for version in found.versions:
        shares = (f"{version.weight:g} %", f"{version.shadow:g} %")
        role = version.role or "being started or drained"
        sent = "unknown" if version.requests is None else str(version.requests)
        series = "unknown" if version.series is None else f"at most {version.series}"
        versions.add_row(str(version.version), role, *shares, sent, series, "yes" if version.ready else "no")
    Console().print(versions)
    table = Table("process", "state", "pid", "memory", "detail")
    for each in found.programs:
        table.add_row(each.name, each.state.lower(), str(each.pid), f"{each.memory / 2**20:.0f} MiB", each.detail)
    Console().print(table)


def _loop_lines(loop: LoopStatus | None) -> Iterator[str]:
    if loop is None:
        return
    if loop.last_failure is not None:
        when = f", started {loop.last_run:%Y-%m-%d %H:%M} UTC," if loop.last_run else ""
        yield f"the last run of the pipeline{when} failed: {loop.last_failure}"
    if loop.next_run is not None:
        yield f"next run of the pipeline: {loop.next_run:%Y-%m-%d %H:%M} UTC"


def _table(answers: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*answers[0])
    for answer in answers:
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value or "") for value in answer.values()))
    Console().print(table)


def _json(value: dict[str, Any]) -> None:
    _say(json.dumps(value, default=str))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
