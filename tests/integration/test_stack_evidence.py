"""Evidence of two versions in the whole stack: Envoy, TorchServe with the real handler, the sidecar."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from serinus.control.evidence import ScrapeSource
from serinus.control.instance import Serving
from serinus.control.stack import Options, down, up
from serinus.control.state import RunFolder, StackState
from serinus.core.evidence import Arm, Interval, Snapshot, between
from serinus.core.spec import Canary, Traffic
from serinus.core.spec.deployment import Batching, ModelDeploymentSpec, ModelRef, Predictor
from serinus.core.version import ModelVersion
from serinus.engines import archive
from serinus.engines.ports import free_ports
from tests import support_serving as toy
from tests.support import eventually
from tests.support_stack import LINEAGE, Shelf, serving

pytestmark = pytest.mark.timeout(300)

HANDLER = Path(__file__).parents[2] / "serving" / "handler.py"
VERSIONS = (1, 2)
PATH = f"/predictions/{toy.MODEL}"


@dataclass
class Site:
    """A stack with a stable version and a canary that gets half of the requests."""

    state: StackState
    sent: Counter[str]

    def ask(self, version: str = "", **changes: object) -> httpx.Response:
        headers = {"x-serinus-version": version} if version else {}
        self.sent["named" if version else "split"] += 1
        return httpx.post(f"{self.state.address}{PATH}", json=toy.row(**changes), headers=headers, timeout=30)

    def snapshot(self) -> Snapshot:
        found = ScrapeSource(self.state.address, toy.MODEL).snapshot(VERSIONS, None, datetime.now(UTC))
        assert found.missing == ()
        return found

    def since(self, before: Snapshot) -> Interval:
        found = between(before, self.snapshot(), (2, 1), shadow=False)
        assert isinstance(found, Interval), found
        return found


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A stack of its own for each test: what one kills, the next would count."""
    folder = tmp_path_factory.mktemp("evidence")
    platform = toy.platform(folder / ".serinus")
    toy.write_model(folder / "model", toy.signature(platform))
    parts = {name: folder / "model" / name for name in (archive.MODEL, archive.SIGNATURE, archive.PROFILE)}
    mar = folder / "shelf.mar"
    digest = archive.write_archive(mar, toy.MODEL, parts | {archive.HANDLER: HANDLER})
    versions = [
        ModelVersion(name=toy.MODEL, version=each, archive=mar.name, digest=digest, run="run", lineage=LINEAGE)
        for each in VERSIONS
    ]
    predictor = Predictor(workers=1, batching=Batching(max_size=8, max_delay=timedelta(milliseconds=2)))
    traffic = Traffic(canary=Canary(version=2, weight=50, shadow=0))
    deployment = ModelDeploymentSpec(model=ModelRef(name=toy.MODEL), predictor=predictor, traffic=traffic)
    chosen = Serving(platform=platform, deployment=deployment, feature_project=toy.PROJECT, as_of=toy.NOW)

    def fetch(version: ModelVersion, target: Path) -> Path:
        target.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(mar, target / f"{version.version}.mar"))

    up(chosen, versions[0], fetch, Options(port=free_ports(1)[0], ready_seconds=200), versions[1])
    try:
        state = RunFolder(platform).read()
        assert state is not None
        yield Site(state, Counter())
    finally:
        down(platform)


def test_both_versions_traffic_is_what_was_sent(site: Site) -> None:
    before = settled(site)
    origins = ["JFK"] * 6 + ["EWR", "XXX"]  # of four views EWR is stale in one, absent in one, XXX absent in two
    split = [site.ask(origin=origins[at % 8]) for at in range(240)]
    named = [site.ask("canary") for _ in range(11)]
    assert {each.status_code for each in (*split, *named)} == {200}
    httpx.get(f"{site.state.address}/v2/health/live")
    own = Counter(int(each.json()["model_version"]) for each in split)
    # Values and predictions are counted twice a second.
    eventually(lambda: sum(sum(arm.predictions) for arm in both(site.since(before))) == 251, timeout=60)
    found = site.since(before)
    assert (found.stable.routed, found.canary.routed) == (own[1], own[2])
    assert (found.stable.requests, found.canary.requests) == (own[1], own[2] + 11)
    assert (found.stable.errors, found.canary.errors) == (0, 0)
    for arm in both(found):
        assert arm.rows == arm.requests == sum(arm.latency) == sum(arm.predictions)
        assert len(arm.latency) == len(arm.latency_edges) + 1
        assert 0 < arm.problems < arm.rows / 4
    assert sum(arm.problems for arm in both(found)) == 60 * 2 / 4


def settled(site: Site) -> Snapshot:
    """A look once everything that other tests had counted is written, which happens twice a second."""
    looks = [site.snapshot()]

    def still() -> Snapshot | None:
        looks.append(site.snapshot())
        return looks[-1] if (looks[-1].live, looks[-1].shadow) == (looks[-2].live, looks[-2].shadow) else None

    found = eventually(still, timeout=60, interval=1.2)
    assert found is not None
    return found


def both(interval: Interval) -> tuple[Arm, Arm]:
    return (interval.stable, interval.canary)


def test_what_a_killed_worker_held_is_its_versions_failure(site: Site) -> None:
    before = site.snapshot()
    address = f"http://127.0.0.1:{site.state.instances[2].management_port}/models/{toy.MODEL}"
    codes: Counter[int] = Counter()
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            victim = httpx.get(address, timeout=20).json()[0]["workers"][0]["pid"]
            answers = [pool.submit(site.ask) for _ in range(150)]
            eventually(lambda answers=answers: sum(each.done() for each in answers) > 20)
            os.kill(victim, signal.SIGKILL)
            codes.update(each.result().status_code for each in answers)
            eventually(lambda: httpx.get(address, timeout=20).json()[0]["workers"][0]["status"] == "READY", 60)
    found = site.since(before)
    assert sum(codes.values()) == 450
    assert (found.stable.errors, found.canary.requests > 0) == (0, True)
    assert found.canary.errors >= codes.total() - codes[200], "what TorchServe said of its dead worker"
    assert found.canary.errors > 0
    assert found.canary.routed + found.stable.routed == 450
    answered = found.canary.requests - found.canary.errors
    assert answered == codes[200] - found.stable.requests, "every answer is one version's"
    assert answered <= sum(found.canary.latency) <= answered + 3 * 8, "some it had counted when it was killed"


def test_what_torchserve_answers_without_the_handler_is_an_error(tmp_path: Path) -> None:
    served = serving(tmp_path / ".serinus")
    shelf = Shelf(tmp_path / "shelf")
    up(served, shelf.version(1), shelf.fetch, Options(port=free_ports(1)[0], ready_seconds=120))
    try:
        state = RunFolder(served.platform).read()
        assert state is not None
        codes = [
            httpx.post(f"{state.address}/predictions/tiny", json=body, timeout=30).status_code
            for body in ({}, {"crash": True})
        ]
        assert codes[0] == 200
        assert codes[1] >= 500
        found = ScrapeSource(state.address, "tiny").snapshot((1,), None, datetime.now(UTC))
        assert (found.missing, found.arm(1).requests, found.arm(1).errors) == ((), 2, 1)
    finally:
        down(served.platform)
