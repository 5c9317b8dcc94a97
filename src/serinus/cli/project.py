"""Verbs on a project's files: begin one, check its spec, print the schemas that the spec follows."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

File = Annotated[Path, typer.Option("--file", "-f", help="The spec, or the folder that holds it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command(epilog="Example: serinus init parcels && cd parcels && serinus train")(init)
    app.command(epilog="Example: serinus validate -f examples/flights/serinus.yaml")(validate)
    app.command(epilog="Example: serinus schema --crd | kubectl apply -f -")(schema)


def init(
    name: Annotated[str, typer.Argument(help="Name of the model: lower-case letters, digits and inner hyphens.")],
    directory: Annotated[
        Path | None, typer.Option("--directory", "-d", help="Where to make it; a new folder NAME where not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a new project: a small model on made-up data that trains in about a minute, to be replaced by yours."""
    from serinus.training.scaffold import create

    folder = directory or Path(name)
    written = create(name, folder)
    if as_json:
        _say(json.dumps({"directory": str(folder), "files": [path.name for path in written]}))
        return
    for path in written:
        _say(f"wrote {path}")
    _say(f"Next: cd {folder} && serinus train")


def validate(file: File = Path("serinus.yaml"), as_json: AsJson = False) -> None:
    """Check a spec and say everything that is wrong with it: where, what was found, what is allowed. Exit code 2."""
    from serinus.core.errors import InvalidSpec
    from serinus.engines.specfile import read_service

    try:
        service = read_service(file)
    except InvalidSpec as error:
        if not as_json:
            raise
        _say(json.dumps({"valid": False, "problems": [asdict(each) for each in error.problems]}))
        raise typer.Exit(error.exit_code) from error
    names = {"training": service.training.metadata.name, "deployment": service.deployment.metadata.name}
    if as_json:
        _say(json.dumps({"valid": True, "problems": [], **names}))
    else:
        _say(f"OK: ContinuousTraining {names['training']}, ModelDeployment {names['deployment']}")


def schema(
    crd: Annotated[bool, typer.Option("--crd", help="Kubernetes CustomResourceDefinitions, as YAML.")] = False,
) -> None:
    """Print what a spec may say: one JSON Schema a kind, or (--crd) what a cluster needs to accept them."""
    import yaml

    from serinus.core.crd import custom_resource_definition
    from serinus.core.spec import KINDS

    if crd:
        documents = [custom_resource_definition(kind) for kind in KINDS]
        _say(yaml.safe_dump_all(documents, sort_keys=False, width=120).rstrip())
        return
    _say(json.dumps({kind: model.model_json_schema(by_alias=True) for kind, model in KINDS.items()}, indent=2))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
