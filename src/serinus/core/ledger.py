"""Every decision with what it was made on, in a chain: each entry holds the digest of the one before.

Nothing can be changed, taken out or put in between without breaking the chain, and since decisions are a function of
what stands in the ledger, they can be made again from it and must come out the same.

They are made again with floating-point numbers whose last digits depend on the processor, as logarithms do. So numbers
of readings need only agree in their first digits; what follows from them must be the same.

An entry's digest is of the very bytes of its line, not of what is understood of them: any byte that changes is found,
and a line that an older Serinus wrote stays good when entries get another field.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from math import isclose
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from serinus.core.errors import IntegrityError
from serinus.core.guards.reading import Reading
from serinus.core.rollout import Action, Decision, RolloutState, Shares, Situation, decide
from serinus.core.spec.rollout import Rollout

FIRST = "sha256:" + "0" * 64
"""What the first entry holds in place of a digest."""
_DIGEST = b',"digest":"'
_NUMBER = re.compile(r"[0-9][0-9,]*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?")
# Bounds are searched to about nine digits, and words hold three.
_SAME = 1e-6
_SAME_WORDS = 0.011


class Entry(BaseModel):
    """One decision. `policy` is there where it is another one than before, `adopted` where the state was not decided
    but found: at the beginning, or after somebody changed the traffic by hand. `after` is the digest of the state that
    the decision leaves. `digest` stays the last field: it is of the bytes before it."""

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
        """The digest of its line, but for the digest."""
        return _sha256(self.model_dump_json(by_alias=True, exclude={"digest"}).encode())


class Broken(BaseModel):
    """The first entry that is not what it should be."""

    model_config = ConfigDict(frozen=True)

    number: int
    why: str


class Checked(NamedTuple):
    """How many entries are good, the last one's digest, and the first one that is not."""

    entries: int
    digest: str
    broken: Broken | None = None


Progress = Callable[[int], None]
"""Told how many entries are done."""


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
    return _sha256(text.encode())


def state_digest(state: RolloutState) -> str:
    """The digest of a state, without what other processors compute otherwise in the last digits."""
    return digest_of(state.model_dump(mode="json", exclude={"tests", "readings"}))


def entry_of(head: Head, model: str, policy: Rollout, situation: Situation, decision: Decision) -> Entry:
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


def line_of(entry: Entry) -> bytes:
    """The entry as a line of JSON, without its newline. The digest stands last; it is of the line without it."""
    return entry.model_dump_json(by_alias=True).encode()


def entry_from(line: bytes) -> Entry:
    """The entry that a line holds.

    Raises:
        IntegrityError: the line was changed, or holds none.
    """
    content, mark, digest = line.rpartition(_DIGEST)
    if not mark or digest != f'{_sha256(content + b"}")}"}}'.encode():
        raise IntegrityError("it was changed: its digest is of other content")
    try:
        return Entry.model_validate_json(line)
    except ValidationError as error:
        raise IntegrityError("it holds no decision that this version of Serinus can read") from error


def chain(lines: Iterable[bytes], head: Head | None = None) -> Iterator[Entry | Broken]:
    """Each line's entry that follows the one before unbroken; the first one that does not, as `Broken`, is the last."""
    number, digest = (head.number, head.digest) if head is not None else (0, FIRST)
    for line in lines:
        number += 1
        try:
            entry = entry_from(line)
        except IntegrityError as error:
            yield Broken(number=number, why=error.message)
            return
        if entry.number != number:
            yield Broken(number=number, why=f"found number {entry.number} after {number - 1}")
            return
        if entry.previous != digest:
            yield Broken(number=number, why="it does not follow the entry before it: one of them was changed")
            return
        yield entry
        digest = entry.digest


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


def verify(lines: Iterable[bytes], head: Head | None, progress: Progress | None = None) -> Checked:
    """Whether the entries are as they were written, none is missing, and the head that was kept names one of them."""
    checked, named = Checked(0, FIRST), FIRST
    for each in chain(lines):
        if isinstance(each, Broken):
            return checked._replace(broken=each)
        checked = Checked(each.number, each.digest)
        named = each.digest if head is not None and each.number == head.number else named
        if progress is not None:
            progress(each.number)
    if head is None or named == head.digest:
        return checked
    if head.number > checked.entries:
        return checked._replace(broken=Broken(number=checked.entries + 1, why=missing(head)))
    return Checked(head.number - 1, FIRST, Broken(number=head.number, why=other(head)))


def replay(lines: Iterable[bytes], progress: Progress | None = None) -> Checked:
    """Make every decision again, and say which is the first that does not come out as it was written."""
    checked, known = Checked(0, FIRST), Head()
    for each in chain(lines):
        if isinstance(each, Broken):
            return checked._replace(broken=each)
        try:
            known = advance(known, each)
        except IntegrityError as error:
            return checked._replace(broken=Broken(number=each.number, why=error.message))
        checked = Checked(each.number, each.digest)
        if progress is not None:
            progress(each.number)
    return checked


def missing(head: Head) -> str:
    """Why a ledger is broken that ends before its head."""
    return f"it is missing: {head.number} entries were written, as the head says"


def other(head: Head) -> str:
    """Why a ledger is broken whose entry is not the head's."""
    return f"it is not the one that was written: the head says {head.digest}"


def _difference(entry: Entry, decision: Decision) -> str | None:
    """In words, what a decision made again has otherwise than the entry; None if nothing."""
    for name in ("action", "who", "shares", "reasons", "readings"):
        written, made = getattr(entry, name), getattr(decision, name)
        if written != made and not _alike(written, made):
            return f"{name}: found {written!r:.300}, made again {made!r:.300}"
    if state_digest(decision.state) != entry.after:
        return "the state that it leaves"
    return None


def _alike(written: object, made: object) -> bool:
    """Whether two values differ in the last digits of numbers at most, be they in words."""
    if isinstance(written, float) and isinstance(made, float):
        return isclose(written, made, rel_tol=_SAME, abs_tol=_SAME)
    if isinstance(written, str) and isinstance(made, str):
        numbers = zip(_NUMBER.findall(written), _NUMBER.findall(made), strict=False)
        near = all(isclose(_number(one), _number(other), rel_tol=_SAME_WORDS) for one, other in numbers)
        return near and _NUMBER.sub("0", written) == _NUMBER.sub("0", made)
    if isinstance(written, tuple) and isinstance(made, tuple) and len(written) == len(made):
        return all(_alike(one, other) for one, other in zip(written, made, strict=True))
    if isinstance(written, Reading) and isinstance(made, Reading):
        return all(_alike(getattr(written, name), getattr(made, name)) for name in Reading.model_fields)
    return written == made


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
