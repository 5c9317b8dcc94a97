"""The tiny project trained, served and asked for real, with versions of it that each have one fault of their own."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml

from serinus.cli.place import served
from serinus.cli.train import run_training
from serinus.control.arms import UPSTREAM
from serinus.control.evidence import parse
from serinus.control.instance import program_name
from serinus.control.refresh import fill
from serinus.control.replay import v2_types
from serinus.control.rollout_build import controller
from serinus.control.rollout_laptop import RolloutFolder
from serinus.control.stack import Options, down, is_up, up
from serinus.control.state import RunFolder
from serinus.control.status import status
from serinus.control.traffic import Answer, Client
from serinus.core.prediction import LIVE
from serinus.core.rollout import Decision
from serinus.core.signature import Signature
from serinus.core.times import utc
from serinus.core.version import CHALLENGER, ModelVersion, RunRecord
from serinus.engines.archive import HANDLER, MODEL, PROFILE, SIGNATURE, read_archive
from serinus.engines.feast import FeatureStore
from serinus.engines.mlflow import ARCHIVES, Registry
from serinus.training.package import Parts, package
from serinus.training.project import load_project
from tests.support import eventually

TINY = Path(__file__).parent / "projects" / "tiny"
AS_OF = "2020-02-15T00:00:00+00:00"
NAME = "tiny"
_BATCH = 48
_CLIENTS = 12
READY = 600.0
"""Seconds that a server may take to get ready beside others' tests."""

SLOW = """
import time

from serinus.serve import handler
from serinus.serve.handler import Predictor

_predict = Predictor._predict


def _slowly(self, batch):
    time.sleep(0.25)
    return _predict(self, batch)


Predictor._predict = _slowly
"""
"""Put before the handler: every batch takes a quarter of a second longer."""

ERRING = """
from serinus.serve.handler import Predictor

_predict = Predictor._predict


def _or_fail(self, batch):
    if any(amount is not None and amount > 80 for amount in batch.columns.get("amount", ())):
        raise ZeroDivisionError("nobody tried an order of more than 80")
    return _predict(self, batch)


Predictor._predict = _or_fail
"""
"""Put before the handler: it cannot answer the one order in seven that costs more than 80."""

IN_SECONDS = """
from serinus.serve.handler import Predictor

_columns = Predictor._columns


def _in_seconds(self, batch, checked, rows):
    columns = _columns(self, batch, checked, rows)
    columns["shop_hourly__queue"] = columns["shop_hourly__queue"] * 60
    return columns


Predictor._columns = _in_seconds
"""
"""Put before the handler: a feature in another unit than the model was trained on."""

IN_CAPITALS = """
from serinus.serve.lookup import ViewLookup

_proto = ViewLookup._proto


def _in_capitals(self, key):
    return _proto(self, tuple(each.upper() for each in key) if self.name == "city_daily" else key)


ViewLookup._proto = _in_capitals
"""
"""Put before the handler: it asks for keys of one of its two views that the store does not have."""

Change = Callable[[Path], None]
"""Changes a version's unpacked archive."""


def harmless(parts: Path) -> None:
    """A version that predicts as the one it is made of."""
    handler = parts / HANDLER
    handler.write_text(handler.read_text() + f"\n# made in {parts.name}\n")


def handled_by(code: str) -> Change:
    """With code before the handler's own."""

    def change(parts: Path) -> None:
        handler = parts / HANDLER
        handler.write_text(code + handler.read_text())
        harmless(parts)

    return change


def short_lived(parts: Path) -> None:
    """Its author took a feature's time to live for a few seconds: hardly a value is young enough."""
    _resign(parts, lambda view: view | {"ttl_seconds": 5.0}, lambda column: column)


def mixed_up(parts: Path) -> None:
    """Two channels, equally frequent, are taken for each other: the same predictions, of the wrong orders."""

    def swapped(column: dict[str, Any]) -> dict[str, Any]:
        other = {"web": "desk", "desk": "web"}
        return column | {"categories": [other.get(each, each) for each in column["categories"]]}

    _resign(parts, lambda view: view, swapped)


def _resign(parts: Path, view: Callable[[dict[str, Any]], Any], column: Callable[[dict[str, Any]], Any]) -> None:
    path = parts / SIGNATURE
    found = Signature.model_validate_json(path.read_bytes()).model_dump(mode="json")
    found["views"] = [view(each) for each in found["views"]]
    found["columns"] = [column(each) for each in found["columns"]]
    path.write_text(Signature.model_validate(found).model_dump_json())
    harmless(parts)


