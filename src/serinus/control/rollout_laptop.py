"""The laptop's parts of a rollout: Envoy's weights, commands as files, one process at a time."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from serinus.control import instance as instances
from serinus.control.deploy import Share, deploy, running
from serinus.control.instance import Serving
from serinus.control.rollout import Controller, Observed
from serinus.control.stack import Options
from serinus.control.state import RunFolder, StackState
from serinus.core.errors import Conflict, EngineError, InvalidInput
from serinus.core.ledger import Entry
from serinus.core.platform import Platform
from serinus.core.rollout import Command, Shares
from serinus.engines.files import write_text
from serinus.engines.ledger import Ledger
from serinus.engines.mlflow import Registry
from serinus.engines.waiting import wait_until

log = logging.getLogger(__name__)


class RolloutFolder:
    """Where a deployment's rollouts are written: the ledger, the lease, and what people ask for."""

    def __init__(self, platform: Platform) -> None:
        self.path = platform.state / "rollout"

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.path)

    @property
    def commands(self) -> CommandFolder:
        return CommandFolder(self.path / "commands")

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Hold the right to decide; it ends with the process, however that dies.

        Raises:
            Conflict: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lease").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict("another process decides about this deployment's rollouts") from error
            yield


class CommandFolder:
    """One file a command, written whole; it goes once the ledger says that the command was handled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def post(self, command: Command) -> None:
        """Ask for something."""
        write_text(self._path / f"{command.id}.json", command.model_dump_json())

    def pending(self) -> tuple[Command, ...]:
        """What was asked for, oldest first. A file that holds no command is set aside."""
        found = []
        for path in self._path.glob("*.json"):
            try:
                found.append(Command.model_validate_json(path.read_bytes()))
            except (ValidationError, OSError) as error:
                log.error("%s holds no command and is set aside: %s", path, error)
                path.rename(path.with_suffix(".bad"))
        return tuple(sorted(found, key=lambda each: (each.at, each.id)))

    def done(self, handled: Sequence[str]) -> None:
        """Forget what was handled."""
        known = set(handled)
        for path in self._path.glob("*.json"):
            if path.stem in known:
                path.unlink(missing_ok=True)


class EnvoyTraffic:
    """Shares of the stack that is up here."""

    def __init__(self, serving: Serving, registry: Registry, options: Options) -> None:
        self._serving = serving
        self._registry = registry
        self._options = options
        self._folder = RunFolder(serving.platform)

    def observe(self) -> Observed:
        """Raises NotFound: no stack is up."""
        state = running(self._folder)
        workers = state.deployment.predictor.workers
        ready = {number: instances.ready(each, workers) for number, each in state.instances.items()}
        return Observed(_shares(state), ready)

    def apply(self, shares: Shares) -> None:
        """See `TrafficEngine.apply`."""
        if running(self._folder).stable != shares.stable or shares.canary is None:
            self._deploy(shares.stable, None)
        if shares.canary is not None:
            self._deploy(shares.canary, Share(shares.weight, shares.shadow))

    def _deploy(self, number: int, share: Share | None) -> None:
        version = self._registry.get(self._serving.deployment.model.name, number)
        deploy(self._serving, version, self._registry.fetch, self._options, share)


def _shares(state: StackState) -> Shares:
    canary = state.canary
    if canary is None:
        return Shares(stable=state.stable)
    return Shares(stable=state.stable, canary=canary.version, weight=canary.weight, shadow=canary.shadow)


def require_by_hand(serving: Serving, share: Share | None) -> None:
    """Whether a version may be put in front by hand here: not while a rollout decides who gets how much.

    Raises:
        InvalidInput: a share is asked for, and the spec has a rollout.
        Conflict: a rollout is under way.
    """
    if serving.deployment.rollout is None:
        return
    if share is not None:
        raise InvalidInput(
            "shares are decided by the spec's rollout", hint="`serinus rollout start VERSION` begins one"
        )
    state = RolloutFolder(serving.platform).ledger.seen().state
    if state is not None and state.canary is not None:
        raise Conflict(
            f"a rollout of version {state.canary.version} is under way",
            hint="`serinus rollout promote` or `serinus rollout rollback` ends it",
        )


def answered(folder: RolloutFolder, command: Command, make: Callable[[], Controller], seconds: float) -> Entry:
    """The ledger's entry on a command that was posted. If no process decides here, one look is taken now.

    Raises:
        EngineError: whoever decides here did not get to it in time.
        NotFound: nothing is served.
    """
    with suppress(Conflict), folder.lease():
        make().look(datetime.now(UTC))

    def handled() -> bool:
        state = folder.ledger.seen().state
        return state is not None and command.id in state.handled

    if wait_until(handled, seconds, every=0.2):
        for entry in folder.ledger.newest_first():
            if command in entry.situation.commands:
                return entry
    raise EngineError(
        f"`{command.verb}` was not answered within {seconds:.0f} s", hint="it stays posted; `serinus status` tells more"
    )
