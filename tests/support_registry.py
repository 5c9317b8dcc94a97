"""Small archives and run records for the tests of the registry."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from serinus.core.version import Lineage, RunRecord
from serinus.engines.archive import HANDLER, MODEL, PROFILE, SIGNATURE, write_archive


def part_files(folder: Path, model: bytes = b"weights") -> dict[str, Path]:
    """Files to package; only the archive's form matters, so the model may be any bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {MODEL: model, SIGNATURE: b"{}", PROFILE: b"{}", HANDLER: b"handle = None\n"}
    for member, data in contents.items():
        (folder / member).write_bytes(data)
    return {member: folder / member for member in contents}


def archive(folder: Path, model: bytes = b"weights", name: str = "flights") -> tuple[Path, str]:
    """An archive and its digest."""
    path = folder / f"{name}.mar"
    return path, write_archive(path, name, part_files(folder, model))


def record(
    run: str = "run-1", accepted: bool = True, attachments: dict[str, tuple[Path, ...]] | None = None
) -> RunRecord:
    """The record of a run of `flights`."""
    return RunRecord(
        name="flights",
        lineage=Lineage(
            as_of=datetime(2013, 8, 2, 12, tzinfo=UTC),
            data_digest="sha256:data",
            code_digest="sha256:code",
            schema_digest="sha256:schema",
            parameters={"epochs": 8, "hidden": [64, 32], "parameters": {"dropout": 0.1}},
            pipeline_run=run,
        ),
        accepted=accepted,
        metrics={"roc_auc": 0.741, "log_loss": 0.47},
        details={"slice.origin.JFK.roc_auc": 0.75},
        card="# flights\n\nA card.\n",
        attachments=attachments or {},
    )
