"""The whole stack in front of the small served model of `support_serving`: what clients and hostile bodies meet."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from serinus.control.instance import Serving
from serinus.control.stack import Options, down, up
from serinus.control.state import RunFolder
from serinus.control.status import status
from serinus.core.platform import Platform
from serinus.core.spec import ModelDeploymentSpec
from serinus.core.version import ModelVersion
from serinus.engines import archive
from serinus.engines.ports import free_ports
from tests import support_serving as toy
from tests.support_registry import record

HANDLER = Path(__file__).parents[1] / "serving" / "handler.py"


@dataclass(frozen=True)
class Front:
    """A stack that is up. `address` is `host:port`, as gRPC and Triton's clients want it."""

    address: str
    folder: Path
    platform: Platform

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.post(
            self.url + path, content=content, headers={"content-type": "application/json", **headers}, timeout=30
        )

    def infer(self, body: Any, **headers: str) -> httpx.Response:
        return self.post(f"/v2/models/{toy.MODEL}/infer", body, **headers)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=10)

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """What `/metrics` shows, by name and labels."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        return {
            (each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples
        }

    def total(self, name: str, **labels: str) -> int:
        """The sum over a metric's series that have these labels."""
        wanted = set(labels.items())
        return round(sum(value for key, value in self.metrics().items() if key[0] == name and wanted <= key[1]))

    def pids(self) -> dict[str, int]:
        """Process ids of what runs, by program."""
        return {each.name: each.pid for each in status(self.platform).programs if each.pid}

    def workers(self) -> list[int]:
        """Process ids of TorchServe's workers."""
        server = next(pid for name, pid in self.pids().items() if name.startswith("torchserve"))
        return [
            each.pid
            for each in psutil.Process(server).children(recursive=True)
            if "model_service_worker" in " ".join(each.cmdline())
        ]


@contextmanager
def front(folder: Path, deployment: Mapping[str, Any] | None = None, where: Platform | None = None) -> Iterator[Front]:
    """Start TorchServe with two workers, Envoy and the sidecar; the model replays the past of `support_serving`.

    Args:
        deployment: more fields of the ModelDeployment's spec.
        where: a platform whose online store is filled; by default one on SQLite.
    """
    where = where or toy.platform(folder / "state")
    toy.write_model(folder / "model", toy.signature(where))
    parts = {name: folder / "model" / name for name in (archive.MODEL, archive.SIGNATURE, archive.PROFILE)}
    mar = folder / f"{toy.MODEL}.mar"
    digest = archive.write_archive(mar, toy.MODEL, parts | {archive.HANDLER: HANDLER})
    predictor = {"workers": 2, "batching": {"maxSize": 16, "maxDelay": "2ms"}}
    spec = {"model": {"name": toy.MODEL, "version": 3}, "predictor": predictor, **(deployment or {})}
    serving = Serving(where, ModelDeploymentSpec.model_validate(spec), toy.PROJECT, as_of=toy.NOW + timedelta(hours=1))
    version = ModelVersion(
        name=toy.MODEL, version=3, archive=mar.name, digest=digest, run="run-1", lineage=record().lineage
    )

    def fetch(wanted: ModelVersion, target: Path) -> Path:
        target.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(mar, target / f"{wanted.name}.mar"))

    try:
        port = free_ports(1)[0]
        up(serving, version, fetch, Options(port=port, ready_seconds=120))
        yield Front(f"127.0.0.1:{port}", RunFolder(where).path, where)
    finally:
        down(where)
