"""What every supervised process passes at each start: the archive's digest, a clean folder, then the command itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serinus.core.errors import IntegrityError, InvalidInput, NotFound
from serinus.engines.files import sha256
from serinus.serve.entry import Launch, verify

REPORT = """
import json, os
folder = os.environ["TMPDIR"]
print(json.dumps([os.getpid(), folder, os.environ["A"], os.listdir(folder)]))
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "a.mar"
    path.write_bytes(b"model")
    return path


def launch(tmp_path: Path, archive: Path) -> Launch:
    return Launch(
        command=(sys.executable, "-c", REPORT),
        environment={"A": "with 100% of a # sign"},
        temporary=str(tmp_path / "temporary"),
        archive=str(archive),
        digest=sha256(archive),
    )


def start(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "serinus.serve.entry", str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_it_becomes_the_command_with_an_empty_temporary_folder(tmp_path: Path, archive: Path) -> None:
    left = tmp_path / "temporary" / "left"
    left.mkdir(parents=True)
    launch(tmp_path, archive).write(tmp_path / "launch.json")
    with start(tmp_path / "launch.json") as process:
        out, _ = process.communicate(timeout=60)
    assert json.loads(out) == [process.pid, str(tmp_path / "temporary"), "with 100% of a # sign", []]


def test_a_swapped_archive_is_refused_with_the_exit_code_of_the_error(tmp_path: Path, archive: Path) -> None:
    launch(tmp_path, archive).write(tmp_path / "launch.json")
    archive.write_bytes(b"other")
    with start(tmp_path / "launch.json") as process:
        out, errors = process.communicate(timeout=60)
    assert process.returncode == IntegrityError.exit_code
    assert out == ""
    assert "registered was sha256:" in errors


def test_a_missing_archive_is_refused(tmp_path: Path, archive: Path) -> None:
    found = launch(tmp_path, archive)
    archive.unlink()
    with pytest.raises(NotFound, match=r"a\.mar"):
        verify(found)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"command": ["x"], "environment": {}, "unknown": 1}'])
def test_a_broken_launch_file_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "launch.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match="is not a launch file"):
        Launch.read(path)


def test_a_missing_launch_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Launch.read(tmp_path / "launch.json")


def test_the_command_and_what_it_starts_take_turns_with_others(tmp_path: Path) -> None:
    asked = "import os; print(os.sched_getscheduler(0), flush=True); "
    child = asked + f"import subprocess, sys; subprocess.run([sys.executable, '-c', {asked!r}], check=True)"
    Launch(command=(sys.executable, "-c", child), environment={}).write(tmp_path / "launch.json")
    with start(tmp_path / "launch.json") as process:
        out, _ = process.communicate(timeout=60)
    assert out.split() == [str(os.SCHED_BATCH)] * 2