class Traffic:
    """Orders sent through the front door by clients that wait for each answer, from `with` to its end.

    `answers` counts versions and errors as the clients saw them, `bare` those answers that were made without any
    feature. With `telling`, what became of each order is reported. A batch of orders takes at least `pace` seconds:
    where what is asked shares its processors with what asks, that leaves some of them.
    """

    def __init__(self, address: str, signature: Signature, host: str | None = None, pace: float = 0.0) -> None:
        self.answers: Counter[tuple[str | None, str | None]] = Counter()
        self.bare = 0
        self.reported = 0
        self.telling = False
        self._address = address
        self._host = host
        self._pace = pace
        self._types = v2_types(signature)
        self._random = np.random.default_rng(3)
        self._asked = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._broke: BaseException | None = None

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._broke is not None:
            raise self._broke

    @property
    def total(self) -> int:
        return self.answers.total()

    @property
    def failed(self) -> int:
        return sum(count for (_, error), count in self.answers.items() if error is not None)

    @property
    def versions(self) -> Counter[int]:
        """How often each version answered."""
        found: Counter[int] = Counter()
        for (version, error), count in self.answers.items():
            if error is None and version is not None:
                found[int(version)] += count
        return found

    def wait_for(self, more: int, seconds: float = 60) -> None:
        """Until so many more requests have been answered."""
        target = self.total + more
        eventually(lambda: self.total >= target, seconds)

    def errors(self) -> set[str]:
        return {error for _, error in self.answers if error is not None}

    async def _run(self) -> None:
        try:
            async with Client(self._address, NAME, _CLIENTS, self._types, host=self._host) as client:
                while not self._stop.is_set():
                    rows = [self._order() for _ in range(_BATCH)]
                    answers, _ = await asyncio.gather(client.send(rows), asyncio.sleep(self._pace))
                    self.bare += sum(map(_bare, answers))
                    self.answers.update((each.version, each.error) for each in answers)
                    if self.telling:
                        told = [self._outcome(*pair) for pair in zip(rows, answers, strict=True)]
                        self.reported += await client.report([each for each in told if each is not None])
        except BaseException as error:
            self._broke = error

    def _order(self) -> dict[str, Any]:
        self._asked += 1
        shop = int(self._random.integers(8))
        return {
            "id": f"asked-{self._started}-{self._asked}",
            "event_timestamp": "2020-02-15T00:15:00Z",
            "shop": f"shop-{shop}",
            "city": ("east", "west")[shop % 2],
            "channel": ("web", "phone", "desk")[int(self._random.integers(3))],
            "amount": round(float(self._random.exponential(40)), 2),
        }

    @property
    def _started(self) -> str:
        return f"{id(self):x}"

    def _outcome(self, row: Mapping[str, Any], answer: Answer) -> dict[str, Any] | None:
        """As `projects/tiny/world.py` draws it, of the queue that was served."""
        queue = (answer.served or {}).get("shop_hourly__queue")
        if answer.error is not None or queue is None:
            return None
        channel = {"web": 0.6, "phone": 0.0, "desk": -0.6}[row["channel"]]
        chance = 1 / (1 + np.exp(2.2 - 0.25 * queue - 0.01 * row["amount"] - channel))
        return {"id": row["id"], "label": int(self._random.random() < chance)}


def _bare(answer: Answer) -> bool:
    """Whether a row was answered without any feature."""
    features = [value for name, value in (answer.served or {}).items() if "__" in name]
    return answer.error is None and all(value is None for value in features)


def challenger(registry: Registry, first: ModelVersion, folder: Path, variant: tuple[str, Change]) -> ModelVersion:
    """Register a variant of a version and make it the challenger."""
    version = register(registry, first, folder, variant)
    registry.set_alias(NAME, CHALLENGER, version.version)
    return version


def register(registry: Registry, first: ModelVersion, folder: Path, variant: tuple[str, Change]) -> ModelVersion:
    """Register a variant of a version, packaged as the pipeline does it."""
    name, change = variant
    scratch = folder / name
    scratch.mkdir(parents=True)
    with read_archive(registry.fetch(first, folder), first.digest) as archive:
        archive.extract(scratch)
    change(scratch)
    parts = Parts(scratch / MODEL, scratch / SIGNATURE, scratch / PROFILE, scratch / HANDLER)
    packaged = package(NAME, parts, scratch / "out")
    lineage = first.lineage.model_copy(update={"pipeline_run": name})
    record = RunRecord(name=NAME, lineage=lineage, accepted=True, metrics={}, card=f"# {name}\n")
    return registry.register(record, packaged.path, packaged.digest)


