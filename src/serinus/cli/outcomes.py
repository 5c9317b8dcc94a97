"""The verb that takes outcomes from a table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

_SHOWN = 10


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command(epilog="Example: serinus outcomes --input labels.parquet")(outcomes)


def outcomes(
    table: Annotated[Path, typer.Option("--input", "-i", help="Parquet, CSV or JSON lines.")],
    file: Annotated[Path, typer.Option("--file", "-f", help="The spec, or the folder that holds it.")] = Path(
        "serinus.yaml"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Bring outcomes from a table to the prediction log, as `POST /v1/outcomes` does one by one.

    Columns: `prediction_id` or the caller's own `id`, `label` (0 or 1) and, if it is not now, `label_timestamp`. The
    same table twice changes nothing. Exit code 1: rows were invalid; the valid ones are kept.
    """
    from datetime import UTC, datetime

    from serinus.control.outcomes import load_outcomes
    from serinus.core.platform import Platform
    from serinus.engines.prediction_store import PredictionStore
    from serinus.engines.specfile import read_service

    deployment = read_service(file).deployment.spec
    platform = Platform.local((file if file.is_dir() else file.parent) / ".serinus")
    store = PredictionStore(deployment.log.place(platform.state))
    loaded = load_outcomes(table, store, deployment.model.name, datetime.now(UTC))
    if as_json:
        listed = [{"row": row, "error": text} for row, text in loaded.errors.items()]
        sys.stdout.write(json.dumps({"kept": loaded.kept, "invalid": len(listed), "errors": listed}) + "\n")
    else:
        _show(loaded.kept, loaded.errors)
    if loaded.errors:
        raise typer.Exit(1)


def _show(kept: int, errors: dict[int, str]) -> None:
    from rich.console import Console

    Console().print(f"{kept:,} outcomes kept, {len(errors):,} rows invalid.")
    console = Console(stderr=True)
    for text in list(errors.values())[:_SHOWN]:
        console.print(text, soft_wrap=True)
    if len(errors) > _SHOWN:
        console.print(f"and {len(errors) - _SHOWN:,} more")
