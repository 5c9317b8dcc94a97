"""The two resources a user writes. One pydantic model each: validation, CRD schema and reference come from it."""

from serinus.core.spec.common import API_VERSION, Metadata, parse_resources
from serinus.core.spec.deployment import FeaturePolicy, ModelDeployment, ModelDeploymentSpec, Predictor
from serinus.core.spec.service import KINDS, ModelService, parse_service
from serinus.core.spec.traffic import Canary, Traffic
from serinus.core.spec.training import (
    ContinuousTraining,
    ContinuousTrainingSpec,
    Evaluation,
    Gate,
    Training,
    Windows,
)

__all__ = [
    "API_VERSION",
    "Canary",
    "ContinuousTraining",
    "ContinuousTrainingSpec",
    "Evaluation",
    "FeaturePolicy",
    "Gate",
    "KINDS",
    "Metadata",
    "ModelDeployment",
    "ModelDeploymentSpec",
    "ModelService",
    "Predictor",
    "Traffic",
    "Training",
    "Windows",
    "parse_resources",
    "parse_service",
]
