"""What people ask of a rollout on a cluster: an annotation on the ModelDeployment, a list of commands as JSON.

Who may change a ModelDeployment may steer its rollout; the API server's audit log knows who did.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from serinus.core.errors import Conflict, EngineError, NotFound, SerinusError
from serinus.core.rollout import Candidate, Command
from serinus.core.status import Decided, ModelDeploymentStatus
from serinus.engines.kubernetes import MODEL_DEPLOYMENT, Cluster, Object
from serinus.engines.waiting import wait_until

log = logging.getLogger(__name__)

COMMANDS_ANNOTATION = "serinus.dev/commands"
_LIST = TypeAdapter(tuple[Command, ...])
_ATTEMPTS = 10


@dataclass(frozen=True)
class AnnotationCommands:
    """Commands on one ModelDeployment.

    Attributes:
        cluster: the API server.
        namespace: of the ModelDeployment.
        name: of the ModelDeployment.
        resolve: looks up a version that a command names by its number only.
        read: the ModelDeployment where it has just been read, so that it need not be read again for one look.
    """

    cluster: Cluster
    namespace: str
    name: str
    resolve: Callable[[int], Candidate] | None = None
    read: Object | None = None

    def post(self, command: Command) -> None:
        """Ask for something.

        Raises:
            NotFound: there is no such ModelDeployment.
        """
        self._change(lambda known: (*known, command))

    def pending(self) -> tuple[Command, ...]:
        """What was asked for, oldest first."""
        found = self.read or self.cluster.get(MODEL_DEPLOYMENT, self.namespace, self.name)
        return () if found is None else tuple(map(self._resolved, commands_of(found)))

    def _resolved(self, command: Command) -> Command:
        """The command with its version looked up; one that cannot be is answered with that."""
        candidate = command.candidate
        if candidate is None or candidate.digest or self.resolve is None:
            return command
        try:
            return command.model_copy(update={"candidate": self.resolve(candidate.version)})
        except SerinusError as error:
            log.warning("version %d cannot be looked up: %s", candidate.version, error)
            return command.model_copy(update={"candidate": None})

    def done(self, handled: Sequence[str]) -> None:
        """Forget what was handled."""
        found = self.read or self.cluster.get(MODEL_DEPLOYMENT, self.namespace, self.name)
        if found is not None and any(each.id in handled for each in commands_of(found)):
            self._change(lambda known: tuple(each for each in known if each.id not in handled))

    def _change(self, change: Callable[[tuple[Command, ...]], tuple[Command, ...]]) -> None:
        for attempt in range(_ATTEMPTS):
            found = self.cluster.get(MODEL_DEPLOYMENT, self.namespace, self.name)
            if found is None:
                raise NotFound(f"there is no ModelDeployment {self.namespace}/{self.name}")
            after = change(commands_of(found))
            value = _LIST.dump_json(after).decode() if after else None
            version = found["metadata"]["resourceVersion"]
            patch = {"metadata": {"annotations": {COMMANDS_ANNOTATION: value}, "resourceVersion": version}}
            try:
                self.cluster.merge(MODEL_DEPLOYMENT, self.namespace, self.name, patch)
                return
            except Conflict:
                if attempt == _ATTEMPTS - 1:
                    raise


def commands_of(deployment: Object) -> tuple[Command, ...]:
    """The commands on a ModelDeployment, oldest first; an annotation that holds none is ignored, and logged."""
    text = deployment["metadata"].get("annotations", {}).get(COMMANDS_ANNOTATION)
    if not text:
        return ()
    try:
        return tuple(sorted(_LIST.validate_json(text), key=lambda each: (each.at, each.id)))
    except ValidationError as error:
        where = f"{deployment['metadata']['namespace']}/{deployment['metadata']['name']}"
        log.error("the annotation %s of %s holds no commands: %s", COMMANDS_ANNOTATION, where, error)
        return ()


def answered(commands: AnnotationCommands, command: Command, seconds: float) -> Decided:
    """What came of a command that was posted.

    Raises:
        EngineError: the operator did not get to it in time.
    """

    def handled() -> bool:
        return all(each.id != command.id for each in commands.pending())

    if not wait_until(handled, seconds, every=0.5):
        raise EngineError(
            f"`{command.verb}` was not answered within {seconds:.0f} s",
            hint="it stays posted; does the operator run? `kubectl get pods -n serinus-system`",
        )

    def decided() -> Decided | None:
        found = commands.cluster.get(MODEL_DEPLOYMENT, commands.namespace, commands.name) or {}
        status = ModelDeploymentStatus.model_validate(found.get("status", {}), by_alias=True, by_name=False)
        return next((each for each in status.decisions if each.who == command.who and each.at >= command.at), None)

    wait_until(lambda: decided() is not None, seconds, every=0.5)
    answer = decided()
    if answer is None:
        raise EngineError(f"what came of `{command.verb}` is not in the status", hint="the ledger has it")
    return answer
