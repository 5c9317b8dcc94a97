"""The verb that lists a model's registered versions: aliases, metrics and where each came from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from serinus.core.version import ModelVersion

_UNLIMITED = 10_000  # columns of what is not a terminal


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command(epilog="Example: serinus models -f examples/flights/serinus.yaml --json")(models)


def models(
    file: Annotated[Path, typer.Option("--file", "-f", help="The spec, or the folder that holds it.")] = Path(
        "serinus.yaml"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the registered versions of the spec's model, newest first."""
    from serinus.core.platform import Platform
    from serinus.engines.mlflow import Registry
    from serinus.engines.specfile import read_service

    name = read_service(file).deployment.spec.model.name
    platform = Platform.local((file if file.is_dir() else file.parent) / ".serinus")
    versions = Registry(platform.tracking_uri, platform.artifact_uri).versions(name)
    if as_json:
        listed = [version.model_dump(mode="json") for version in versions]
        sys.stdout.write(json.dumps({"model": name, "versions": listed}) + "\n")
        return
    from rich.console import Console

    if versions:
        show(Console(), name, versions)
    else:
        Console(stderr=True).print(f"No version of {name} is registered yet: serinus train makes one.")


def show(console: Console, name: str, versions: tuple[ModelVersion, ...]) -> None:
    """A table that fits in 80 columns, then the run of each version, whose names are longer than what is left.

    Nothing is cut: what is piped somewhere has no width, and in a narrow terminal cells are folded.
    """
    from rich import box
    from rich.table import Table

    table = Table(title=f"Versions of {name}", box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    for title in ("version", "aliases", "as of", "ROC AUC", "log loss", "data", "code"):
        right = title in ("version", "ROC AUC", "log loss")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for version in versions:
        lineage = version.lineage
        table.add_row(
            str(version.version),
            ", ".join(version.aliases),
            f"{lineage.as_of:%Y-%m-%d %H:%M}",
            *(_number(version.metrics.get(metric)) for metric in ("roc_auc", "log_loss")),
            *(digest.removeprefix("sha256:")[:8] for digest in (lineage.data_digest, lineage.code_digest)),
        )
    if not console.is_terminal:
        console.width = _UNLIMITED
    console.print(table)
    for version in versions:
        console.print(f"version {version.version}: run {version.lineage.pipeline_run}", soft_wrap=True, highlight=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
