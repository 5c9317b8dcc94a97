"""The code digest: changes with everything that decides what a pipeline computes, and with nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from serinus.core.errors import NotFound
from serinus.engines.code import code_digest

SETTINGS = {"epochs": 3}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "inner").mkdir(parents=True)
    (folder / "project.py").write_text("a = 1\n")
    (folder / "inner" / "more.py").write_text("b = 2\n")
    return folder


def write(relative: str, text: str = "x") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return change


SWAPPED = [("project.py", "b = 2\n"), ("inner/more.py", "a = 1\n")]
CHANGES = {
    "a line": write("project.py", "a = 2\n"),
    "a line further down": write("inner/more.py", "b = 3\n"),
    "a new module": write("new.py", ""),
    "a module renamed": lambda folder: (folder / "project.py").rename(folder / "other.py"),
    "a module removed": lambda folder: (folder / "inner" / "more.py").unlink(),
    "two modules swapped": lambda folder: (
        write("project.py", "b = 2\n")(folder),
        write("inner/more.py", "a = 1\n")(folder),
    ),
}
OTHER = {
    "nothing": lambda folder: None,
    "state of runs": write(".serinus/pipelines/step.py"),
    "compiled files": write("__pycache__/project.py"),
    "a readme": write("README.md"),
    "an environment": lambda folder: (write("env/pyvenv.cfg")(folder), write("env/lib/some.py")(folder)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_code_changes_it(project, change):
    before = code_digest(project, SETTINGS)
    change(project)
    assert code_digest(project, SETTINGS) != before


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER.keys())
def test_other_files_do_not(project, change):
    before = code_digest(project, SETTINGS)
    change(project)
    assert code_digest(project, SETTINGS) == before


def test_settings_and_packed_files_change_it(project, tmp_path):
    packed = tmp_path / "handler.py"
    packed.write_text("one")
    digests = {
        code_digest(project, SETTINGS),
        code_digest(project, {"epochs": 4}),
        code_digest(project, SETTINGS, (packed,)),
    }
    packed.write_text("two")
    digests.add(code_digest(project, SETTINGS, (packed,)))
    assert len(digests) == 4


def test_it_does_not_depend_on_where_the_project_is(project, tmp_path):
    before = code_digest(project, SETTINGS)
    assert code_digest(project.rename(tmp_path / "elsewhere"), SETTINGS) == before


def test_an_engines_version_changes_it(project, monkeypatch):
    before = code_digest(project, SETTINGS)
    monkeypatch.setattr("serinus.engines.code.metadata.version", lambda name: "0")
    assert code_digest(project, SETTINGS) != before


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(NotFound, match="nowhere"):
        code_digest(tmp_path / "nowhere", SETTINGS)
