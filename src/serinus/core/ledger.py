"""Every decision with what it was made on, in a chain: each entry holds the digest of the one before.

Nothing can be changed, taken out or put in between without breaking the chain, and since decisions are a function of
what stands in the ledger, they can be made again from it and must come out the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from serinus.core.errors import IntegrityError
from serinus.core.guards.reading import Reading
from serinus.core.rollout import Action, Decision, RolloutState, Shares, Situation, decide
from serinus.core.spec.rollout import Rollout

FIRST = "sha256:" + "0" * 64
"""What the first entry holds in place of a digest."""


class Entry(BaseModel):
    """One decision. `policy` is there where it is another one than before, `adopted` where the state was not decided
    but found: at the beginning, or after somebody changed the traffic by hand. `after` is the digest of the state that
    the decision leaves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    previous: str
    at: datetime
    model: str
    policy: Rollout | None = None
    adopted: RolloutState | None = None
    situation: Situation
    action: Action
    who: str
    reasons: tuple[str, ...]
    readings: tuple[Reading, ...]
    shares: Shares
    after: str
    digest: str = ""

    def own_digest(self) -> str:
        """The digest of all but itself."""
        return digest_of(self.model_dump(mode="json", by_alias=True, exclude={"digest"}))


class Broken(BaseModel):
    """The first entry that is not what it should be."""

    model_config = ConfigDict(frozen=True)

    number: int
    why: str


class Head(BaseModel):
    """Where a ledger stands: what the next entry follows, and the state and policy it starts from."""

    model_config = ConfigDict(frozen=True)

    number: int = 0
    digest: str = FIRST
    policy: Rollout | None = None
    state: RolloutState | None = None


def digest_of(value: Any) -> str:
    """SHA-256 of plain data in its one canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def state_digest(state: RolloutState) -> str:
    """The digest of a state."""
    return digest_of(state.model_dump(mode="json"))


def entry_of(
    head: Head, model: str, policy: Rollout, situation: Situation, decision: Decision
) -> Entry:
    """The entry for a decision that was made from the head's state."""
    entry = Entry(
        number=head.number + 1,
        previous=head.digest,
        at=decision.at,
        model=model,
        policy=None if policy == head.policy else policy,
        adopted=decision.state if decision.action == "adopt" else None,
        situation=situation,
        action=decision.action,
        who=decision.who,
        reasons=decision.reasons,
        readings=decision.readings,
        shares=decision.shares,
        after=state_digest(decision.state),
    )
    return entry.model_copy(update={"digest": entry.own_digest()})


def chain(entries: Iterable[Entry], head: Head | None = None) -> Iterator[Entry | Broken]:
    """Each entry that follows the one before unbroken; the first one that does not, as `Broken`, is the last."""
    number, digest = (head.number, head.digest) if head is not None else (0, FIRST)
    for entry in entries:
        why = None
        if entry.number != number + 1:
            why = f"found number {entry.number} after {number}"
        elif entry.previous != digest:
            why = "it does not follow the entry before it: one of them was changed"
        elif entry.digest != entry.own_digest():
            why = "it was changed: its digest is of other content"
        if why is not None:
            yield Broken(number=number + 1, why=why)
            return
        yield entry
        number, digest = entry.number, entry.digest


def advance(head: Head, entry: Entry) -> Head:
    """The head after an entry, its state made anew from what the entry holds.

    Raises:
        IntegrityError: the decision cannot be made, or comes out other than it was written.
    """
    policy = entry.policy or head.policy
    if policy is None or (entry.adopted is None and head.state is None):
        raise IntegrityError(f"entry {entry.number} of the ledger has no policy or state to start from")
    if entry.adopted is not None:
        state = entry.adopted
    else:
        assert head.state is not None
        decision = decide(policy, head.state, entry.situation, entry.at)
        different = _difference(entry, decision)
        if different:
            raise IntegrityError(f"entry {entry.number} of the ledger comes out otherwise: {different}")
        state = decision.state
    return Head(number=entry.number, digest=entry.digest, policy=policy, state=state)


def _difference(entry: Entry, decision: Decision) -> str | None:
    """In words, what a decision made again has otherwise than the entry; None if nothing."""
    for name in ("action", "who", "shares", "reasons", "readings"):
        written, made = getattr(entry, name), getattr(decision, name)
        if written != made:
            return f"{name}: found {written!r:.300}, made again {made!r:.300}"
    if state_digest(decision.state) != entry.after:
        return "the state that it leaves"
    return None
