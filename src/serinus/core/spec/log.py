"""The prediction log's part of `ModelDeployment`: what is kept of each answer, and where it goes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field

from serinus.core.spec.common import PATTERN_WORDS, SpecModel
from serinus.core.spec.rules import must
from serinus.core.times import PositiveDuration

_MIB = 1024 * 1024
DESTINATION_PATTERN = r"^([a-z][a-z0-9+.-]*://([^/@?]+(/[^?]*)?|/[^?]+)|/.+)$"
PATTERN_WORDS[DESTINATION_PATTERN] = "an absolute path, or a URL such as s3://bucket/folder, without credentials"


class PredictionLog(SpecModel):
    """Every answer with the values it was made from, as Parquet files in an object store."""

    enabled: bool = True
    """Whether answers are logged. Without a log there is no evidence on quality and skew."""
    sample: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of rows that is kept, chosen at random."""
    segment_rows: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """Rows of a file, about, at most."""
    segment_bytes: Annotated[int, Field(ge=4096, le=1024 * _MIB)] = 16 * _MIB
    """Bytes of a file before it is compressed, about, at most."""
    segment_age: PositiveDuration = timedelta(minutes=1)
    """How long rows wait at most until their file is closed and shipped."""
    buffer_limit: Annotated[int, Field(ge=4096)] = 1024 * _MIB
    """Bytes on the predictor's own disk, at most, while the destination cannot be reached. Beyond it the oldest files
    are dropped, and counted."""
    destination: Annotated[str, Field(pattern=DESTINATION_PATTERN)] | None = None
    """Where files go: a path, or a URL of any object store that fsspec knows. By default the folder `predictions` of
    the project's state. Who asks for it the platform's `storage_options` say, or else the environment, as the store's
    library wants it."""

    def place(self, state: Path) -> str:
        """Path or URL of the destination, for a project's folder of state."""
        return self.destination or str(state / "predictions")

    @must(
        "a bufferLimit of at least segmentBytes, or no file could be finished",
        cel="self.bufferLimit >= self.segmentBytes",
    )
    def _roomy(self) -> bool:
        return self.buffer_limit >= self.segment_bytes
