"""One look at a rollout after another: gather what is the case, decide, write it down, put it in force.

In that order. What was decided stands in the ledger before any traffic moves, so that a process that dies at any line
is followed by one that goes on from there: the ledger says what is to be, the traffic engine what is. The laptop and
the cluster differ in the parts that are handed in, not here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple, Protocol

from serinus.core.errors import IntegrityError, SerinusError
from serinus.core.evidence import QualityEvidence, Snapshot
from serinus.core.ledger import Entry, Head, entry_of
from serinus.core.rollout import Candidate, Command, Decision, RolloutState, Shares, Situation, decide, shares
from serinus.core.spec.rollout import Rollout

log = logging.getLogger(__name__)

# How soon a command is seen.
_EVERY_SECONDS = 0.5


class Observed(NamedTuple):
    """What is in force: the shares, which versions answer, `why` one does not where that is known, and why the canary
    never can, where its archive is not the one that was registered."""

    shares: Shares
    ready: dict[int, bool]
    why: Mapping[int, str] = MappingProxyType({})
    broken: str | None = None


class TrafficEngine(Protocol):
    """Puts shares in force: Envoy on a laptop, a weighted HTTPRoute on a cluster."""

    def observe(self) -> Observed:
        """What is in force now.

        Raises:
            NotFound: nothing is served.
            EngineError: it cannot be told.
        """
        ...

    def apply(self, shares: Shares) -> None:
        """Put shares in force; again changes nothing. A version gets requests only once it is ready, and one that
        gets none any more has answered all that it took before it ends.

        Raises:
            IntegrityError: the canary's archive is not the one that was registered.
            EngineError: it could not be done; what was in force before is, or the next call finishes it.
        """
        ...


class Versions(Protocol):
    """The registry's part."""

    def target(self) -> Candidate | None:
        """The version that the spec asks for; None where it cannot be told now."""
        ...

    def settle(self, state: RolloutState) -> None:
        """Make the registry agree with what was decided: whoever was promoted is the champion."""
        ...


class Evidence(Protocol):
    """Where totals of the traffic come from."""

    def snapshot(self, versions: Sequence[int], previous: Snapshot | None, now: datetime) -> Snapshot:
        """Totals of the versions now; what could not be had is named in it."""
        ...


QualitySource = Callable[[RolloutState, datetime], QualityEvidence | None]
"""How well both versions predict, as known at a time; None where nothing can be said."""


class Commands(Protocol):
    """What people asked for and has not been done yet."""

    def pending(self) -> tuple[Command, ...]: ...

    def done(self, handled: Sequence[str]) -> None: ...


class LedgerStore(Protocol):
    """Where decisions are written down."""

    def head(self) -> Head: ...

    def append(self, head: Head, entry: Entry, state: RolloutState) -> Head: ...


@dataclass
class Controller:
    """Looks after one deployment. Whoever runs it must hold the deployment's lease."""

    model: str
    policy: Callable[[], Rollout]
    versions: Versions
    traffic: TrafficEngine
    evidence: Evidence
    quality: QualitySource
    commands: Commands
    ledger: LedgerStore
    _trouble: str | None = field(default=None, init=False)
    _broken: str | None = field(default=None, init=False)

    def look(self, now: datetime) -> Decision:
        """One look at the time `now`.

        Raises:
            NotFound: nothing is served.
            IntegrityError: the ledger is broken.
            EngineError: an engine failed; the next look goes on from what the ledger says.
        """
        head, observed = self.ledger.head(), self.traffic.observe()
        policy = self.policy()
        if head.state is None or _by_hand(head.state, observed.shares):
            head = self._adopt(head, policy, observed, now)
        state = head.state
        assert state is not None
        situation = self._gather(policy, state, observed, now)
        decision = decide(policy, state, situation, now)
        if decision.action != "hold" or state.canary is not None or decision.state.handled != state.handled:
            self.ledger.append(head, entry_of(head, self.model, policy, situation, decision), decision.state)
        self.commands.done(decision.state.handled)
        self._put_in_force(decision, observed)
        return decision

    def _adopt(self, head: Head, policy: Rollout, observed: Observed, now: datetime) -> Head:
        """Begin with what is served: nothing was decided yet, or somebody has put another version in front by hand."""
        was = head.state or RolloutState(stable=observed.shares.stable)
        state = was.model_copy(update={"stable": observed.shares.stable})
        reason = f"version {state.stable} is found in front"
        decision = Decision(at=now, action="adopt", reasons=(reason,), shares=Shares(stable=state.stable), state=state)
        log.info("%s: %s", self.model, reason)
        return self.ledger.append(head, entry_of(head, self.model, policy, Situation(), decision), state)

    def _gather(self, policy: Rollout, state: RolloutState, observed: Observed, now: datetime) -> Situation:
        wanted = shares(policy, state)
        compared = state.phase in ("shadow", "step")
        traffic = quality = None
        if compared and state.canary is not None:
            traffic = self.evidence.snapshot((state.stable, state.canary.version), state.baseline, now)
        if compared or state.phase == "provisional":
            quality = self.quality(state, now)
        return Situation(
            target=self.versions.target(),
            applied=observed.shares == wanted,
            trouble=self._trouble,
            broken=self._broken or observed.broken,
            ready=observed.ready,
            unready={number: why for number, why in observed.why.items() if not observed.ready.get(number, False)},
            traffic=traffic,
            quality=quality,
            commands=self.commands.pending(),
        )

    def _put_in_force(self, decision: Decision, observed: Observed) -> None:
        words = "; ".join(decision.reasons)
        log.log(
            logging.DEBUG if decision.action == "hold" else logging.INFO,
            "%s: %s: %s",
            self.model,
            decision.action,
            words,
        )
        self._trouble = self._broken = None
        self.versions.settle(decision.state)
        if observed.shares == decision.shares:
            return
        try:
            self.traffic.apply(decision.shares)
        except IntegrityError as error:
            self._broken = str(error)
        except SerinusError as error:
            self._trouble = str(error)
        if self._broken or self._trouble:
            log.error("%s: shares could not be put in force: %s", self.model, self._broken or self._trouble)


def _by_hand(state: RolloutState, found: Shares) -> bool:
    """Whether somebody has put another version in front: no rollout is on, yet another version is alone in front."""
    return state.canary is None and found.canary is None and found.stable != state.stable


def run(controller: Controller, clock: Callable[[], datetime], stop: threading.Event) -> None:
    """Look once in each of the policy's intervals, and at once when somebody asks for something, until told to stop.

    A look that fails is logged, and made up for by the next one.
    """
    last: datetime | None = None
    while not stop.is_set():
        now = clock()
        try:
            due = last is None or not timedelta(0) <= now - last < controller.policy().interval
            if due or controller.commands.pending():
                last = now
                if controller.look(now).action != "hold":
                    last = None  # what is in force now is counted from now on, not from the next interval
        except SerinusError as error:
            log.error("%s", error)
        stop.wait(_EVERY_SECONDS)
