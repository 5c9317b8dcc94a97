"""The language between guards and whoever acts on them: traffic in, readings out."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from serinus.core.evidence import Interval, QualityEvidence
from serinus.core.sequential import AlphaShare
from serinus.core.sequential.verdict import Codes, Floats

Word = Literal["safe", "undecided", "harm"]


class ArmCounts(NamedTuple):
    """New counts of one version in one interval, as arrays: [...], with a last axis of bins where there are any.

    `slow` are requests above the threshold of the guard on slow ones. `queries` has numerator and denominator of each
    of the user's guards, [..., Q, 2].
    """

    requests: Floats
    errors: Floats
    slow: Floats
    latency: Floats
    rows: Floats
    problems: Floats
    predictions: Floats
    queries: Floats
    routed: Floats


class Traffic(NamedTuple):
    """One interval of both versions. `weight` is the canary's configured share in [0, 1] of what was `routed`.

    The interval took `seconds`; the counts of one version may begin and end up to `apart` seconds before the other's.
    """

    canary: ArmCounts
    stable: ArmCounts
    weight: Floats
    seconds: float = 0.0
    apart: float = 0.0


class Evidences(NamedTuple):
    """log e-values of a guard's two tests, [...]; a test that a guard does not have is -inf, for ever undecided."""

    harm: Floats
    safe: Floats


class Reading(BaseModel):
    """What one guard says, for people and for the state machine.

    `value` and `reference` are the metric of canary and stable version, in `unit`. The effect that is judged lies in
    `[low, high]` (None: not bounded yet), harm is above `harm_above`, safe below `safe_below`. `canary` and `stable`
    say how many requests (or rows) that rests on. `harm_evidence` and `safe_evidence` are log e-values as shares of
    what is needed to reject: 1 or more is a verdict.
    """

    model_config = ConfigDict(frozen=True)

    guard: str
    verdict: Word
    blocking: bool
    on_harm: Literal["rollback", "pause"] = "rollback"
    unit: str
    value: float | None = None
    reference: float | None = None
    low: float | None = None
    high: float | None = None
    harm_above: float | None = None
    safe_below: float | None = None
    canary: float = 0
    stable: float = 0
    harm_evidence: float = 0
    safe_evidence: float = 0
    text: str


State = Any
"""A guard's own named tuple of arrays (or nested tuples of them)."""


class Guard(Protocol):
    """One guard on traffic. Stateless: the state goes in and comes out."""

    @property
    def name(self) -> str: ...

    @property
    def blocking(self) -> bool: ...

    def start(self, shape: tuple[int, ...] = ()) -> State:
        """The state before any traffic."""
        ...

    def update(self, state: State, traffic: Traffic) -> State:
        """Add one interval."""
        ...

    def evidences(self, state: State) -> Evidences:
        """What the state amounts to, [...]."""
        ...

    def codes(self, state: State, share: AlphaShare) -> Codes:
        """The verdicts that these amount to, [...], as `decide_by_evidence` gives them, perhaps by a shorter way."""
        ...

    def read(self, state: State, share: AlphaShare) -> Reading:
        """The same in words and numbers, of a state of shape ()."""
        ...


__all__ = [
    "ArmCounts",
    "Evidences",
    "Guard",
    "Interval",
    "QualityEvidence",
    "Reading",
    "State",
    "Traffic",
    "Word",
]
