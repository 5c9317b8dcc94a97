"""A world in which anything may fail at any line, driven by one seed: for the rollout's control loop.

The controller, the state machine and the ledger's chain are the real ones. What stands around them is made up, since
the faults in question (a process that dies between two lines, a message that comes twice or late, a clock that jumps)
cannot be provoked in the real engines on purpose, nor repeated.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from serinus.control.rollout import Controller, Observed
from serinus.core.errors import EngineError
from serinus.core.evidence import Arm, QualityEvidence, Snapshot
from serinus.core.ledger import Entry, Head, advance
from serinus.core.rollout import Candidate, Command, RolloutState, Shares
from serinus.core.spec.rollout import Confirmation, Guards, Pace, Rollout
from tests.support_rollout import MINUTE, START

OFF = {"enabled": False}
NO_GUARDS = Guards.model_validate(
    dict.fromkeys(("errors", "slow", "latency", "features", "predictions", "sampleRatio"), OFF) | {"quality": OFF}
)
ERRORS_ONLY = NO_GUARDS.model_copy(update={"errors": Guards().errors})
VERSIONS = {number: Candidate(version=number, digest=f"sha256:{number}") for number in (1, 2, 3, 4)}


class Death(BaseException):
    """The process dies here: nothing catches it but the simulation."""


@dataclass
class Chance:
    """The one source of randomness, and how often things fail; 0 once faults have stopped."""

    seed: int
    faults: float

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def hits(self, factor: float = 1.0) -> bool:
        return self.random.random() < self.faults * factor

    def die(self) -> None:
        if self.hits(0.3):
            raise Death


@dataclass
class Disk:
    """A ledger in memory that survives deaths, its head a copy that may lag by what a death cut off."""

    chance: Chance
    entries: list[Entry] = field(default_factory=list)
    copy: Head = field(default_factory=Head)

    def head(self) -> Head:
        for entry in self.entries[self.copy.number :]:
            self.copy = advance(self.copy, entry)
        return self.copy

    def append(self, head: Head, entry: Entry, state: RolloutState) -> Head:
        if self.chance.hits(0.2):
            raise EngineError("no space left on the device")
        self.chance.die()
        self.entries.append(entry)
        self.chance.die()
        self.copy = Head(number=entry.number, digest=entry.digest, policy=entry.policy or head.policy, state=state)
        return self.copy


@dataclass
class Roads:
    """The traffic engine: each step of a change may be the last one before a death, or fail."""

    chance: Chance
    bad: frozenset[int]
    shares: Shares = field(default_factory=lambda: Shares(stable=1))
    up: set[int] = field(default_factory=lambda: {1})
    moved: list[Shares] = field(default_factory=list)

    def observe(self) -> Observed:
        if self.chance.hits(0.2):
            raise EngineError("the traffic engine does not answer")
        return Observed(self.shares, {number: number not in self.bad or not self.chance.hits() for number in self.up})

    def apply(self, shares: Shares) -> None:
        self.chance.die()
        if shares.canary is not None:
            if self.chance.hits(0.5):
                raise EngineError("the canary did not get ready")
            self.up.add(shares.canary)
        self.chance.die()
        self.shares = shares
        self.moved.append(shares)
        self.chance.die()
        self.up = {shares.stable} | ({shares.canary} if shares.canary is not None else set())


@dataclass
class Counters:
    """Evidence: totals that grow with the traffic; looks at them may miss something, come twice, or late."""

    chance: Chance
    roads: Roads
    bad: frozenset[int]
    totals: dict[int, Arm] = field(default_factory=dict)
    sent: list[Snapshot] = field(default_factory=list)

    def minute(self) -> None:
        shares = self.roads.shares
        parts = {shares.stable: 100 - shares.weight} | ({shares.canary: shares.weight} if shares.canary else {})
        for version, percent in parts.items():
            before, requests = self.totals.get(version, Arm()), int(40 * percent)
            errors = requests // 4 if version in self.bad else requests // 400
            counted = {"requests": before.requests + requests, "errors": before.errors + errors}
            self.totals[version] = before.model_copy(update={**counted, "routed": before.routed + requests})
        if self.chance.hits(0.1):
            self.totals[self.chance.random.choice(list(self.totals))] = Arm()

    def snapshot(self, versions: Sequence[int], previous: Snapshot | None, now: datetime) -> Snapshot:
        missing = ("a version was not scraped",) if self.chance.hits() else ()
        if self.sent and self.chance.hits():
            return self.chance.random.choice(self.sent[-5:])
        taken = Snapshot(at=now, source="scrape", live=dict(self.totals), missing=missing)
        self.sent.append(taken)
        return taken


@dataclass
class Wishes:
    """Commands of people: they stay until they are handled, and may be delivered again afterwards."""

    chance: Chance
    posted: list[Command] = field(default_factory=list)
    old: list[Command] = field(default_factory=list)

    def pending(self) -> tuple[Command, ...]:
        again = [self.chance.random.choice(self.old)] if self.old and self.chance.hits() else []
        return (*again, *self.posted)

    def done(self, handled: Sequence[str]) -> None:
        self.chance.die()
        self.old += [each for each in self.posted if each.id in handled]
        self.posted = [each for each in self.posted if each.id not in handled]


@dataclass
class Shelf:
    """The registry: which version is asked for, and who is the champion."""

    chance: Chance
    wanted: int = 2
    champion: int = 1

    def target(self) -> Candidate | None:
        return None if self.chance.hits(0.3) else VERSIONS[self.wanted]

    def settle(self, state: RolloutState) -> None:
        self.chance.die()
        if state.last is not None and state.last.result == "promoted" and state.last.version == state.stable:
            self.champion = state.stable


class Universe:
    """All of it, minute by minute."""

    def __init__(self, seed: int) -> None:
        self.chance = Chance(seed, faults=0.15)
        draw = self.chance.random
        judged = draw.random() < 0.3
        self.bad = frozenset(number for number in (2, 3, 4) if judged and draw.random() < 0.4)
        self.policy = Rollout(
            steps=[10, 50],
            pace=Pace(minimum_duration=2 * MINUTE, minimum_requests=100, maximum_duration=timedelta(hours=12)),
            guards=ERRORS_ONLY if judged else NO_GUARDS,
            confirmation=None,
        )
        if not judged and draw.random() < 0.3:
            quality = Guards().quality.model_copy(update={"estimated": False})
            confirmation = Confirmation(maximum_duration=5 * MINUTE)
            guards = NO_GUARDS.model_copy(update={"quality": quality})
            self.policy = self.policy.model_copy(update={"confirmation": confirmation, "guards": guards})
        self.disk, self.roads, self.shelf = Disk(self.chance), Roads(self.chance, self.bad), Shelf(self.chance)
        self.counters, self.wishes = Counters(self.chance, self.roads, self.bad), Wishes(self.chance)
        self.now, self.deaths, self.asked = START, 0, 0
        self.controller = self._born()

    def _born(self) -> Controller:
        nothing: Callable[[RolloutState, datetime], QualityEvidence | None] = lambda state, now: None  # noqa: E731
        return Controller(
            model="tiny",
            policy=lambda: self.policy,
            versions=self.shelf,
            traffic=self.roads,
            evidence=self.counters,
            quality=nothing,
            commands=self.wishes,
            ledger=self.disk,
        )

    def minute(self) -> None:
        """A minute passes, with whatever goes wrong in it."""
        draw = self.chance.random
        self.now += MINUTE
        if self.chance.hits(0.1):
            self.now += draw.choice((-1, 1)) * timedelta(hours=draw.randint(1, 48))
        self.counters.minute()
        if self.chance.hits(0.2):
            self.shelf.wanted = draw.choice((2, 3, 4))
        if self.chance.hits(0.3):
            self._ask()
        try:
            self.controller.look(self.now)
        except EngineError:
            pass
        except Death:
            self.deaths += 1
            self.controller = self._born()

    def _ask(self) -> None:
        self.asked += 1
        verb = self.chance.random.choice(("pause", "resume", "rollback", "start", "promote"))
        candidate = VERSIONS[self.chance.random.choice((2, 3, 4))] if verb == "start" else None
        self.wishes.posted.append(
            Command.model_validate(
                {"id": str(self.asked), "verb": verb, "who": "ada", "why": "so", "at": self.now, "candidate": candidate}
            )
        )

    def calm(self) -> None:
        """Faults stop, and whatever is paused is resumed."""
        self.chance.faults = 0.0
        self.wishes.posted.append(Command(id="end", verb="resume", who="ada", why="all is well again", at=self.now))
