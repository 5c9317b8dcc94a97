"""`serinus train`: the training pipeline, run here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from serinus.core.evaluation import Scorecard
    from serinus.core.gate import GateVerdict
    from serinus.engines.kfp import RunResult
    from serinus.engines.kfp_watch import StepEvent

REFUSED = 1

File = Annotated[Path, typer.Option("--file", "-f", help="The spec, or the folder that holds it.")]


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command(epilog="Example: serinus train -f examples/flights --as-of 2013-08-02T12:00:00Z")(train)


@dataclass(frozen=True)
class Outcome:
    """What one run of the pipeline came to. `version` is None for a refused candidate."""

    model: str
    result: RunResult
    card: Scorecard
    verdict: GateVerdict
    version: int | None
    report: Path

    def as_json(self) -> dict[str, Any]:
        """Everything a machine would ask, as plain JSON values."""
        models = {"candidate": self.card.candidate, "champion": self.card.champion, "baseline": self.card.baseline}
        return {
            "model": self.model,
            "accepted": self.verdict.passed,
            "version": self.version,
            "run": self.result.run,
            "seconds": round(self.result.seconds, 1),
            "reasons": [reason.model_dump(mode="json") for reason in self.verdict.reasons],
            "metrics": {name: model.overall.model_dump() for name, model in models.items() if model},
            "champion_version": self.card.champion_version,
            "report": str(self.report),
            "folder": str(self.result.folder),
            "steps": [
                {"name": step.name, "status": step.status, "seconds": round(step.seconds, 2), "result": step.result}
                for step in self.result.steps
            ],
        }


def train(
    file: File = Path("serinus.yaml"),
    as_of: Annotated[
        str | None, typer.Option(help="Look back from this time (UTC), cut to the hour; now where not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")] = False,
) -> None:
    """Run the training pipeline here: ingest, validate, build the dataset, train, evaluate, judge, register.

    What did not change since an earlier run is not computed again. Exit code 0: the candidate was accepted; 1: it was
    refused, with the reasons; any other: the run failed.
    """
    from serinus.cli.train_screen import Screen, show
    from serinus.engines.kfp import StepFailed

    now = datetime.now(UTC)
    with Screen() as screen:
        try:
            outcome = run_training(file, as_of or now.isoformat(), f"{now:%Y%m%d-%H%M%S-%f}", screen.on_event)
        except StepFailed as error:
            screen.lines(error.tail)
            raise
    if as_json:
        sys.stdout.write(json.dumps(outcome.as_json()) + "\n")
    else:
        show(outcome)
    if not outcome.verdict.passed:
        raise typer.Exit(REFUSED)


def run_training(file: Path, as_of: str, run: str, on_event: Callable[[StepEvent], None]) -> Outcome:
    """Run the pipeline of a spec as of a time, under a name not used before.

    Raises:
        SerinusError: the spec is wrong, another run is under way, or a step failed.
    """
    from pipelines.training import training_pipeline
    from serinus.core.evaluation import Scorecard
    from serinus.core.gate import GateVerdict
    from serinus.core.platform import Platform
    from serinus.engines.kfp import run_local
    from serinus.engines.specfile import DEFAULT_NAME, read_service
    from serinus.training.start import start_time

    spec = (file / DEFAULT_NAME if file.is_dir() else file).absolute()
    service = read_service(spec)
    moment = start_time(as_of)
    platform = Platform.local(spec.parent / ".serinus")
    arguments = {
        "spec": str(spec),
        "platform": platform.model_dump_json(),
        "as_of": moment.isoformat(),
        "run": run,
    }
    result = run_local(training_pipeline(), arguments, platform, run, on_event)
    outputs = result.outputs
    return Outcome(
        model=service.deployment.spec.model.name,
        result=result,
        card=Scorecard.model_validate_json(Path(outputs["evaluation"], "scorecard.json").read_bytes()),
        verdict=GateVerdict.model_validate_json(Path(outputs["verdict"], "verdict.json").read_bytes()),
        version=int(outputs["version"]) or None,
        report=Path(outputs["evaluation"], "report.html"),
    )
