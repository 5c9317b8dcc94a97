"""The whole stack: supervisord, a real TorchServe, a real Envoy, the sidecar; started, changed, hurt and ended."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from serinus.cli import app
from serinus.control.deploy import deploy
from serinus.control.instance import Serving
from serinus.control.stack import Options, down, up
from serinus.control.state import RunFolder, StackState
from serinus.control.status import status
from serinus.core.errors import Conflict, EngineError, IntegrityError, InvalidInput, NotFound
from serinus.core.version import ModelVersion
from serinus.engines import processes
from serinus.engines.ports import free_ports, is_free
from tests.support import eventually
from tests.support_stack import BROKEN, Shelf, serving

pytestmark = pytest.mark.timeout(300)


class Site:
    """A project's folder, its packaged versions, and a free front port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.serving: Serving = serving(folder / ".serinus")
        self.run = RunFolder(self.serving.platform)
        self.shelf = Shelf(folder / "shelf")
        self.options = Options(port=free_ports(1)[0], ready_seconds=90)

    @property
    def state(self) -> StackState:
        found = self.run.read()
        assert found is not None
        return found

    def up(self, version: ModelVersion) -> Any:
        return up(self.serving, version, self.shelf.fetch, self.options)

    def deploy(self, version: ModelVersion) -> Any:
        return deploy(self.serving, version, self.shelf.fetch, self.options)

    def pids(self) -> dict[str, int]:
        return {each.name: each.pid for each in status(self.serving.platform).programs}

    def ask(self, body: Any = None) -> dict[str, Any]:
        answer = httpx.post(f"{self.state.address}/predictions/tiny", json=body or {}, timeout=20)
        assert answer.status_code == 200, answer.text
        content: dict[str, Any] = answer.json()
        return content


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Whatever a test does to the stack, nothing of it is left."""
    folder.mkdir(parents=True, exist_ok=True)
    found = Site(folder)
    marks = []
    try:
        yield found
        state = found.run.read()
        marks += [state.mark] if state else []
    finally:
        down(found.serving.platform)
        assert all(processes.marked(mark) == [] for mark in marks)


def test_up_serves_is_harmless_twice_and_down_ends_it_all(tmp_path: Path) -> None:
    with site(tmp_path / "project") as here:
        version = here.shelf.version(1)
        first = here.up(version)
        assert (first.model, first.version, first.already) == ("tiny", 1, False)
        mark, pids = here.state.mark, here.pids()
        assert set(pids) == {"envoy", "sidecar", "torchserve-1"}
        assert len(processes.marked(mark)) >= 5, "supervisord, Envoy, sidecar, Java and a worker"

        for path, protocol in (("/v2/models/tiny/infer", "v2"), ("/v1/models/tiny:predict", "v1")):
            answer = httpx.post(first.address + path, json={"rows": [1, 2]}).json()
            assert (answer["version"], answer["protocol"], answer["body"]) == (1, protocol, {"rows": [1, 2]})
        assert httpx.get(f"{first.address}/v2/models/tiny").json()["versions"] == ["1"]
        assert httpx.get(f"{first.address}/metrics").status_code == 200
        assert here.ask()["temporary"].endswith("torchserve-1")

        again = here.up(version)
        assert again.already
        assert here.pids() == pids
        with pytest.raises(Conflict, match="version 1 is up"):
            here.up(here.shelf.version(2))
        with pytest.raises(InvalidInput, match="another model"):
            here.deploy(version.model_copy(update={"name": "other"}))

        found = status(here.serving.platform)
        assert (found.condition, found.version, found.problems) == ("healthy", 1, ())
        assert all(each.memory > 0 for each in found.programs)
        told = CliRunner().invoke(app(), ["status", "--json", "--file", str(here.folder)])
        assert told.exit_code == 0
        assert json.loads(told.stdout)["condition"] == "healthy"

        with site(tmp_path / "other") as other:
            other.options = here.options
            with pytest.raises(Conflict, match=rf"port {here.options.port} is taken by envoy \(pid [0-9]+\)"):
                other.up(other.shelf.version(1))
            assert other.run.read() is None

        state = here.state
        assert down(here.serving.platform).was_up
        assert processes.marked(mark) == []
        assert is_free(here.options.port or 0)
        assert not down(here.serving.platform).was_up

        # As after a power cut: the state file tells of a stack that is gone, and its process id is another's now.
        own = processes.ProcessId.of(os.getpid())
        here.run.write(state.model_copy(update={"supervisor": own}))
        assert status(here.serving.platform).condition == "down"
        assert down(here.serving.platform).was_up
        assert here.run.read() is None
        told = CliRunner().invoke(app(), ["status", "--file", str(here.folder)])
        assert told.exit_code == 3
        with pytest.raises(NotFound, match="nothing is up"):
            here.deploy(version)


def test_deploy_loses_no_request_and_a_broken_version_changes_nothing(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        address = here.up(here.shelf.version(1)).address
        found: Counter[tuple[int, int]] = Counter()
        stop = threading.Event()

        def load() -> None:
            with httpx.Client(base_url=address, timeout=30) as client:
                while not stop.is_set():
                    answer = client.post("/predictions/tiny", json={"seconds": 0.005})
                    found[answer.status_code, answer.json().get("version", 0)] += 1

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            with pytest.raises(EngineError, match="there is no feature service flights_v9") as failed:
                here.deploy(here.shelf.version(2, BROKEN))
            assert "torchserve-2.log" in (failed.value.hint or "")
            assert set(here.pids()) == {"envoy", "sidecar", "torchserve-1"}
            assert here.state.stable == 1
            done = here.deploy(here.shelf.version(3))
            before = found.total()
            eventually(lambda: found.total() > before + 50)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert (done.previous, done.version, done.changed) == (1, 3, True)
        assert {status for status, _ in found} == {200}
        assert {version for _, version in found} == {1, 3}
        assert here.ask()["version"] == 3
        assert here.state.stable == 3
        assert set(here.pids()) == {"envoy", "sidecar", "torchserve-3"}
        assert sorted(path.name for path in (here.run.path / "versions").iterdir()) == ["3"]
        assert not here.deploy(
            here.shelf.version(4).model_copy(update={"version": 3, "digest": here.state.digest})
        ).changed


def test_a_dead_process_comes_back_and_a_swapped_archive_does_not(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        here.up(here.shelf.version(1))
        worker = here.ask()["pid"]
        for name in ("envoy", "torchserve-1"):
            before = here.pids()[name]
            os.kill(before, signal.SIGKILL)
            eventually(lambda name=name, before=before: here.pids()[name] not in (0, before), 30)
        eventually(lambda: status(here.serving.platform).condition == "healthy", 60, interval=0.3)
        assert here.ask()["pid"] != worker

        archive = here.state.instances[1].archive
        archive.chmod(0o644)
        archive.write_bytes(archive.read_bytes()[:-1] + b"!")
        os.kill(here.pids()["torchserve-1"], signal.SIGKILL)
        log = here.run.supervisor(here.state).log("torchserve-1")
        eventually(lambda: "damaged or swapped" in log.read_text(), 30)
        eventually(lambda: _states(here)["torchserve-1"] == "BACKOFF", 30)
        found = status(here.serving.platform)
        assert found.condition == "degraded"
        assert any("torchserve-1" in each for each in found.problems)
        assert httpx.get(f"{here.state.address}/v2/models/tiny/ready").status_code == 503
        told = CliRunner().invoke(app(), ["status", "--file", str(here.folder)])
        assert told.exit_code == 1


def _states(here: Site) -> dict[str, str]:
    return {each.name: each.state for each in status(here.serving.platform).programs}


def test_a_killed_supervisord_in_a_folder_with_a_long_and_odd_name(tmp_path: Path) -> None:
    with site(tmp_path / "100% of a #1 folder; with a name" / ("long-" * 20)) as here:
        version = here.shelf.version(1)
        here.up(version)
        state = here.state
        assert not state.runtime.is_relative_to(here.folder), "its sockets are where the path is short"
        assert state.supervisor is not None
        os.kill(state.supervisor.pid, signal.SIGKILL)
        eventually(lambda: status(here.serving.platform).condition == "degraded")
        assert processes.marked(state.mark), "its children live on"

        again = here.up(version)
        assert not again.already
        assert processes.marked(state.mark) == []
        assert not state.runtime.exists()
        assert here.ask()["version"] == 1
        os.kill(here.state.supervisor.pid, signal.SIGKILL)  # type: ignore[union-attr]
        mark, runtime = here.state.mark, here.state.runtime
        assert down(here.serving.platform).was_up
        assert processes.marked(mark) == []
        assert not runtime.exists()


def test_a_model_that_cannot_be_loaded_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        with pytest.raises(EngineError, match="ValueError: there is no feature service flights_v9") as failed:
            here.up(here.shelf.version(1, BROKEN))
        assert "Traceback" in (failed.value.hint or "") or "handler.py" in (failed.value.hint or "")
        assert here.run.read() is None
        assert is_free(here.options.port or 0)
        assert status(here.serving.platform).condition == "down"


def test_a_damaged_archive_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        version = here.shelf.version(1).model_copy(update={"digest": "sha256:" + "0" * 64})
        with pytest.raises(IntegrityError, match="expected sha256:000"):
            here.up(version)
        assert here.run.read() is None


def test_only_one_command_changes_a_stack_at_a_time(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        version = here.shelf.version(1)
        with here.run.lock(), pytest.raises(Conflict, match="another serinus command"):
            here.up(version)


def test_a_damaged_state_file_is_said(tmp_path: Path) -> None:
    here = Site(tmp_path)
    here.run.path.mkdir(parents=True)
    (here.run.path / "state.json").write_text("{")
    with pytest.raises(Conflict, match="damaged"):
        status(here.serving.platform)
