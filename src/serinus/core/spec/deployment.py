"""`ModelDeployment`: which version is served and how."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from serinus.core.spec.common import PATTERN_WORDS, Name, Resource, SpecModel
from serinus.core.spec.log import PredictionLog
from serinus.core.spec.rollout import Rollout
from serinus.core.spec.rules import immutable, milliseconds, must
from serinus.core.spec.traffic import Traffic, Version
from serinus.core.times import Duration, PositiveDuration

QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
PATTERN_WORDS[QUANTITY_PATTERN] = "an amount, such as 2, 500m or 1.5Gi"


class ModelRef(SpecModel):
    """The version to serve."""

    name: Annotated[Name, Field(json_schema_extra=immutable("the stored name: another model is another resource"))]
    """Name in the registry, and in the address that applications call. It never changes."""
    version: Version = "champion"
    """A registry version, or the alias that names one: `champion` or `challenger`."""


class Batching(SpecModel):
    """How requests that arrive together share one lookup and one forward pass."""

    max_size: Annotated[int, Field(ge=1, le=1024)] = 64
    """Requests a batch at most."""
    max_delay: Duration = timedelta(milliseconds=2)
    """How long the first request of a batch waits for others."""


Quantity = Annotated[str, Field(pattern=QUANTITY_PATTERN, min_length=1, max_length=32)]


class Replicas(SpecModel):
    """How many pods each version has on a cluster."""

    minimum: Annotated[int, Field(ge=1, le=1000)] = 1
    """Pods at least. From two on, one at most is taken away at a time when a node is emptied."""
    maximum: Annotated[int, Field(ge=1, le=1000)] = 1
    """Pods at most; between the two their number follows the load."""
    cpu_percent: Annotated[int, Field(ge=10, le=100)] = 80
    """Percent of the requested processor time that a pod is to be busy; more pods come above it, fewer below."""

    @must("a maximum of at least the minimum", cel="self.maximum >= self.minimum")
    def _in_order(self) -> bool:
        return self.maximum >= self.minimum


class Amounts(SpecModel):
    """Processor time and memory."""

    cpu: Quantity | None = None
    """Processors, such as `2` or `500m`."""
    memory: Quantity | None = None
    """Memory, such as `2Gi`."""


class Resources(SpecModel):
    """What each pod gets on a cluster."""

    requests: Amounts = Amounts(cpu="500m", memory="1536Mi")
    """What is set aside for it."""
    limits: Amounts = Amounts(memory="3Gi")
    """What it may not go beyond."""


class Predictor(SpecModel):
    """The processes that answer."""

    replicas: Replicas = Replicas()
    """How many pods each version has on a cluster; a laptop runs one predictor a version."""
    resources: Resources = Resources()
    """What each pod gets on a cluster."""

    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Python worker processes a predictor."""
    batching: Batching = Batching()
    """How requests that arrive together share one lookup and one forward pass."""
    queue_size: Annotated[int, Field(ge=1)] = 1000
    """Requests that may wait; beyond it the answer is 503."""
    timeout: PositiveDuration = timedelta(seconds=10)
    """Longest time for one answer."""

    @must(
        "a timeout longer than batching.maxDelay, or no answer could be in time",
        cel=f"{milliseconds('self.timeout')} > {milliseconds('self.batching.maxDelay')}",
    )
    def _answerable(self) -> bool:
        return self.timeout > self.batching.max_delay


Handling = Literal["impute", "flag", "reject"]


class FeaturePolicy(SpecModel):
    """What to do with values that the online store lacks or that are too old."""

    on_missing: Literal["impute", "reject"] = "impute"
    """No value: `impute` leaves it to the model's own missing-value handling, `reject` refuses the row."""
    on_stale: Handling = "impute"
    """A value older than the limit: `impute` treats it as missing, as training did; `flag` uses it and says so;
    `reject` refuses the row."""
    maximum_age: PositiveDuration | None = None
    """Age limit; the feature view's TTL where not given."""


class Features(SpecModel):
    """Handling of features, by default and by feature view."""

    default: FeaturePolicy = FeaturePolicy()
    """For every view not named below."""
    views: dict[str, FeaturePolicy] = {}
    """By name of the feature view."""
    cache_age: Duration = timedelta(seconds=1)
    """How long a worker may use a value that it has read again before it reads it anew; 0 reads for every batch. A
    value's own age is judged at each use, so this never takes one past its limit."""

    def policy(self, view: str) -> FeaturePolicy:
        """The policy for a feature view: its own, or the default."""
        return self.views.get(view, self.default)


class ModelDeploymentSpec(SpecModel):
    """The desired state of a served model."""

    model: ModelRef
    """The version to serve."""
    predictor: Predictor = Predictor()
    """The processes that answer."""
    features: Features = Features()
    """Handling of features, by default and by feature view."""
    log: PredictionLog = PredictionLog()
    """Every answer with the values it was made from, as Parquet files in an object store."""
    traffic: Traffic = Traffic()
    """Who gets which version, and what the front door lets through."""
    rollout: Rollout | None = None
    """How a new version earns its traffic; versions change by `serinus deploy` alone where not given."""

    @must(
        "a rollout or a traffic.canary: both decide who gets how much",
        cel="!(has(self.rollout) && has(self.traffic.canary))",
    )
    def _one_split(self) -> bool:
        return self.rollout is None or self.traffic.canary is None


class ModelDeployment(Resource):
    """Serves a registered model version with its features."""

    kind: Literal["ModelDeployment"]
    spec: ModelDeploymentSpec
    """The desired state."""
