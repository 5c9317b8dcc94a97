"""Two versions in the whole stack under load: shares changed, the canary killed, promoted, ended; the door drained."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from serinus.cli import app
from serinus.control.deploy import Share, deploy
from serinus.control.stack import Options, down, up
from serinus.control.state import RunFolder, StackState
from serinus.control.status import status
from serinus.core.errors import Conflict, EngineError, IntegrityError, InvalidInput
from serinus.core.spec import Canary, Traffic
from serinus.core.spec.traffic import Quota
from serinus.core.version import ModelVersion
from serinus.engines import processes
from serinus.engines.ports import free_ports
from tests.support import eventually
from tests.support_envoy import Load
from tests.support_report import record
from tests.support_stack import BROKEN, Shelf, serving

pytestmark = pytest.mark.timeout(300)


class Site:
    """A stack in a folder, ended with its test."""

    def __init__(self, folder: Path, traffic: Traffic) -> None:
        found = serving(folder / ".serinus")
        self.folder = folder
        self.serving = replace(found, deployment=found.deployment.model_copy(update={"traffic": traffic}))
        self.run = RunFolder(self.serving.platform)
        self.shelf = Shelf(folder / "shelf")
        self.options = Options(port=free_ports(1)[0], ready_seconds=120)

    @property
    def state(self) -> StackState:
        found = self.run.read()
        assert found is not None
        return found

    @property
    def address(self) -> str:
        return self.state.address

    def up(self, version: ModelVersion, canary: ModelVersion | None = None) -> Any:
        return up(self.serving, version, self.shelf.fetch, self.options, canary)

    def deploy(self, version: ModelVersion, share: Share | None = None) -> Any:
        return deploy(self.serving, version, self.shelf.fetch, self.options, share)

    def pids(self) -> dict[str, int]:
        return {each.name: each.pid for each in status(self.serving.platform).programs}

    def load(self, clients: int = 4) -> Load:
        return Load(self.address, clients)

    def ask(self, **headers: str) -> dict[str, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = httpx.post(f"{self.address}/predictions/tiny", json={}, headers=named, timeout=20)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def version_of(self, **headers: str) -> int:
        return int(self.ask(**headers)["version"])

    def ready(self) -> dict[int, bool]:
        return {each.version: each.ready for each in status(self.serving.platform).versions}


@contextmanager
def site(folder: Path, traffic: Traffic | None = None) -> Iterator[Site]:
    folder.mkdir(parents=True, exist_ok=True)
    found = Site(folder, traffic or Traffic())
    try:
        yield found
    finally:
        state = found.run.read()
        down(found.serving.platform)
        assert state is None or processes.marked(state.mark) == []


def kill_everything_of(pid: int) -> None:
    """A server and its workers, as when the machine's memory runs out."""
    parent = psutil.Process(pid)
    for process in [parent, *parent.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            os.kill(process.pid, signal.SIGKILL)


def test_a_canary_gets_its_share_is_killed_and_is_promoted_without_a_failed_request(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        first, second = here.shelf.version(1), here.shelf.version(2)
        here.up(first)
        assert here.ask()["before"] == 50, "the way is warm before the first request takes it"
        with pytest.raises(InvalidInput, match="is the stable one"):
            here.deploy(first, Share(weight=5))
        here.deploy(second, Share(weight=0))
        assert here.ask(x_serinus_version="canary")["before"] == 50
        with here.load() as load:
            done = here.deploy(second, Share(weight=20))
            assert (done.version, done.stable, done.canary.weight, done.changed) == (2, 1, 20, True)
            assert not here.deploy(second, Share(weight=20)).changed
            shares = {each.version: (each.role, each.weight) for each in status(here.serving.platform).versions}
            assert shares == {1: ("stable", 80), 2: ("canary", 20)}
            load.wait_for(500)
            assert here.version_of(x_serinus_version="canary") == 2
            assert here.version_of(x_serinus_version="1") == 1

            # Its share changes twenty times.
            pids = here.pids()
            for weight in (1, 50, 0, 100, 30) * 4:
                here.deploy(second, Share(weight=weight))
                load.wait_for(50)
            assert here.pids() == pids, "only weights have changed"

            # It dies as a whole, and comes back when it is ready.
            for _ in range(2):
                seen, canary = load.total, load.of(2)
                kill_everything_of(here.pids()["torchserve-2"])
                load.wait_for(1200)
                eventually(lambda seen=canary: load.of(2) > seen + 50, 60)
                assert load.total - seen >= 1200
                eventually(lambda: here.ready() == {1: True, 2: True}, 30)

            done = here.deploy(second)
            assert (done.stable, done.previous, done.canary, done.changed) == (2, 1, None, True)
            assert set(here.pids()) == {"envoy", "sidecar", "torchserve-2"}
            load.wait_for(200)
        assert load.failed == {}, load.broken
        assert load.total >= 3000
        record("canary_killed", requests=load.total, failed=0, kills=2, weight_changes=20)
        assert here.version_of() == 2
        assert sorted(path.name for path in (here.run.path / "versions").iterdir()) == ["2"]


def test_a_canary_in_the_spec_is_started_watched_replaced_and_ended(tmp_path: Path) -> None:
    with site(tmp_path, Traffic(canary=Canary(version=2, weight=0, shadow=100))) as here:
        first, second, third = (here.shelf.version(number) for number in (1, 2, 3))
        here.up(first, second)
        assert here.up(first, second).already
        assert set(here.pids()) == {"envoy", "sidecar", "torchserve-1", "torchserve-2"}
        told = json.loads(CliRunner().invoke(app(), ["status", "--json", "--file", str(here.folder)]).stdout)
        assert [(each["version"], each["role"], each["shadow"]) for each in told["versions"]] == [
            (1, "stable", 0),
            (2, "canary", 100),
        ]
        with here.load(2) as load:
            load.wait_for(100)
            before = load.total
        assert load.of(1) == load.total >= before
        requests = {each.version: each.requests for each in status(here.serving.platform).versions}
        assert requests == {1: load.total, 2: load.total}, "every request once, and a copy of it"

        with here.load(2) as load:
            with pytest.raises(EngineError, match="there is no feature service"):
                here.deploy(here.shelf.version(4, BROKEN), Share(weight=10))
            assert here.state.canary is not None
            assert (here.state.canary.version, here.state.canary.shadow) == (2, 100), "the old canary goes on"
            here.deploy(third, Share(weight=50))
            assert set(here.pids()) == {"envoy", "sidecar", "torchserve-1", "torchserve-3"}
            load.wait_for(200)
            assert load.of(3) > 50
            ended = here.deploy(first)
            assert (ended.stable, ended.canary, ended.changed) == (1, None, True)
            assert set(here.pids()) == {"envoy", "sidecar", "torchserve-1"}
        assert load.failed == {}, load.broken

        limited = Traffic(quota=Quota(requests=1))
        deployment = here.serving.deployment.model_copy(update={"traffic": limited})
        with pytest.raises(Conflict, match=r"spec\.traffic.*quota"):
            deploy(replace(here.serving, deployment=deployment), third, here.shelf.fetch, here.options)


def test_a_poisoned_archive_is_not_loaded_and_costs_no_request(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        here.up(here.shelf.version(1))
        here.deploy(here.shelf.version(2), Share(weight=30))
        with here.load() as load:
            load.wait_for(300)
            archive = here.state.instances[2].archive
            archive.write_bytes(archive.read_bytes().replace(b"weights", b"poisons"))
            kill_everything_of(here.pids()["torchserve-2"])
            words = here.run.supervisor(here.state).log("torchserve-2")
            eventually(lambda: "registered was" in words.read_text(), 30)
            seen = load.of(2)
            load.wait_for(1700)
            assert load.of(2) - seen <= 4, "it does not come back"
            poisoned = here.shelf.version(3).model_copy(update={"digest": here.state.digest})
            with pytest.raises(IntegrityError):
                here.deploy(poisoned, Share(weight=30))
            load.wait_for(100)
        assert load.failed == {}, load.broken
        assert load.total >= 2000
        record("archive_poisoned", requests=load.total, failed=0)


def test_a_dead_worker_costs_what_it_held_and_down_under_load_costs_nothing(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        here.up(here.shelf.version(1))
        worker = here.ask()["pid"]
        with here.load(8) as load:
            load.wait_for(500)
            os.kill(worker, signal.SIGKILL)
            load.wait_for(1500)
        assert load.broken == {}
        # TorchServe tells it in either way.
        assert {code for code, _ in load.found} <= {200, 500, 507}
        assert sum(load.failed.values()) <= 8, "what eight clients had under way; the others waited for its successor"
        assert here.ask()["pid"] != worker

        answers: list[int] = []
        stop = threading.Event()

        def watch_readiness() -> None:
            url = f"{here.address}/v2/health/ready"
            while not stop.is_set():
                with suppress(httpx.TransportError):
                    answers.append(httpx.get(url, timeout=5).status_code)

        watcher = threading.Thread(target=watch_readiness)
        watcher.start()
        body = {"seconds": 0.02}
        with Load(here.address, clients=8, body=lambda: body) as load:
            load.wait_for(200)
            down(here.serving.platform)
            stop.set()
        watcher.join()
        assert (load.failed, dict(load.broken)) == ({}, {})
        assert load.total >= 200
        ready, _, not_ready = "".join(str(each // 100) for each in answers).partition("5")
        assert set(ready) == {"2"}
        assert not_ready, "it said that it was not ready while it still answered"
        assert set(not_ready) == {"5"}
