"""The testbed's engines, as whoever works with them is told where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from serinus.core.platform import Platform
from tests.cluster.testbed.backing import OWNER, PORTS
from tests.cluster.testbed.site import ADDRESS, SYSTEM

PODS = (Path("/var/run/serinus"), f"{{}}.{SYSTEM}.svc")
"""Where pods keep things, and how they name the engines."""


def platform(folder: Path, host: str = ADDRESS) -> Platform:
    """By address, for processes of this machine, or by the names of Services (`host` `{}.x`), for pods."""

    def at(name: str) -> str:
        return f"{host.format(name)}:{PORTS[name]}"

    database = f"postgresql+psycopg2://{OWNER}@{at('postgres')}"
    return Platform(
        state=folder,
        offline_uri=str(folder / "offline"),
        online_store={"type": "redis", "connection_string": at("redis")},
        feast_registry=f"{database}/feast",
        tracking_uri=f"http://{at('mlflow')}",
        artifact_uri="mlflow-artifacts:/",
        pipeline_root=str(folder / "pipelines"),
        ledger_uri=f"{database}/serinus",
    )


def text(found: Platform) -> str:
    """As SERINUS_PLATFORM has it."""
    return yaml.safe_dump(found.model_dump(mode="json"))


def secret(namespace: str, found: Platform) -> dict[str, Any]:
    """Tells the pods of a namespace."""
    metadata = {"name": "serinus-platform", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"platform.yaml": text(found)}}
