"""`ContinuousTraining`: how a model is trained, judged and trained again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from croniter import CroniterBadDateError, croniter
from pydantic import AfterValidator, ConfigDict, Field, JsonValue

from serinus.core.dataset import Split
from serinus.core.spec.common import PATTERN_WORDS, EntryPoint, Name, Resource, SpecModel
from serinus.core.spec.rules import immutable, milliseconds, must
from serinus.core.times import Duration, Interval, Moment, PositiveDuration

_CRON_WORDS = "a cron expression of five fields, such as '0 3 * * 1'"
_CRON_PATTERN = r"^\s*\S+(\s+\S+){4}\s*$"
PATTERN_WORDS[_CRON_PATTERN] = _CRON_WORDS


def _cron(text: str) -> str:
    if len(text.split()) != 5 or not croniter.is_valid(text):
        raise ValueError(_CRON_WORDS)
    try:
        croniter(text, datetime(2000, 1, 1, tzinfo=UTC)).get_next()
    except CroniterBadDateError:
        raise ValueError(f"{_CRON_WORDS}, that names a day which exists") from None
    return text


Cron = Annotated[str, AfterValidator(_cron), Field(json_schema_extra={"pattern": _CRON_PATTERN})]
Text = Annotated[str, Field(min_length=1)]


class ProjectRef(SpecModel):
    """Where the project's code is."""

    entry_point: EntryPoint
    """`module:Class` of the Project, importable from the folder of this file."""
    image: Text = "serinus-pipeline:latest"
    """Container image that holds Serinus and the project, for runs on a cluster."""


class Windows(SpecModel):
    """Which stretch of time trains the model and which one judges it, counted back from the run's as-of time."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["start"]}, {"required": ["length"]}]})

    start: Moment | None = None
    """Training never reaches back beyond this time. Without `length` the training window expands from here."""
    length: PositiveDuration | None = None
    """Length of a sliding training window, `validation` included. One of `start` and `length` is required."""
    validation: PositiveDuration = timedelta(days=14)
    """The last part of the training window, kept for early stopping."""
    holdout: PositiveDuration = timedelta(days=31)
    """The newest labelled period; every model is judged on it and none is fitted on it."""
    label_delay: Duration = timedelta(0)
    """How long after a request its outcome is known, at the latest. The held-out period ends this long before as-of."""

    @must(
        "a start (an expanding window) or a length (a sliding one), or both",
        cel="has(self.start) || has(self.length)",
    )
    def _bounded(self) -> bool:
        return self.start is not None or self.length is not None

    @must(
        "a length longer than validation, which is its last part",
        cel=f"!has(self.length) || {milliseconds('self.length')} > {milliseconds('self.validation')}",
    )
    def _longer_than_validation(self) -> bool:
        return self.length is None or self.length > self.validation

    def split(self, as_of: datetime) -> Split:
        """The three intervals for a run at `as_of`.

        Raises:
            ValueError: there is not yet enough data for a training period.
        """
        until = as_of - self.label_delay
        judged_from = until - self.holdout
        fitted_until = judged_from - self.validation
        starts = [moment for moment in (self.start, judged_from - self.length if self.length else None) if moment]
        since = max(starts)
        if since >= fitted_until:
            raise ValueError(f"the training window is empty: it would run from {since} to {fitted_until}")
        return Split(
            train=Interval(since=since, until=fitted_until),
            validation=Interval(since=fitted_until, until=judged_from),
            holdout=Interval(since=judged_from, until=until),
        )


class Training(SpecModel):
    """How the module is fitted. `parameters` go to the project's `model` as they are."""

    parameters: dict[str, JsonValue] = {}
    """Hyper-parameters of the project's module, in any form."""
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Passes over the training data at most."""
    patience: Annotated[int, Field(ge=1)] = 2
    """Epochs without a better validation loss before training stops early."""
    batch_size: Annotated[int, Field(ge=1)] = 1024
    """Rows a step."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 0.003
    """Peak learning rate of AdamW."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0001
    """AdamW's decoupled weight decay."""
    seed: int = 0
    """Seed of initial weights and of the order of rows; the same seed and data give the same model."""


class Evaluation(SpecModel):
    """How models are compared on the held-out period."""

    baseline: list[Text] = []
    """Columns of the rule baseline: the outcome's past rate for each combination of their values."""
    slices: list[Text] = []
    """Columns whose values are also judged on their own."""
    minimum_slice_rows: Annotated[int, Field(ge=1)] = 200
    """Smaller slices are not reported."""


class Gate(SpecModel):
    """When a candidate may be registered for deployment."""

    metric: Literal["log_loss", "brier"] = "log_loss"
    """The proper scoring rule that decides."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of the paired bootstrap's intervals."""
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Resamples of the paired bootstrap."""
    champion_tolerance: Annotated[float, Field(ge=0)] = 0.002
    """Non-inferiority margin against the champion, in units of the metric."""


class Schedule(SpecModel):
    """When the pipeline runs again by the clock."""

    cron: Cron
    """Cron expression of five fields, in UTC."""


class Triggers(SpecModel):
    """What starts the pipeline again."""

    schedule: Schedule | None = None
    """Runs by the clock."""


class Limits(SpecModel):
    """What triggers may not exceed."""

    minimum_interval: Duration = timedelta(hours=1)
    """Time between the starts of two runs, at least."""
    maximum_duration: PositiveDuration = timedelta(hours=6)
    """A run on a cluster that takes longer is stopped."""
    kept_runs: Annotated[int, Field(ge=1, le=1000)] = 20
    """Runs that a cluster remembers; older ones are deleted from Kubeflow Pipelines. What they registered stays."""


class Freshness(SpecModel):
    """How features are kept up to date: on a schedule of their own, so that training never holds them up."""

    enabled: bool = True
    """Whether Serinus keeps them up to date; false where something else fills the stores."""
    interval: PositiveDuration = timedelta(minutes=1)
    """Time between two passes: what became known is ingested, and its newest rows go to the online store."""


class ContinuousTrainingSpec(SpecModel):
    """The desired state of a model's training."""

    project: ProjectRef
    """Where the project's code is."""
    feature_service: Text
    """Feast FeatureService whose features the model takes."""
    windows: Windows
    """Which stretch of time trains the model and which one judges it."""
    training: Training = Training()
    """How the module is fitted."""
    evaluation: Evaluation = Evaluation()
    """How models are compared on the held-out period."""
    gate: Gate = Gate()
    """When a candidate may be registered for deployment."""
    triggers: Triggers = Triggers()
    """What starts the pipeline again."""
    limits: Limits = Limits()
    """What triggers may not exceed."""
    freshness: Freshness = Freshness()
    """How features are kept up to date."""
    deployment: Annotated[
        Name, Field(json_schema_extra=immutable("the stored name: another deployment is another resource"))
    ]
    """The ModelDeployment that accepted versions go to. It never changes."""


class ContinuousTraining(Resource):
    """Trains a model again and again and registers the versions that pass the gate."""

    kind: Literal["ContinuousTraining"]
    spec: ContinuousTrainingSpec
    """The desired state."""
