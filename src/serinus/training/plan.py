"""What each step of a run may know of the spec, and by which code it runs. A cache goes by these texts.

A run is made of three plans, each with all of the one before: what the data depend on, what the model does, and what
the judgement does. A step is given the one that it needs, and reads the spec from it. So a setting that a step does not
see cannot change what it makes, and a changed one is a reason to repeat the steps that read it, no others. When a run
starts (triggers, limits) and where its model goes is in none of them.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, JsonValue

from serinus.core.spec import ModelService, parse_service
from serinus.core.spec.common import API_VERSION
from serinus.engines.code import code_digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Plan(BaseModel):
    """What one step may know. `code` is the digest of the sources that it runs, and of `settings`."""

    model_config = ConfigDict(frozen=True)

    model: str
    settings: dict[str, JsonValue]
    code: str

    def service(self) -> ModelService:
        """The spec, as far as it is known here; what is not has its default."""
        name = {"name": self.model}
        training = {"kind": "ContinuousTraining", "spec": {**self.settings, "deployment": self.model}}
        deployment = {"kind": "ModelDeployment", "spec": {"model": name}}
        documents = [{"apiVersion": API_VERSION, "metadata": name, **each} for each in (training, deployment)]
        return parse_service(documents, "the step's plan")


def told(service: ModelService) -> str:
    """What a run depends on of a spec, as the text of a spec file. Not when it runs, nor how its model is served."""
    training = service.training.model_dump(mode="json", by_alias=True, exclude_none=True)
    deployment = service.deployment.model_dump(mode="json", by_alias=True, exclude_none=True)
    return resources(training, deployment)


def resources(training: Mapping[str, Any], deployment: Mapping[str, Any]) -> str:
    """The same of the two resources as a cluster stores them."""
    trained = {name: value for name, value in training["spec"].items() if name not in ("triggers", "limits")}
    served = {"model": deployment["spec"]["model"]}
    # By YAML's own means: it reads JSON's 1e-06 as text.
    return yaml.safe_dump_all(
        {
            "apiVersion": of["apiVersion"],
            "kind": of["kind"],
            "metadata": {"name": of["metadata"]["name"]},
            "spec": spec,
        }
        for of, spec in ((training, trained), (deployment, served))
    )


class Plans(NamedTuple):
    """The plans of one run."""

    data: Plan
    model: Plan
    whole: Plan


def make_plans(project: Path, service: ModelService) -> Plans:
    """The plans for a spec and the project in a folder.

    Raises:
        NotFound: there is no such folder, or a module of the project is missing.
    """
    module = service.training.spec.project.entry_point.partition(":")[0]
    packed = (Path(str(files("serving") / "handler.py")),)

    def plan(fields: dict[str, Any], extra: Sequence[Path] = ()) -> Plan:
        name = service.deployment.spec.model.name
        spec = service.training.spec
        found = spec.model_dump(mode="json", by_alias=True, exclude_none=True, include=fields)
        return Plan(model=name, settings=found, code=code_digest(project, module, {"model": name, **found}, extra))

    data: dict[str, Any] = {"project": {"entry_point"}, "feature_service": True, "windows": True}
    model = data | {"training": True}
    return Plans(plan(data), plan(model), plan(model | {"evaluation": True, "gate": True}, packed))
