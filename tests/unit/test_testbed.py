"""The testbed of tests/cluster, as far as it needs no cluster: servers that are recognised, builds that are kept."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from serinus.engines.processes import ProcessId, is_alive
from tests.cluster.testbed import build
from tests.cluster.testbed.pki import Authority
from tests.cluster.testbed.processes import Servers
from tests.support import eventually

WAITS = [sys.executable, "-c", "import signal; signal.pause()"]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    found = Servers(tmp_path)
    yield found
    found.stop(*found.recorded())


def recorded(folder: Path, name: str) -> ProcessId:
    return ProcessId.model_validate_json((folder / "pid" / name).read_text(encoding="utf-8"))


def runs(process: ProcessId, command: list[str]) -> bool:
    """Whether the process has become the command that it was started for."""
    told = Path(f"/proc/{process.pid}/cmdline").read_text(encoding="utf-8").split("\0")[:-1]
    return told == command


def test_a_server_that_runs_is_not_started_again(servers: Servers, tmp_path: Path) -> None:
    servers.start("one", WAITS, [])
    first = recorded(tmp_path, "one")
    eventually(lambda: runs(first, WAITS))
    servers.start("one", WAITS, [])
    assert recorded(tmp_path, "one") == first
    servers.check()
    other = [*WAITS, "--other"]
    servers.start("one", other, [])
    assert not is_alive(first)
    assert is_alive(recorded(tmp_path, "one"))
    servers.stop("one")
    assert servers.recorded() == []


def test_a_server_that_has_ended_says_why(servers: Servers, tmp_path: Path) -> None:
    servers.start("short", [sys.executable, "-c", "import sys; sys.exit('no room')"], [])
    eventually(lambda: not is_alive(recorded(tmp_path, "short")))
    with pytest.raises(RuntimeError, match="short has ended:\nno room"):
        servers.check()


def test_a_record_of_another_process_is_not_believed(servers: Servers, tmp_path: Path) -> None:
    servers.start("ours", WAITS, [])
    alive = recorded(tmp_path, "ours")
    stale = alive.model_copy(update={"started": alive.started - 1})
    (tmp_path / "pid" / "stale").write_text(stale.model_dump_json(), encoding="utf-8")
    servers.stop("stale")
    assert is_alive(alive)


def test_a_build_is_known_by_what_it_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.digest()
    for name in ("go.mod", "go.sum", "build.sh"):
        (tmp_path / name).write_bytes((build.HERE / name).read_bytes())
    (tmp_path / "cmd" / "hyperkube").mkdir(parents=True)
    for source in (build.HERE / "cmd" / "hyperkube").iterdir():
        (tmp_path / "cmd" / "hyperkube" / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(build, "HERE", tmp_path)
    assert build.digest() == before
    (tmp_path / "go.sum").write_text("", encoding="utf-8")
    assert build.digest() != before


def test_what_was_built_is_taken_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="install Go"):
        build.programs("api")
    built = tmp_path / "serinus" / "testbed" / f"api-{build.digest()}"
    built.mkdir()
    assert build.programs("api") == built


def test_clients_are_known_by_user_and_groups(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    path = authority.client("admin", "ada", "system:masters", "staff", server="https://10.99.0.1:6443")
    subject = x509.load_pem_x509_certificate((tmp_path / "admin.crt").read_bytes()).subject
    assert subject.rfc4514_string() == "CN=ada,O=staff,O=system:masters"
    assert path.stat().st_mode & 0o077 == 0
