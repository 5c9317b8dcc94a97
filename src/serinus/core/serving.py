"""What one predictor process is told at start: which version, which policy, where the online features are."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from serinus.core.platform import Platform
from serinus.core.spec.deployment import ModelDeploymentSpec
from serinus.core.times import Duration

MAXIMUM_ROWS = 4096
"""Rows that a request may carry, unless told otherwise."""


class PodConfig(BaseModel):
    """What the pods of one model version are told on a cluster: what to serve, and how. Where the engines are, they
    learn from the Platform of their namespace."""

    model_config = ConfigDict(frozen=True)

    version: int
    digest: str
    deployment: ModelDeploymentSpec


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
    spool_dir: Path | None = None
    """Folder of the predictor's own disk where the prediction log waits to be shipped; without it there is no log."""
    door_admin: Path | None = None
    """The admin socket of the front door; the sidecar shows what it counts. Without it nobody knows of requests that
    got no answer, and there is no evidence for a rollout."""
    maximum_rows: Annotated[int, Field(ge=1, le=100_000)] = MAXIMUM_ROWS
    """Rows a request may carry."""
    lookup_timeout: Duration = timedelta(seconds=1)
    """How long one batch waits for the online store; after it the values count as unavailable."""
    cache_age: Duration = timedelta(seconds=1)
    """How long a decoded online row may be used again; 0 turns the cache off, as does the clock `request`."""
    cache_rows: Annotated[int, Field(ge=0)] = 50_000
    """Decoded rows that a worker keeps for each feature view at most."""

    @property
    def logged(self) -> bool:
        """Whether answers are logged."""
        return self.deployment.log.enabled and self.spool_dir is not None

    @property
    def log_destination(self) -> str:
        """Path or URL that the prediction log is shipped to."""
        return self.deployment.log.place(self.platform.state)

    @property
    def cached(self) -> bool:
        """Whether rows are cached: never when time is the request's, for then the store's past moves under it."""
        return self.clock == "wall" and self.cache_rows > 0 and self.cache_age > timedelta(0)
