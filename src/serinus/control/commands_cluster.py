"""What people ask of a rollout on a cluster: an annotation on the ModelDeployment, a list of commands as JSON.

Who may change a ModelDeployment may steer its rollout; the API server's audit log knows who did.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from serinus.core.errors import Conflict, NotFound
from serinus.core.rollout import Command
from serinus.engines.kubernetes import MODEL_DEPLOYMENT, Cluster, Object

log = logging.getLogger(__name__)

COMMANDS_ANNOTATION = "serinus.dev/commands"
_LIST = TypeAdapter(tuple[Command, ...])
_ATTEMPTS = 10


@dataclass(frozen=True)
class AnnotationCommands:
    """Commands on one ModelDeployment."""

    cluster: Cluster
    namespace: str
    name: str

    def post(self, command: Command) -> None:
        """Ask for something.

        Raises:
            NotFound: there is no such ModelDeployment.
        """
        self._change(lambda known: (*known, command))

    def pending(self) -> tuple[Command, ...]:
        """What was asked for, oldest first."""
        found = self.cluster.get(MODEL_DEPLOYMENT, self.namespace, self.name)
        return () if found is None else commands_of(found)

    def done(self, handled: Sequence[str]) -> None:
        """Forget what was handled."""
        if any(each.id in handled for each in self.pending()):
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
