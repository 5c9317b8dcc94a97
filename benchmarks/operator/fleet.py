"""What is put on the cluster: nodes, namespaces, models and their deployments.

Each of twenty models is deployed once in each of many namespaces. Those of the first model name their version by number
and are rolled out; all others serve their champion and are idle, which costs looks all the same: somebody may move an
alias at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import Any
from zlib import crc32

from serinus.core.profile import PREDICTION_EDGES, Histogram, Profile
from serinus.core.version import Lineage, RunRecord
from serinus.engines.archive import HANDLER, MODEL, PROFILE, SIGNATURE, write_archive
from serinus.engines.mlflow import Registry

Document = dict[str, Any]

MODELS = 20
LABEL = "serinus.dev/bench"
"""On every ModelDeployment: `idle`, or `rollout`."""
PODS_A_NODE = 110
INTERVAL = 10.0
"""Seconds between two decisions about a rollout."""
STABLE, CANARY = 1, 2
# How often each bin of the predictions comes; the telemetry counts the same.
PREDICTIONS = tuple(max(1, 40 - 2 * each) for each in range(len(PREDICTION_EDGES) + 2))


@dataclass(frozen=True)
class Fleet:
    """How many ModelDeployments there are, and how many of them are rolled out at once."""

    deployments: int
    rollouts: int

    @property
    def namespaces(self) -> list[str]:
        """As many as rollouts at least, each with one deployment a model."""
        return [f"team-{at:03d}" for at in range(max(self.rollouts, ceil(self.deployments / MODELS)))]

    def documents(self) -> Iterator[Document]:
        """Every ModelDeployment, those that are rolled out first."""
        names = self.namespaces
        for at in range(self.deployments):
            model, namespace = divmod(at, len(names))
            yield _deployment(f"model-{model}", names[namespace], rolled_out=at < self.rollouts)

    def objects(self) -> list[Document]:
        """What must be there before: namespaces, and nodes for a pod each and one more while it is rolled out."""
        return [*map(_namespace, self.namespaces), *(_node(f"node-{at}") for at in range(self._nodes))]

    def node_of(self, pod: str) -> str:
        """Where a pod is."""
        return f"node-{crc32(pod.encode()) % self._nodes}"

    @property
    def _nodes(self) -> int:
        return ceil((self.deployments + self.rollouts) / PODS_A_NODE)


def fill(registry: Registry, folder: Path) -> None:
    """Register the models: one version each, and a second one of that which is rolled out."""
    for model in range(MODELS):
        for version in (STABLE, CANARY) if model == 0 else (STABLE,):
            path = folder / f"model-{model}-{version}.mar"
            digest = write_archive(path, f"model-{model}", _parts(folder / path.stem))
            made = registry.register(_record(f"model-{model}", version), path, digest)
            if version == STABLE:
                registry.promote(made.name, made.version)


def _parts(folder: Path) -> dict[str, Path]:
    """An archive's parts. Nobody loads the model; its held-out predictions are read when a rollout begins."""
    folder.mkdir(parents=True)
    held_out = Histogram(name="prediction", kind="number", edges=PREDICTION_EDGES, counts=PREDICTIONS)
    profile = Profile(rows=sum(PREDICTIONS), columns=(), prediction=held_out)
    contents = {MODEL: folder.name, SIGNATURE: "{}", PROFILE: profile.model_dump_json(), HANDLER: "handle = None\n"}
    for member, text in contents.items():
        (folder / member).write_text(text, encoding="utf-8")
    return {member: folder / member for member in contents}


def _record(model: str, version: int) -> RunRecord:
    lineage = Lineage(
        as_of=datetime(2026, 1, version, tzinfo=UTC), data_digest="sha256:data", code_digest="sha256:code",
        schema_digest="sha256:schema", parameters={}, pipeline_run=f"{model}-{version}",
    )  # fmt: skip
    return RunRecord(name=model, lineage=lineage, accepted=True, metrics={}, card=f"# {model}\n")


def _deployment(model: str, namespace: str, *, rolled_out: bool) -> Document:
    rollout: Document = {"guards": {"quality": {"enabled": False}}, "confirmation": None}
    if rolled_out:
        # Steps that are taken while it is measured, and no rollout that ends before.
        rollout |= {"interval": f"{INTERVAL:g}s", "pace": {"minimumDuration": "60s", "maximumDuration": "24h"}}
    return {
        "apiVersion": "serinus.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {
            "name": model,
            "namespace": namespace,
            "labels": {LABEL: "rollout" if rolled_out else "idle"},
        },
        "spec": {
            "model": {"name": model, "version": STABLE if rolled_out else "champion"},
            "log": {"enabled": False},
            "rollout": rollout,
        },
    }


def _namespace(name: str) -> Document:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _node(name: str) -> Document:
    """A node that kwok plays."""
    capacity = {"cpu": "64", "memory": "256Gi", "pods": str(PODS_A_NODE)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake", "node.alpha.kubernetes.io/ttl": "0"},
            "labels": {"kubernetes.io/hostname": name, "type": "kwok"},
        },
        "status": {"allocatable": capacity, "capacity": capacity},
    }


def text(documents: list[Document]) -> str:
    """As kubectl takes them."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
