"""What a cluster's operator observes and decides, in `status` of the two resources.

Kubernetes' conventions: `observedGeneration` says which spec this is about, `conditions` are keyed by type. The rest is
what a person asks of a rollout: where it stands, on which evidence, and what was decided last, why.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from serinus.core.guards.reading import Reading, Word
from serinus.core.rollout.state import Action, Decision, Pause, Phase
from serinus.core.spec.common import PATTERN_WORDS, SpecModel
from serinus.core.spec.traffic import Percent
from serinus.core.times import Moment

DECISIONS = 10
"""How many decisions a status remembers; the ledger has all of them."""

REASON_PATTERN = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
PATTERN_WORDS[REASON_PATTERN] = "one word, such as StepTaken"

Version = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(max_length=32768)]


def _keyed(*keys: str) -> dict[str, str | list[str]]:
    """A list whose items are told apart by these fields, so that two writers can each own some of them."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


class StatusModel(SpecModel):
    """Base of what is observed: named as in the spec, but nobody writes it by hand."""

    model_config = ConfigDict(strict=False)


class Condition(StatusModel):
    """One aspect of the state, as Kubernetes' conventions have it."""

    type: Annotated[str, Field(min_length=1, max_length=316)]
    """Name of the aspect, such as `Ready`."""
    status: Literal["True", "False", "Unknown"]
    """Whether it is so."""
    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """The `metadata.generation` that the condition was found for."""
    last_transition_time: Moment
    """When `status` changed last."""
    reason: Annotated[str, Field(pattern=REASON_PATTERN, max_length=1024)]
    """Why, as one word for programs."""
    message: Text
    """Why, in a sentence for people."""


class Status(StatusModel):
    """What both resources have."""

    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """The `metadata.generation` that this status is about; a smaller one than the resource's is out of date."""
    conditions: Annotated[tuple[Condition, ...], Field(json_schema_extra=_keyed("type"))] = ()
    """Aspects of the state, one a type."""


class GuardEvidence(StatusModel):
    """What one guard says about the canary."""

    guard: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the guard."""
    verdict: Word
    """`safe`, `harm`, or `undecided` while the evidence is thin."""
    blocking: bool
    """Whether a step waits until the guard says `safe`."""
    value: float | None = None
    """The canary's metric."""
    reference: float | None = None
    """The stable version's metric."""
    unit: str
    """What the metric is measured in."""
    low: float | None = None
    """Lower bound of the effect that is judged; none yet where not given."""
    high: float | None = None
    """Upper bound of the effect that is judged; none yet where not given."""
    canary: Annotated[float, Field(ge=0)]
    """Requests or rows of the canary that this rests on."""
    stable: Annotated[float, Field(ge=0)]
    """Requests or rows of the stable version that this rests on."""
    text: Text
    """The same in a sentence."""

    @classmethod
    def of(cls, reading: Reading) -> GuardEvidence:
        """A guard's reading, without what only the state machine needs."""
        return cls.model_validate({name: getattr(reading, name) for name in cls.model_fields})


class Decided(StatusModel):
    """One decision."""

    at: Moment
    """When."""
    action: Action
    """What was decided."""
    who: str
    """Who did: a person who asked for it, or `serinus`."""
    reasons: tuple[Text, ...]
    """Why."""


class Paused(StatusModel):
    """Who stopped the rollout where it is, and why."""

    who: str
    """Who stopped it."""
    why: Text
    """The reason that was given."""
    since: Moment
    """When."""

    @classmethod
    def of(cls, pause: Pause) -> Paused:
        """A rollout's pause."""
        return cls(who=pause.who, why=pause.why, since=pause.since)


class ModelDeploymentStatus(Status):
    """Which versions are served, and how the rollout of a new one stands. Written by the operator."""

    phase: Phase | None = None
    """`stable` with one version; else the canary's stage: `starting`, `shadow`, `step`, or `provisional` while it has
    everything and outcomes must still confirm it."""
    stable: Version | None = None
    """The version that is trusted."""
    canary: Version | None = None
    """The version that is being rolled out."""
    weight: Percent | None = None
    """Percent of the requests that the canary answers."""
    shadow: Percent | None = None
    """Percent of the requests that the canary gets a copy of."""
    started: Moment | None = None
    """When the rollout began."""
    paused: Paused | None = None
    """Who stopped the rollout where it is, and why."""
    evidence: Annotated[tuple[GuardEvidence, ...], Field(json_schema_extra=_keyed("guard"))] = ()
    """What each guard says about the canary in the present stage."""
    decisions: Annotated[tuple[Decided, ...], Field(max_length=DECISIONS)] = ()
    """The last decisions, the newest first. A look that changed nothing replaces the one before it, and while no
    version is rolled out it is not written at all."""

    def after(self, decision: Decision, generation: int) -> ModelDeploymentStatus:
        """The status once a decision is taken for the spec of a generation; conditions stay as they are."""
        state, shares = decision.state, decision.shares
        decided = Decided(at=decision.at, action=decision.action, who=decision.who, reasons=decision.reasons)
        earlier = self.decisions
        if earlier and decided.action == earlier[0].action == "hold":
            earlier = earlier[1:]
        return ModelDeploymentStatus(
            observed_generation=generation,
            conditions=self.conditions,
            phase=state.phase,
            stable=shares.stable,
            canary=shares.canary,
            weight=shares.weight if shares.canary is not None else None,
            shadow=shares.shadow if shares.canary is not None else None,
            started=state.started,
            paused=Paused.of(state.paused) if state.paused is not None else None,
            evidence=tuple(map(GuardEvidence.of, decision.readings)),
            decisions=(decided, *earlier)[:DECISIONS],
        )


class Run(StatusModel):
    """One run of the pipeline."""

    id: Annotated[str, Field(min_length=1)]
    """What the pipeline engine calls it."""
    reason: Text
    """What started it."""
    as_of: Moment
    """The time as of which it sees the world."""
    started: Moment
    """When it began."""
    ended: Moment | None = None
    """When it was over."""
    result: Literal["running", "registered", "refused", "failed"]
    """How it went: a version was registered, the gate refused the candidate, or a step failed."""
    version: Version | None = None
    """The version that it registered."""
    message: Text = ""
    """Why, in a sentence."""


class ContinuousTrainingStatus(Status):
    """When the model was trained last, and what came of it. Written by the operator."""

    last_run: Run | None = None
    """The newest run of the pipeline."""
    requested: Annotated[str, Field(max_length=253)] | None = None
    """The request for a run that was answered last, as the annotation `serinus.dev/run` had it."""
    next_run: Moment | None = None
    """The next time that the schedule asks for."""


STATUSES: dict[str, type[Status]] = {
    "ContinuousTraining": ContinuousTrainingStatus,
    "ModelDeployment": ModelDeploymentStatus,
}
"""The status of each kind."""
