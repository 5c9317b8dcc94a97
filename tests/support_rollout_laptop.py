"""The tiny project trained, and served and rolled out for real on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import yaml

from serinus.cli.place import served
from serinus.cli.train import run_training
from serinus.control.arms import UPSTREAM
from serinus.control.evidence import parse
from serinus.control.instance import program_name
from serinus.control.refresh import fill
from serinus.control.rollout_build import controller
from serinus.control.rollout_laptop import RolloutFolder
from serinus.control.stack import Options, down, is_up, up
from serinus.control.state import RunFolder
from serinus.control.status import status
from serinus.core.prediction import LIVE
from serinus.core.rollout import Decision
from serinus.core.signature import Signature
from serinus.core.times import utc
from serinus.core.version import ModelVersion
from serinus.engines.archive import SIGNATURE, read_archive
from serinus.engines.feast import FeatureStore
from serinus.engines.mlflow import ARCHIVES
from serinus.training.project import load_project
from tests.support import eventually
from tests.support_orders import Traffic
from tests.support_variants import Change, challenger

TINY = Path(__file__).parent / "projects" / "tiny"
AS_OF = "2020-02-15T00:00:00+00:00"
NAME = "tiny"
READY = 600.0
"""Seconds that a server may take to get ready beside others' tests."""


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
