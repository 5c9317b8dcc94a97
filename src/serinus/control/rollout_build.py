"""Puts the laptop's parts of a rollout together."""

from __future__ import annotations

from datetime import datetime

from serinus.control.evidence import ScrapeSource
from serinus.control.instance import Serving
from serinus.control.quality import QualitySource
from serinus.control.rollout import Controller
from serinus.control.rollout_laptop import EnvoyTraffic, RegistryVersions, RolloutFolder
from serinus.control.stack import Options
from serinus.core.errors import NotFound
from serinus.core.evidence import QualityEvidence
from serinus.core.rollout import RolloutState
from serinus.core.spec.rollout import Rollout
from serinus.engines.mlflow import Registry


def controller(serving: Serving, registry: Registry, options: Options | None = None) -> Controller:
    """What looks after the rollouts of a stack on this machine. The spec is read anew at each look.

    Raises:
        NotFound: the spec has no rollout.
    """
    folder = RolloutFolder(serving.platform)
    model = serving.deployment.model
    return Controller(
        model=model.name,
        policy=lambda: policy_of(serving),
        versions=RegistryVersions(registry, model),
        traffic=EnvoyTraffic(serving, registry, options or Options()),
        evidence=evidence,
        quality=quality,
        commands=folder.commands,
        ledger=folder.ledger,
    )


def policy_of(serving: Serving) -> Rollout:
    """The rollout's policy as the spec says it now.

    Raises:
        NotFound: the spec has none.
        InvalidSpec: it is wrong.
    """
    from serinus.engines.specfile import read_service

    deployment = serving.deployment if serving.spec is None else read_service(serving.spec).deployment.spec
    if deployment.rollout is None:
        raise NotFound("the spec has no rollout", hint="add `rollout: {}` to the spec of the ModelDeployment")
    return deployment.rollout
