"""How much of a cluster there is: levels, each with all of those before it."""

from __future__ import annotations

import os

LEVELS = ("api", "control", "node", "pipelines")
"""`api` (etcd, kube-apiserver) is enough for definitions, validation and RBAC; `control` also collects garbage, ends
namespaces and makes service accounts; `node` runs pods, and has KServe, a Gateway, and what models and operator rest
on; `pipelines` has Kubeflow Pipelines and an object store."""
VARIABLE = "SERINUS_TESTBED_LEVEL"
"""Tells the command that is run what it may expect of its cluster."""


def includes(level: str, part: str) -> bool:
    """Whether what belongs to the level `part` is there at a level."""
    return LEVELS.index(level) >= LEVELS.index(part)


def expected(part: str) -> bool:
    """Whether this process may expect what belongs to a level."""
    return includes(os.environ.get(VARIABLE, LEVELS[0]), part)