class Site:
    """The project in a folder: trained once, then served from the past or by the machine's clock."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("__pycache__", ".serinus"))
        self.file = folder / "serinus.yaml"
        self.port = port
        self._deployment({"log": {"segmentAge": "1s"}})
        outcome = run_training(self.file, AS_OF, "first", lambda event: None)
        assert outcome.version == 1
        self.serving, self.registry = served(self.file)
        self.first = self.registry.get(NAME, 1)

    def _deployment(self, changes: Mapping[str, Any]) -> None:
        training, deployment = yaml.safe_load_all(self.file.read_text())
        deployment["spec"] |= changes
        self.file.write_text(yaml.safe_dump_all([training, deployment]))

    def policy(self, rollout: Mapping[str, Any]) -> None:
        """Write a rollout into the spec."""
        self._deployment({"rollout": dict(rollout)})

    def serve_the_past(self) -> None:
        """Have the champion up, with the features of the training's time. Up already, it stays up."""
        state = RunFolder(self.serving.platform).read()
        if is_up(self.serving.platform) and state is not None and state.as_of is not None:
            return
        down(self.serving.platform)
        serving, _ = served(self.file)
        fill(load_project(self.file), FeatureStore.open(serving.platform, NAME), utc(AS_OF))
        champion = self.registry.get(NAME, "champion")
        up(
            replace(serving, as_of=utc(AS_OF)),
            champion,
            self.registry.fetch,
            Options(port=self.port, ready_seconds=READY),
        )

    def down(self) -> None:
        down(self.serving.platform)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def rollouts(self) -> RolloutFolder:
        return RolloutFolder(self.serving.platform)

    def challenger(self, name: str, change: Change) -> ModelVersion:
        """Register a variant of the first version and make it the challenger."""
        return challenger(self.registry, self.first, self.folder / "variants", (name, change))

    def damage(self, version: ModelVersion) -> None:
        """Change one byte of a version's archive where the registry keeps it."""
        place = Path(self.serving.platform.artifact_uri) / NAME / version.run / "artifacts" / ARCHIVES / version.archive
        content = bytearray(place.read_bytes())
        content[len(content) // 2] ^= 1
        place.write_bytes(content)

    def traffic(self) -> Traffic:
        with read_archive(self.registry.fetch(self.first, self.folder / "variants"), self.first.digest) as archive:
            return Traffic(self.address, Signature.model_validate_json(archive.read(SIGNATURE)))

    def failures(self) -> Counter[int]:
        """Live requests that each version failed, as the front door counted them."""
        found: Counter[int] = Counter()
        for sample in parse(httpx.get(f"{self.address}/metrics", timeout=20).text):
            if sample.name == UPSTREAM and sample.labels["traffic"] == LIVE and sample.labels["result"] != "ok":
                found[int(sample.labels["version"])] += int(sample.value)
        return found

    def up(self) -> set[int]:
        """Versions that are up."""
        return {each.version for each in status(self.serving.platform).versions}

    def pid(self, version: int) -> int:
        name = program_name(version)
        return next(each.pid for each in status(self.serving.platform).programs if each.name == name)

    def run(self, *arguments: str, expect: int | None = 0) -> dict[str, Any]:
        """A command as a user types it, and the JSON object that it printed."""
        command = [sys.executable, "-P", "-m", "serinus", *arguments, "--json"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=240, check=False)
        assert expect in (None, done.returncode), done.stderr + done.stdout
        found: dict[str, Any] = json.loads(done.stdout)
        return found


class Looks:
    """A controller that has just been started and looks again and again, and what it decided."""

    def __init__(self, site: Site) -> None:
        self.decisions: list[Decision] = []
        self.failures_before = site.failures()
        self._ledger = site.rollouts.ledger
        serving, registry = served(site.file)
        self._controller = controller(serving, registry, Options(ready_seconds=READY))

    def until_action(self, action: str, seconds: float = 900) -> Decision:
        """The first decision to do so."""

        def look() -> Decision | None:
            decision = self._controller.look(datetime.now(UTC))
            self.decisions.append(decision)
            return decision if decision.action == action else None

        try:
            found = eventually(look, seconds, interval=0.5)
        except AssertionError as error:
            last = self.decisions[-1]
            raise AssertionError(f"{self.actions()}, {last.shares}: {'; '.join(last.reasons)}") from error
        assert found is not None
        return found

    def actions(self) -> list[str]:
        """What was done, but for holding and for finding out what is in front."""
        return [each.action for each in self.decisions if each.action not in ("hold", "adopt")]

    def require_ledger(self) -> None:
        """The ledger is whole, has every decision, and all of them come out again."""
        entries = self._ledger.count()
        for checked in (self._ledger.verify(), self._ledger.replay()):
            assert (checked.broken, checked.entries) == (None, entries)
        newest = next(self._ledger.newest_first())
        last = [each for each in self.decisions if each.action != "hold"][-1]
        written = next(each for each in self._ledger.newest_first() if each.action != "hold")
        assert (written.action, written.reasons, newest.number) == (last.action, last.reasons, entries)


def policy(**changes: Any) -> dict[str, Any]:
    """A rollout that decides within seconds: margins as wide as a busy machine needs."""
    guards = {
        "errors": {"margin": 0.05},
        "slow": {"threshold": "100ms", "ratio": 3, "margin": 0.2},
        "latency": {"enabled": False},
        "features": {"margin": 0.1},
        "predictions": {"tolerance": 0.2, "margin": 0.25, "expectedTolerance": 0.95},
        "quality": {"margin": 0.1, "estimatedTolerance": 0.9, "earlyOutcomes": True},
    }
    usual = {
        "interval": "1s",
        "steps": [50],
        "pace": {"minimumDuration": "1s", "minimumRequests": 50, "maximumDuration": "5m", "readyTimeout": "2m"},
        "guards": guards | changes.pop("guards", {}),
        "confirmation": {"minimumLabels": 300, "maximumDuration": "5m", "inconclusive": "undo"},
    }
    return usual | changes
