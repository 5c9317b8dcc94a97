"""What the steps of a Kubeflow Pipelines run print, read from their pods as long as those are there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from serinus.core.errors import EngineError, NotFound
from serinus.engines.kubernetes import POD, Cluster, Object

_RUN_LABEL = "pipeline/runid"
_NODE_ANNOTATION = "workflows.argoproj.io/node-name"
_CONTAINER = "main"


class Line(NamedTuple):
    """One line that a step printed."""

    step: str
    text: str


class StepLogs:
    """New lines of a run's steps, look by look.

    Args:
        cluster: where the pods are.
        namespace: of the pods.
        run: the run's id.
    """

    def __init__(self, cluster: Cluster, namespace: str, run: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._run = run
        self._seen: dict[str, int] = {}

    def new(self) -> Iterator[Line]:
        """What was printed since the last look. A pod that has gone meanwhile, or has not begun, prints nothing.

        Raises:
            EngineError: the pods cannot be asked for.
        """
        for pod in self._cluster.all(POD, self._namespace, {_RUN_LABEL: self._run}):
            step = _step(pod)
            if step is None or pod.get("status", {}).get("phase") == "Pending":
                continue
            name = pod["metadata"]["name"]
            try:
                lines = self._cluster.log(self._namespace, name, _CONTAINER).splitlines()
            except (NotFound, EngineError):
                continue
            yield from (Line(step, text) for text in lines[self._seen.get(name, 0) :])
            self._seen[name] = len(lines)


def _step(pod: Object) -> str | None:
    """The step whose code a pod runs; None for pods of the engine's own, such as drivers."""
    node = pod["metadata"].get("annotations", {}).get(_NODE_ANNOTATION, "").split(".")
    return node[-2] if len(node) > 2 and node[-1] == "executor" else None
