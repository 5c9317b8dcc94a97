"""One file, one model service: the two resources together, and what must agree between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from serinus.core.errors import InvalidSpec, Problem
from serinus.core.spec.common import Resource, collect_resources
from serinus.core.spec.deployment import ModelDeployment
from serinus.core.spec.training import ContinuousTraining

KINDS: dict[str, type[Resource]] = {"ContinuousTraining": ContinuousTraining, "ModelDeployment": ModelDeployment}


class ModelService(BaseModel):
    """What `serinus.yaml` says: how the model is trained, and how it is served."""

    model_config = ConfigDict(frozen=True)

    training: ContinuousTraining
    deployment: ModelDeployment


def parse_service(documents: Iterable[Any], origin: str) -> ModelService:
    """Validate the documents of a `serinus.yaml`, each by itself and all against one another.

    Args:
        documents: parsed YAML documents, empty ones skipped.
        origin: what to call the file in an error.

    Raises:
        InvalidSpec: with every problem: of the fields, of names used twice, of references that lead nowhere, of a
            kind that occurs not once.
    """
    listed = list(documents)
    resources, problems = collect_resources(listed, KINDS)
    problems.extend(_cross_checks(resources, listed))
    if problems:
        raise InvalidSpec(origin, problems)
    training = next(each for each in resources if isinstance(each, ContinuousTraining))
    deployment = next(each for each in resources if isinstance(each, ModelDeployment))
    return ModelService(training=training, deployment=deployment)


def _cross_checks(resources: Sequence[Resource], documents: Sequence[Any]) -> list[Problem]:
    kinds = Counter(str(each.get("kind")) for each in documents if isinstance(each, dict))
    problems = [
        Problem(path=kind, found=_times(kinds[kind]), allowed="exactly one in a file")
        for kind in KINDS
        if kinds[kind] != 1
    ]
    names = Counter((_kind(each), each.metadata.namespace, each.metadata.name) for each in resources)
    problems += [
        Problem(path=f"{kind}.metadata.name", found=f"{name!r} {count} times", allowed="each name once in a namespace")
        for (kind, _, name), count in names.items()
        if count > 1
    ]
    # Where a deployment is itself broken, its name is still what a reference means.
    return problems + _references(resources, _deployment_names(documents))


def _references(resources: Sequence[Resource], deployments: set[tuple[str, str]]) -> list[Problem]:
    problems = []
    for training in resources:
        if not isinstance(training, ContinuousTraining) or not deployments:
            continue
        if (training.metadata.namespace, training.spec.deployment) not in deployments:
            listed = " or ".join(sorted(f"{name!r} (namespace {namespace!r})" for namespace, name in deployments))
            problems.append(
                Problem(
                    path="ContinuousTraining.spec.deployment",
                    found=f"{training.spec.deployment!r} (namespace {training.metadata.namespace!r})",
                    allowed=f"the name of a ModelDeployment of this file: {listed}",
                )
            )
    return problems


def _deployment_names(documents: Sequence[Any]) -> set[tuple[str, str]]:
    metadata = [
        each.get("metadata") for each in documents if isinstance(each, dict) and each.get("kind") == "ModelDeployment"
    ]
    return {
        (str(each.get("namespace", "default")), str(each["name"]))
        for each in metadata
        if isinstance(each, dict) and "name" in each
    }


def _kind(resource: Resource) -> str:
    return next(kind for kind, model in KINDS.items() if isinstance(resource, model))


def _times(count: int) -> str:
    return "none" if count == 0 else f"{count} of them"
