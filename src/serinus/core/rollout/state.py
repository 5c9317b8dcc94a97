"""What a rollout is made of: what it knows, what it is told, and what it decides. Values only."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from serinus.core.evidence import QualityEvidence, Snapshot
from serinus.core.guards.reading import Reading

Phase = Literal["stable", "starting", "shadow", "step", "provisional"]
Verb = Literal["start", "approve", "pause", "resume", "promote", "rollback"]
Action = Literal[
    "adopt", "hold", "start", "advance", "promote", "confirm", "undo", "rollback", "supersede",
    "pause", "resume", "approve",
]  # fmt: skip
SERINUS = "serinus"
"""Who acts where no person does."""
_REMEMBERED = 100


class Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Candidate(Value):
    """A version that may be rolled out. `expected` counts the predictions of its held-out period, by bin."""

    version: int
    digest: str
    expected: tuple[float, ...] = ()


class Command(Value):
    """What a person asks for, once: `id` tells a repetition from a second wish. `version` is that of `start`, as a
    `candidate` where it has been looked up; `weight` the step that `approve` approves."""

    id: str
    verb: Verb
    who: str
    why: str
    at: datetime
    weight: float | None = None
    candidate: Candidate | None = None


class Pause(Value):
    """Who stopped a rollout where it is, and why."""

    who: str
    why: str
    since: datetime


class Ended(Value):
    """How a version's rollout ended. Versions that were taken back are not tried again unless somebody asks."""

    version: int
    result: Literal["promoted", "rolled back", "undone", "superseded", "withdrawn"]
    why: str
    at: datetime


class Shares(Value):
    """What each version is to get: `weight` percent of the requests to answer, or a copy of `shadow` percent. A canary
    with neither is up and waits; a stable version whose canary has 100 percent stays warm."""

    stable: int
    canary: int | None = None
    weight: float = 0
    shadow: float = 0


class RolloutState(Value):
    """All that is remembered from one decision to the next.

    `stable` is the version that is trusted; a provisional canary answers everything, but is not yet. `weight` is what
    the canary was given when the present step began. `watched` is how long the present stage has been watched: time in
    which nobody looked, or by which a clock jumped, does not count. `tests` are the guards' states in this stage, for
    the buckets `edges`, under the policy with the digest `policy`. `baseline` are the totals that the next ones are
    compared with; `requests` the canary's in this stage.
    """

    stable: int
    phase: Phase = "stable"
    canary: Candidate | None = None
    requested: Candidate | None = None
    step: int = 0
    weight: float | None = None
    started: datetime | None = None
    at: datetime | None = None
    watched: timedelta = timedelta(0)
    unready: timedelta = timedelta(0)
    paused: Pause | None = None
    approved: tuple[float, ...] = ()
    policy: str = ""
    edges: tuple[float, ...] = ()
    tests: Any = None
    baseline: Snapshot | None = None
    requests: float = 0
    readings: tuple[Reading, ...] = ()
    ended: tuple[Ended, ...] = ()
    handled: tuple[str, ...] = ()

    @property
    def last(self) -> Ended | None:
        """How the newest rollout that has ended did."""
        return self.ended[-1] if self.ended else None

    def refusal(self, version: int) -> Ended | None:
        """Why a version is not tried again, if it is not: what its newest rollout ended with."""
        newest = next((each for each in reversed(self.ended) if each.version == version), None)
        return newest if newest is not None and newest.result in ("rolled back", "undone") else None

    def remembering(self, ended: Ended | None = None, handled: str | None = None) -> RolloutState:
        """The state with an end or a handled command more; old ones are forgotten after a hundred."""
        ends = (*self.ended, ended) if ended is not None else self.ended
        ids = (*self.handled, handled) if handled is not None else self.handled
        return self.model_copy(update={"ended": ends[-_REMEMBERED:], "handled": ids[-_REMEMBERED:]})


class Situation(Value):
    """What is the case at one look.

    `target` is the version that the spec asks for (None: it could not be looked up). `applied` says whether the shares
    that were last decided are in force, `trouble` why they could not be put in force, `broken` why the canary never
    can be served: its archive is not the one that was registered. `ready` says which versions answer, `unready` why
    one does not, where that is known. `traffic` and `quality` are the evidence; None where there is none.
    """

    target: Candidate | None = None
    applied: bool = True
    trouble: str | None = None
    broken: str | None = None
    ready: dict[int, bool] = {}
    unready: dict[int, str] = {}
    traffic: Snapshot | None = None
    quality: QualityEvidence | None = None
    commands: tuple[Command, ...] = ()


class Decision(Value):
    """What is decided at one look, why, on which readings; `shares` are to be in force from now, `state` remembered."""

    at: datetime
    action: Action
    who: str = SERINUS
    reasons: tuple[str, ...]
    readings: tuple[Reading, ...] = ()
    shares: Shares
    state: RolloutState
