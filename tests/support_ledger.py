"""Ledgers of rollouts that never were: the real controller, driven through synthetic traffic minute by minute."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from serinus.control.rollout import Controller, Observed
from serinus.core.evidence import QualityEvidence, Snapshot
from serinus.core.ledger import line_of
from serinus.core.rollout import Candidate, Command, Decision, RolloutState, Shares, Verb
from serinus.core.spec.rollout import Rollout
from serinus.engines.ledger import Ledger
from tests.support_rollout import MINUTE, Behaviour, World

BAD = Behaviour(errors=0.03)


@dataclass
class Recorded:
    """A world whose decisions are made by a controller and written to a ledger."""

    world: World
    ledger: Ledger
    asked: list[Command] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.controller = Controller(
            model="flights",
            policy=lambda: self.world.rollout,
            versions=self,
            traffic=self,
            evidence=self,
            quality=self._quality,
            commands=self,
            ledger=self.ledger,
        )

    def minute(self) -> Decision:
        """A minute of traffic, and a look."""
        self.world.now += MINUTE
        self.world._traffic()
        decision = self.controller.look(self.world.now)
        self.world.state = decision.state
        self.world.decisions.append(decision)
        return decision

    def minutes(self, number: int) -> Recorded:
        """Many of them."""
        for _ in range(number):
            self.minute()
        return self

    def until(self, action: str, most: int = 500) -> Decision:
        """Minutes until something is decided."""
        for _ in range(most):
            decision = self.minute()
            if decision.action == action:
                return decision
        raise AssertionError(f"no {action} in {most} minutes: {self.world.decisions[-1].reasons}")

    def ask(self, verb: Verb, why: str, who: str = "ana", **details: object) -> Decision:
        """What a person asks for, and the look that answers it."""
        known = UUID(int=len(self.world.decisions)).hex
        command = {"id": known, "verb": verb, "who": who, "why": why, "at": self.world.now, **details}
        self.asked.append(Command.model_validate(command))
        return self.minute()

    # What a controller asks of the traffic engine, the registry, the evidence and the commands.

    def observe(self) -> Observed:
        versions = {self.world.state.stable: True, self.world.target.version: self.world.ready}
        return Observed(self.world.shares, versions)

    def apply(self, shares: Shares) -> None:
        self.world.shares = shares

    def target(self) -> Candidate:
        return self.world.target

    def settle(self, state: RolloutState) -> None:
        pass

    def snapshot(self, versions: Sequence[int], previous: Snapshot | None, now: datetime) -> Snapshot:
        return Snapshot(
            at=now,
            source="scrape",
            live=dict(self.world.live),
            shadow=dict(self.world.shadow),
            missing=self.world.missing,
        )

    def pending(self) -> tuple[Command, ...]:
        return tuple(self.asked)

    def done(self, handled: Sequence[str]) -> None:
        self.asked = [each for each in self.asked if each.id not in handled]

    def _quality(self, state: RolloutState, now: datetime) -> QualityEvidence | None:
        return self.world.quality


def recorded(folder: Path, rollout: Rollout | None = None, **world: object) -> Recorded:
    """A world at its beginning, with an empty ledger in the folder."""
    return Recorded(World(rollout or Rollout(), **world), Ledger(folder))  # type: ignore[arg-type]


def lengthen(ledger: Ledger, entries: int) -> None:
    """Repeat the last decision, in an unbroken chain, until there are so many; replaying them is no use."""
    head = ledger.head()
    last, entry = ledger.entry(head.number), ledger.entry(head.number)
    with ledger.path.open("ab") as file:
        for number in range(last.number + 1, entries + 1):
            at = last.at + (number - last.number) * MINUTE
            entry = last.model_copy(update={"number": number, "previous": entry.digest, "at": at})
            entry = entry.model_copy(update={"digest": entry.own_digest()})
            file.write(line_of(entry) + b"\n")
    after = head.model_copy(update={"number": entry.number, "digest": entry.digest})
    ledger.path.with_name("head.json").write_text(after.model_dump_json(by_alias=True))


def main(folder: Path, entries: int = 0, minutes: int = 160) -> None:
    """Write a project's ledger of a healthy rollout that has been going on until now, for `serinus rollout status`."""
    start = datetime.now(UTC).replace(microsecond=0) - minutes * MINUTE
    one = recorded(
        folder / ".serinus" / "rollout", rate=400, now=start, target=Candidate(version=2, digest="sha256:two")
    )
    one.minutes(minutes)
    lengthen(one.ledger, entries)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(each) for each in sys.argv[2:]))
