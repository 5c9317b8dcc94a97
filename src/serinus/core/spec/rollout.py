"""`ModelDeployment.spec.rollout`: how a new version earns its traffic, and what takes it back.

Tolerances say what counts as harm, margins what counts as safe; between them a guard waits for more evidence. All of a
rollout's false alarms together have a probability of at most half of `alpha`, and so have all of its wrong steps
forward.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from serinus.core.spec.common import Name, SpecModel
from serinus.core.spec.rules import milliseconds, must
from serinus.core.spec.traffic import Percent
from serinus.core.spec.training import Cron
from serinus.core.times import PositiveDuration

Weight = Annotated[float, Field(gt=0, lt=100)]
Ratio = Annotated[float, Field(ge=1, le=100)]
Share = Annotated[float, Field(gt=0, lt=1)]
Query = Annotated[str, Field(min_length=1, max_length=4096)]
VERSION_PLACEHOLDER = "$version"
GUARD_NAMES = (
    "errors", "slow", "latency", "features", "predictions", "expected", "quality", "estimate", "sample-ratio",
)  # fmt: skip
"""What the built-in guards are called in status and ledger."""


class Guard(SpecModel):
    """What every guard has."""

    enabled: bool = True
    """Whether the guard is asked at all."""
    blocking: bool = True
    """Whether a step waits until this guard says *safe*. A guard that does not block can still say *harm*."""


class RateGuard(Guard):
    """A rate of events, compared with that of the stable version on concurrent traffic."""

    ratio: Ratio = 1.25
    """Harm is a rate above this multiple of the stable version's."""
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.005
    """Safe is a rate below `ratio` times the stable version's plus this much, so that no events at all can be safe."""


class Errors(RateGuard):
    """Requests that were answered with 5xx, or not at all."""

    sick: Share = 0.05
    """While the stable version itself errs more often than this, no step is taken unless the canary errs less often."""


class Slow(RateGuard):
    """Requests that take longer than a threshold."""

    margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Safe is a share below `ratio` times the stable version's plus this much."""
    threshold: PositiveDuration = timedelta(milliseconds=100)
    """What takes longer is slow; the next edge of the latency histogram's buckets is used."""


class Latency(Guard):
    """A quantile of latency."""

    blocking: bool = False
    """Whether a step waits until this guard says *safe*. Quantiles need many requests."""
    quantile: Share = 0.99
    """The quantile."""
    tolerance: Annotated[float, Field(gt=0, le=100)] = 0.2
    """Harm is a quantile above the stable version's by more than this share of it; safe is below."""


class FeatureProblems(RateGuard):
    """Rows whose feature values were missing, stale or refused, as a share of the row's views."""

    margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Safe is a share below `ratio` times the stable version's plus this much."""
    sick: Share = 0.5
    """While the stable version itself lacks more than this share, as when the online store is down, no step is taken
    unless the canary lacks less: answers without features tell little of a version."""


class Predictions(Guard):
    """The distribution of predicted probabilities."""

    tolerance: Share = 0.1
    """Harm is a total variation above this between canary and stable version on concurrent traffic."""
    margin: Share = 0.05
    """Safe is every bin's share within this much of the stable version's: a measure of its own, finer than the total
    variation, to which every bin adds."""
    expected_tolerance: Share = 0.5
    """Harm is a total variation above this from what the version predicted on its held-out period. Seasons move it."""


class Quality(Guard):
    """Loss of canary minus loss of stable version on the same logged rows, by outcomes that became known."""

    blocking: bool = False
    """Whether a step waits until this guard says *safe*: as long as labels take. A `confirmation` waits in any case."""
    metric: Literal["log_loss", "brier"] = "log_loss"
    """The loss. Log loss counts probabilities as if they lay in [0.01, 0.99], so that it is bounded."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Harm is a mean difference above this."""
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Safe is a mean difference below this."""
    early_outcomes: bool = False
    """Whether an outcome counts as soon as it is known. Otherwise a row counts once its outcome is due, by the
    training's `labelDelay`: outcomes that come early may be no fair sample, as late flights are known last."""
    estimated: bool = True
    """Whether the difference is also estimated before outcomes are known, from calibrated probabilities. An estimate
    can say *harm*, never that a version is confirmed."""
    estimated_tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Harm is an estimated mean difference above this; wider, as it rests on calibration."""
    predictions_change_outcomes: bool = False
    """Whether what is predicted influences what happens. Then a row tells nothing of the version that did not answer
    it, and only the rows that each version answered itself are compared."""


class QueryGuard(RateGuard):
    """A rate of the user's own, from two counters in Prometheus."""

    name: Name
    """How it is called in status and ledger."""
    numerator: Query
    """PromQL of the counter of bad events, `$version` standing for the version."""
    denominator: Query
    """PromQL of the counter of what could have been bad, `$version` standing for the version."""

    @must(
        f"expressions with {VERSION_PLACEHOLDER} in them, or versions could not be told apart",
        cel=f"[self.numerator, self.denominator].all(each, each.contains('{VERSION_PLACEHOLDER}'))",
    )
    def _by_version(self) -> bool:
        return all(VERSION_PLACEHOLDER in each for each in (self.numerator, self.denominator))


class SampleRatio(SpecModel):
    """Observed against configured split. A mismatch is a routing fault: nothing else measured can be trusted."""

    enabled: bool = True
    """Whether the split is checked."""
    tolerance: Annotated[float, Field(ge=1, le=10)] = 1.1
    """Factor on the odds that is no fault."""
    slack: Annotated[float, Field(ge=0)] = 20
    """Requests that rounding and requests under way may be off by, beside what is routed between two scrapes."""


