"""Verbs that bring the training pipeline to Kubeflow Pipelines on a cluster: compile it, and submit a run of it."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from serinus.control.submit import Follower
    from serinus.core.spec import ModelService
    from serinus.engines.kfp_cluster import ClusterRun, Pipelines

REFUSED = 1
NO_VERSION = "no version"
"""What the step `register` says of a refused candidate."""
_SECRET = "serinus-platform"  # noqa: S105 - its name

File = Annotated[Path, typer.Option("--file", "-f", help="The spec, or the folder that holds it.")]
Secret = Annotated[
    str, typer.Option(help="The Kubernetes Secret with `platform.yaml`, in the namespace where steps run.")
]


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command("compile", epilog="Example: serinus compile -f examples/flights -o pipeline.yaml")(compile_)
    app.command(epilog="Example: serinus submit -f examples/flights --endpoint http://localhost:8888")(submit)


def compile_(
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write, ending in .yaml.")],
    file: File = Path("serinus.yaml"),
    secret: Secret = _SECRET,
) -> None:
    """Compile the training pipeline for Kubeflow Pipelines on a cluster. The same image gives the same file.

    Its runs go by the `serinus.yaml` in the image, unless they are given the text of another as `resources`.
    """
    from serinus.engines.specfile import read_service

    service = read_service(file)
    _compile(service, output, secret)
    sys.stdout.write(f"wrote {output}\n")


def submit(
    endpoint: Annotated[
        str, typer.Option(envvar="KF_PIPELINES_ENDPOINT", help="Where Kubeflow Pipelines is, as a URL.")
    ],
    file: File = Path("serinus.yaml"),
    as_of: Annotated[
        str | None,
        typer.Option(help="Look back from this time (UTC), cut to the hour; that of the run where not given."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The run's name. A run that there is under it is followed, not started again.")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Whose run it is, where Kubeflow tells users apart.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(envvar="KF_PIPELINES_SA_TOKEN_PATH", help="Holds a bearer token.")
    ] = None,
    cookie_file: Annotated[Path | None, typer.Option(help="Holds the cookie of a browser's session.")] = None,
    ca_file: Annotated[Path | None, typer.Option(help="The authority that signed the server's certificate.")] = None,
    account: Annotated[str | None, typer.Option(help="Service account of the steps' pods.")] = None,
    secret: Secret = _SECRET,
    pods: Annotated[
        str | None, typer.Option(help="Namespace of the steps' pods, whose logs are shown by KUBECONFIG.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Follow the run to its end.")] = True,
    hours: Annotated[float, typer.Option(min=0.01, help="How long to follow it at most.")] = 6,
    browse: Annotated[bool, typer.Option("--open", help="Open the run in a browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")] = False,
) -> None:
    """Run the training pipeline on Kubeflow Pipelines: compile, upload, start, follow.

    The project is what spec.project.image holds in /project; settings are those of the file here. Exit code 0: the run
    succeeded (with its logs in reach: the candidate was accepted); 1: the candidate was refused; any other: it failed.
    """
    from serinus.engines.kfp_cluster import Asked, PipelineServer
    from serinus.engines.kfp_cluster import Pipelines as Server
    from serinus.engines.specfile import read_service
    from serinus.training.plan import told
    from serinus.training.start import start_time

    service = read_service(file)
    metadata = service.training.metadata
    now = datetime.now(UTC)
    moment = start_time(as_of).isoformat() if as_of else ""
    run_name = name or f"{metadata.name}-{now:%Y%m%d-%H%M%S}"
    server = PipelineServer(endpoint, namespace, _secret(token_file), cookie=_secret(cookie_file), ca_file=ca_file)
    engine = Server(server)
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "pipeline.yaml"
        _compile(service, compiled, secret)
        parameters = {"resources": told(service), "as_of": moment, "run": run_name}
        experiment = f"{metadata.namespace}.{metadata.name}"
        begun = engine.start(Asked(experiment, run_name, compiled, parameters, account))
    submitted = Submitted(endpoint, run_name, begun, pods or namespace)
    _tell(submitted, browse)
    if wait:
        _follow(engine, submitted, hours * 3600, as_json)
    elif as_json:
        sys.stdout.write(json.dumps(submitted.as_json(begun, {})) + "\n")


@dataclass(frozen=True)
class Submitted:
    """A run that was started, and where to find it."""

    endpoint: str
    name: str
    run: ClusterRun
    pods: str | None

    @property
    def url(self) -> str:
        """Its page."""
        return f"{self.endpoint.rstrip('/')}/#/runs/details/{self.run.id}"

    def as_json(self, found: ClusterRun, results: dict[str, str]) -> dict[str, Any]:
        """What a machine would ask."""
        registered = results.get("register")  # it is never taken from a cache, as the gate's answer may be
        return {
            "run": self.name,
            "id": found.id,
            "state": found.state,
            "error": found.error,
            "url": self.url,
            "accepted": None if registered is None else not registered.startswith(NO_VERSION),
            "steps": [{"name": each.name, "state": each.state, "seconds": each.seconds} for each in found.tasks],
            "results": results,
        }


def _follow(engine: Pipelines, submitted: Submitted, seconds: float, as_json: bool) -> None:
    """Raises EngineError: the run failed; the error that a step told, where its log could be read."""
    from pipelines.training import STEPS
    from serinus.cli.train_screen import Screen
    from serinus.control.submit import Follower
    from serinus.core.errors import EngineError

    with Screen() as screen:
        follower = Follower(engine, submitted.run.id, STEPS, screen.on_event, _logs(submitted))
        found = follower.until_over(seconds)
    if as_json:
        sys.stdout.write(json.dumps(submitted.as_json(found, follower.results)) + "\n")
    if found.state != "succeeded":
        raise follower.error or EngineError(
            f"the run {submitted.name} {found.state}: {found.error or 'no step said why'}", hint=submitted.url
        )
    _say_result(follower)


def _say_result(follower: Follower) -> None:
    registered = follower.results.get("register")
    if registered is not None and registered.startswith(NO_VERSION):
        sys.stderr.write("Refused: the candidate was not registered; the page of the step `evaluate` shows why\n")
        raise typer.Exit(REFUSED)
    sys.stderr.write(f"Accepted: {registered}\n" if registered else "Succeeded\n")


def _logs(submitted: Submitted) -> Any:
    """The logs of the run's steps; None where no cluster is in reach, for whoever starts runs may not see pods."""
    from serinus.core.errors import EngineError
    from serinus.engines.kubernetes import Cluster
    from serinus.engines.kubernetes_logs import StepLogs

    if submitted.pods is None:
        return None
    try:
        return StepLogs(Cluster.connect(), submitted.pods, submitted.run.id)
    except EngineError as error:
        sys.stderr.write(f"no logs are shown: {error.message}\n")
        return None


def _tell(submitted: Submitted, browse: bool) -> None:
    sys.stderr.write(f"{submitted.name}: {submitted.url}\n")
    if browse:
        import webbrowser

        webbrowser.open(submitted.url)


def _compile(service: ModelService, output: Path, secret: str) -> None:
    from pipelines.training import training_pipeline
    from serinus.engines.kfp_compile import compile_pipeline
    from serinus.engines.kubernetes_features import PLATFORM_FILE, SPEC_IN_IMAGE

    arguments = {"spec": SPEC_IN_IMAGE, "platform": PLATFORM_FILE}
    compile_pipeline(training_pipeline(service.training.spec.project.image, secret), output, arguments)


def _secret(file: Path | None) -> str | None:
    """What a file with a token or a cookie holds.

    Raises:
        NotFound: it cannot be read.
    """
    from serinus.core.errors import NotFound

    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise NotFound(f"{file} cannot be read: {error.strerror}") from error
