"""The code digest: changes with everything that decides what a pipeline computes, and with nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from serinus.core.errors import NotFound
from serinus.engines.code import code_digest as digest_of
from serinus.engines.code_imports import imported

SETTINGS = {"epochs": 3}


def code_digest(project: Path, settings: dict[str, int], extra: tuple[Path, ...] = ()) -> str:
    return digest_of(project, "project", settings, extra)


PROJECT = "a = 1\n\ndef model():\n    from .inner import more\n"
MORE = "from .. import project\nb = 2\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "inner").mkdir(parents=True)
    (folder / "project.py").write_text(PROJECT)
    (folder / "inner" / "more.py").write_text(MORE)
    (folder / "features.py").write_text("c = 3\n")
    (folder / "demo.py").write_text("from .project import a\nd = 4\n")
    return folder


def write(relative: str, text: str = "x") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return change


CHANGES = {
    "a line": write("project.py", PROJECT.replace("1", "2")),
    "a line further down": write("inner/more.py", MORE.replace("2", "3")),
    "a line of the feature definitions": write("features.py", "c = 4\n"),
    "a new module": write("project.py", PROJECT + "from . import demo\n"),
    "a package around a module": write("inner/__init__.py", ""),
    "a package in place of a module": write("features/__init__.py", ""),
    "a module renamed": lambda folder: (folder / "features.py").rename(folder / "other.py"),
    "a module removed": lambda folder: (folder / "inner" / "more.py").unlink(),
    "two modules swapped": lambda folder: (
        write("project.py", MORE)(folder),
        write("inner/more.py", PROJECT)(folder),
    ),
}
OTHER = {
    "nothing": lambda folder: None,
    "state of runs": write(".serinus/pipelines/step.py"),
    "compiled files": write("__pycache__/project.py"),
    "a readme": write("README.md"),
    "a module that nothing imports": write("new.py"),
    "what imports the project, not the other way": write("demo.py", "from .project import a\nd = 5\n"),
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


@pytest.mark.parametrize(
    "line",
    [
        "import importlib; importlib.import_module('.demo', __package__)",
        "from importlib import import_module as load",
        "__import__('demo')",
        "exec(open('demo.py').read())",
        "import runpy; runpy.run_path('demo.py')",
        "this is no Python",
    ],
)
def test_where_a_file_may_import_what_it_does_not_name_all_files_count(project, line):
    (project / "inner" / "more.py").write_text(line)
    assert {path.name for path in imported(project, ("project",))} >= {"features.py", "demo.py"}


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("from .inner.more import b", {"inner/more.py"}),
        ("from .inner import more as other", {"inner/more.py"}),
        ("from . import demo, features", {"demo.py", "features.py"}),
        ("from .demo import *", {"demo.py"}),
        ("import demo", {"demo.py"}),
        ("import inner.more", {"inner/more.py"}),
        ("if False:\n    from .demo import d", {"demo.py"}),
        ("import numpy.linalg, importlib.util", set()),
        ("from .. import demo", set()),
        ("from . import absent", set()),
    ],
)
def test_imports_are_followed_however_they_are_written(project, line, files):
    for path in ("inner/more.py", "demo.py", "features.py"):
        (project / path).write_text("x = 1\n")
    (project / "project.py").write_text(line)
    found = {path.relative_to(project).as_posix() for path in imported(project, ("project",))}
    assert found == files | {"project.py"}


def test_imports_are_followed_all_the_way_and_in_circles(project):
    (project / "inner" / "__init__.py").write_text("from ..demo import d\n")
    names = {path.name for path in imported(project, ("project",))}
    assert names == {"__init__.py", "project.py", "more.py", "demo.py"}


def test_the_flights_demo_is_not_part_of_what_is_computed():
    folder = Path(__file__).parents[2] / "examples" / "flights"
    names = {path.name for path in imported(folder, ("project", "features"))}
    assert names == {"data.py", "features.py", "model.py", "project.py", "sources.py", "windows.py"}
