"""What one predictor process is told at start: which version, which policy, where the online features are."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from serinus.core.platform import Platform
from serinus.core.spec.deployment import ModelDeploymentSpec


class ServingConfig(BaseModel):
    """Read by the handler from the file that the environment variable SERINUS_SERVING names.

    `clock` says which time a value's age is measured against: the machine's (`wall`), or the request's own
    `event_timestamp` column (`request`), for replaying the past.
    """

    model_config = ConfigDict(frozen=True)

    version: int
    digest: str
    deployment: ModelDeploymentSpec
    platform: Platform
    feature_project: str
    clock: Literal["wall", "request"] = "wall"
    metrics_dir: Path
