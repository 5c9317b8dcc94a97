"""A registered model version, where it came from, and the record of the run that made it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

CHAMPION = "champion"
CHALLENGER = "challenger"


class Lineage(BaseModel):
    """What made a version: enough to make it again. `compared_with` is the champion it was judged against, if any."""

    model_config = ConfigDict(frozen=True)

    as_of: datetime
    data_digest: str
    code_digest: str
    schema_digest: str
    parameters: dict[str, Any]
    pipeline_run: str
    compared_with: int | None = None


class RunRecord(BaseModel):
    """What the registry keeps of one training run, whether or not its model was accepted.

    `metrics` describe the candidate as a whole and travel with its version; `details` (other models, slices) stay with
    the run. `card` is Markdown for people. `attachments` are files or folders, by the folder they are kept under.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    lineage: Lineage
    accepted: bool
    metrics: dict[str, float]
    details: dict[str, float] = {}
    card: str
    attachments: dict[str, tuple[Path, ...]] = {}


class ModelVersion(BaseModel):
    """A version in the registry. `archive` names the .mar whose SHA-256 is `digest`, kept with the registry's `run`."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: int
    archive: str
    digest: str
    run: str
    aliases: tuple[str, ...] = ()
    lineage: Lineage
    metrics: dict[str, float] = {}
