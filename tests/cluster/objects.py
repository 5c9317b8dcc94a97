"""The objects that kustomize and Helm make, and how they are told apart and moved."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

OVERLAYS = ("standalone", "production", "kubeflow")
SYSTEM = "serinus-system"
# A name that ends in the digest of its content.
GENERATED = re.compile(r"^(serinus-(?:settings|postgres|prometheus|s3))-[a-z0-9]{10}$")

Object = dict[str, Any]


def rendered(*command: str | Path) -> list[Object]:
    """The objects that a command prints."""
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def key(found: Object) -> tuple[str, str, str]:
    metadata = found["metadata"]
    return found["kind"], metadata.get("namespace", ""), GENERATED.sub(r"\1", metadata["name"])


def is_access(found: Object) -> bool:
    return "Role" in found["kind"] or found["kind"] in ("ServiceAccount", "PriorityClass")


def moved(found: Object, namespace: str) -> Object:
    """An object as if the system were in another namespace."""
    same: Object = json.loads(json.dumps(found).replace(SYSTEM, namespace))
    if found["kind"] in ("ClusterRole", "ClusterRoleBinding", "PriorityClass"):
        same["metadata"]["name"] += f"-{namespace}"
    if found["kind"] == "ClusterRoleBinding":
        same["roleRef"]["name"] += f"-{namespace}"
    spec = same.get("spec", {}).get("template", {}).get("spec", {})
    if "priorityClassName" in spec:
        spec["priorityClassName"] += f"-{namespace}"
    return same