class Guards(SpecModel):
    """What is compared between canary and stable version."""

    errors: Errors = Errors()
    """Requests that were answered with 5xx, or not at all."""
    slow: Slow = Slow()
    """Requests that take longer than a threshold."""
    latency: Latency = Latency()
    """A quantile of latency."""
    features: FeatureProblems = FeatureProblems()
    """Rows whose feature values were missing, stale or refused."""
    predictions: Predictions = Predictions()
    """The distribution of predicted probabilities."""
    quality: Quality = Quality()
    """Loss by outcomes that became known, and estimated before."""
    queries: Annotated[list[QueryGuard], Field(max_length=20)] = []
    """Rates of the user's own."""
    sample_ratio: SampleRatio = SampleRatio()
    """Observed against configured split."""

    @must(
        "queries with names of their own",
        cel=f"self.queries.all(q, !(q.name in {list(GUARD_NAMES)}) && self.queries.exists_one(r, r.name == q.name))",
    )
    def _named_once(self) -> bool | str:
        names = [each.name for each in self.queries]
        taken = sorted({name for name in names if names.count(name) > 1 or name in GUARD_NAMES})
        return not taken or f"{', '.join(taken)} is taken"


class Shadow(SpecModel):
    """Copies of requests go to the canary first; nobody sees its answers."""

    percent: Annotated[float, Field(gt=0, le=100)] = 100
    """Percent of the requests that are copied."""


class Pace(SpecModel):
    """How long a stage lasts: the shadow, and each step."""

    minimum_duration: PositiveDuration = timedelta(minutes=5)
    """No stage is shorter."""
    minimum_requests: Annotated[int, Field(ge=1)] = 100
    """Requests that the canary has taken in a stage before the next one, at least."""
    maximum_duration: PositiveDuration = timedelta(hours=24)
    """A stage that is still undecided then has ended inconclusive."""
    ready_timeout: PositiveDuration = timedelta(minutes=10)
    """A canary that is not ready for so long is taken back."""

    @must(
        "a maximumDuration longer than minimumDuration",
        cel=f"{milliseconds('self.maximumDuration')} > {milliseconds('self.minimumDuration')}",
    )
    def _ordered(self) -> bool:
        return self.maximum_duration > self.minimum_duration


class FreezeWindow(SpecModel):
    """A stretch of time without steps forward. What is harmful is taken back all the same."""

    start: Cron
    """When it begins: a cron expression of five fields, in UTC."""
    duration: PositiveDuration
    """How long it lasts."""


class Confirmation(SpecModel):
    """After a promotion: what was replaced stays warm until outcomes confirm the new version, or undo it."""

    minimum_labels: Annotated[int, Field(ge=1)] = 1000
    """Rows with known outcomes, at least."""
    maximum_duration: PositiveDuration = timedelta(days=7)
    """When it ends, decided or not."""
    inconclusive: Literal["confirm", "undo"] = "confirm"
    """What happens then."""


class Rollout(SpecModel):
    """How a new version earns its traffic."""

    interval: PositiveDuration = timedelta(minutes=1)
    """How often evidence is gathered and judged. It may be as short as one likes: looking often costs nothing."""
    alpha: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Half of it bounds the probability that a rollout takes back a canary that is within every tolerance, the other
    half the probability of any step forward of one that is beyond a margin, whatever the number of looks."""
    shadow: Shadow | None = None
    """Copies of requests go to the canary first; no such stage where not given."""
    steps: Annotated[list[Weight], Field(min_length=1, max_length=20)] = [5, 20, 50]
    """Percent of the requests that the canary answers, step by step; after the last one it is promoted."""
    pace: Pace = Pace()
    """How long a stage lasts."""
    guards: Guards = Guards()
    """What is compared between canary and stable version."""
    inconclusive: Literal["pause", "rollback"] = "pause"
    """What happens when a stage's maximum duration is over and it is undecided."""
    approvals: Annotated[list[Percent], Field(max_length=21)] = []
    """Steps, by weight, that wait for `serinus rollout approve`; 100 is the promotion."""
    freeze: Annotated[list[FreezeWindow], Field(max_length=100)] = []
    """Stretches of time without steps forward."""
    confirmation: Confirmation | None = Confirmation()
    """What follows a promotion; null makes it final at once."""

    @must(
        "steps that rise, such as [5, 20, 50]",
        cel="self.steps.isSorted() && self.steps.all(s, self.steps.exists_one(t, t == s))",
    )
    def _rising(self) -> bool:
        return all(before < after for before, after in pairwise(self.steps))

    @must("approvals of weights that are steps, or 100", cel="self.approvals.all(a, a == 100.0 || a in self.steps)")
    def _approvals_of_steps(self) -> bool | str:
        unknown = [f"{each:g}" for each in self.approvals if each not in (*self.steps, 100)]
        return not unknown or f"{', '.join(unknown)} is none"

    @must(
        "guards.quality enabled, or a null confirmation: outcomes are what confirms a version",
        cel="!has(self.confirmation) || self.guards.quality.enabled",
    )
    def _confirmable(self) -> bool:
        return self.confirmation is None or self.guards.quality.enabled

    @property
    def stages(self) -> int:
        """How many times tests start afresh: the shadow, each step, and the confirmation."""
        return len(self.steps) + (self.shadow is not None) + (self.confirmation is not None)
