"""A registered model version and where it came from."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

CHAMPION = "champion"
CHALLENGER = "challenger"


class Lineage(BaseModel):
    """What made a version: enough to make it again."""

    model_config = ConfigDict(frozen=True)

    as_of: datetime
    data_digest: str
    code_digest: str
    schema_digest: str
    parameters: dict[str, Any]
    pipeline_run: str


class ModelVersion(BaseModel):
    """A version in the registry. `archive` names the .mar whose SHA-256 is `digest`."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: int
    archive: str
    digest: str
    aliases: tuple[str, ...] = ()
    lineage: Lineage
    metrics: dict[str, float] = {}
