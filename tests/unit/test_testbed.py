"""The testbed of tests/cluster, as far as it needs no cluster: servers that are recognised, builds that are kept."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from serinus.engines.processes import ProcessId, is_alive
from tests.cluster.testbed import build, images
from tests.cluster.testbed.levels import LEVELS, VARIABLE, expected
from tests.cluster.testbed.pki import Authority
from tests.cluster.testbed.processes import Server, Servers
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
    servers.start(Server("one", WAITS))
    first = recorded(tmp_path, "one")
    eventually(lambda: runs(first, WAITS))
    servers.start(Server("one", WAITS))
    assert recorded(tmp_path, "one") == first
    servers.check()
    other = [*WAITS, "--other"]
    servers.start(Server("one", other))
    assert not is_alive(first)
    assert is_alive(recorded(tmp_path, "one"))
    servers.stop("one")
    assert servers.recorded() == []


def test_a_server_that_has_ended_says_why(servers: Servers, tmp_path: Path) -> None:
    servers.start(Server("short", [sys.executable, "-c", "import sys; sys.exit('no room')"]))
    eventually(lambda: not is_alive(recorded(tmp_path, "short")))
    with pytest.raises(RuntimeError, match="short has ended:\nno room"):
        servers.check()


def test_a_record_of_another_process_is_not_believed(servers: Servers, tmp_path: Path) -> None:
    servers.start(Server("ours", WAITS))
    alive = recorded(tmp_path, "ours")
    stale = alive.model_copy(update={"started": alive.started - 1})
    (tmp_path / "pid" / "stale").write_text(stale.model_dump_json(), encoding="utf-8")
    servers.stop("stale")
    assert is_alive(alive)


def test_a_build_is_known_by_what_it_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {level: build.digest(level) for level in ("api", "node", "pipelines")}
    assert len(set(before.values())) == len(before)
    shutil.copytree(build.HERE, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(build, "HERE", tmp_path / "copy")
    assert {level: build.digest(level) for level in before} == before
    (tmp_path / "copy" / "go.sum").write_text("", encoding="utf-8")
    assert build.digest("api") != before["api"]
    assert build.digest("node") != before["node"]
    assert build.digest("pipelines") == before["pipelines"]
    (tmp_path / "copy" / "kubeflow.py").write_text("", encoding="utf-8")
    assert build.digest("pipelines") != before["pipelines"]


def test_an_image_is_put_on_top_of_another(tmp_path: Path) -> None:
    for name in ("below", "above"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(name, encoding="ascii")
    images.of_folder(tmp_path / "below", tmp_path / "base.tar")
    images.on_top(tmp_path / "base.tar", tmp_path / "above", tmp_path / "both.tar")
    with tarfile.open(tmp_path / "both.tar") as archive:
        (image,) = json.loads(content(archive, "manifest.json"))
        layers = [content(archive, each) for each in image["Layers"]]
        config = json.loads(content(archive, image["Config"]))
    assert image["RepoTags"] == [images.reference("both")]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    assert [names(layer) for layer in layers] == [["below.txt"], ["above.txt"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["above", "base.tar", "below", "both.tar"]


def names(layer: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(layer)) as files:
        return files.getnames()


def content(archive: tarfile.TarFile, name: str) -> bytes:
    found = archive.extractfile(name)
    assert found is not None
    return found.read()


@pytest.mark.parametrize(("level", "there"), [("api", ["api"]), ("pipelines", list(LEVELS))])
def test_levels_have_all_of_those_before(level: str, there: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, level)
    assert [part for part in LEVELS if expected(part)] == there


def test_what_was_built_is_taken_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="install Go"):
        build.programs("api")
    built = tmp_path / "serinus" / "testbed" / f"api-{build.digest('api')}"
    built.mkdir()
    assert build.programs("api") == built


def test_clients_are_known_by_user_and_groups(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    path = authority.client("admin", "ada", "system:masters", "staff", server="https://10.99.0.1:6443")
    subject = x509.load_pem_x509_certificate((tmp_path / "admin.crt").read_bytes()).subject
    assert subject.rfc4514_string() == "CN=ada,O=staff,O=system:masters"
    assert path.stat().st_mode & 0o077 == 0
