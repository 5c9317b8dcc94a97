"""`ModelDeployment`: which version is served and how."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from serinus.core.spec.common import Name, Resource, SpecModel
from serinus.core.times import Duration


class ModelRef(SpecModel):
    """The version to serve."""

    name: Name
    """Name in the registry, and in the address that applications call."""
    version: Annotated[int, Field(ge=1)] | Literal["champion", "challenger"] = "champion"
    """A registry version, or the alias that names one."""


class Batching(SpecModel):
    """How requests that arrive together share one lookup and one forward pass."""

    max_size: Annotated[int, Field(ge=1, le=1024)] = 64
    """Requests a batch at most."""
    max_delay: Duration = timedelta(milliseconds=2)
    """How long the first request of a batch waits for others."""


class Predictor(SpecModel):
    """The processes that answer."""

    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Python worker processes a predictor."""
    batching: Batching = Batching()
    queue_size: Annotated[int, Field(ge=1)] = 1000
    """Requests that may wait; beyond it the answer is 503."""
    timeout: Duration = timedelta(seconds=10)
    """Longest time for one answer."""


Handling = Literal["impute", "flag", "reject"]


class FeaturePolicy(SpecModel):
    """What to do with values that the online store lacks or that are too old."""

    on_missing: Literal["impute", "reject"] = "impute"
    """No value: `impute` leaves it to the model's own missing-value handling, `reject` refuses the row."""
    on_stale: Handling = "impute"
    """A value older than the limit: `impute` treats it as missing, as training did; `flag` uses it and says so;
    `reject` refuses the row."""
    maximum_age: Duration | None = None
    """Age limit; the feature view's TTL where not given."""


class Features(SpecModel):
    """Handling of features, by default and by feature view."""

    default: FeaturePolicy = FeaturePolicy()
    """For every view not named below."""
    views: dict[str, FeaturePolicy] = {}
    """By name of the feature view."""

    def policy(self, view: str) -> FeaturePolicy:
        return self.views.get(view, self.default)


class ModelDeploymentSpec(SpecModel):
    """The desired state of a served model."""

    model: ModelRef
    predictor: Predictor = Predictor()
    features: Features = Features()


class ModelDeployment(Resource):
    """Serves a registered model version with its features."""

    kind: Literal["ModelDeployment"]
    spec: ModelDeploymentSpec
