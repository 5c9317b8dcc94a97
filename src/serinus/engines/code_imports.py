"""Which files of a project its own modules import, read from the sources without running them.

A project's folder holds more than what a pipeline computes with: a demo, notebooks' helpers, tests. Only what can be
reached from the project's class and its feature definitions counts. Where a file may import what its text does not
name, or cannot be read as Python, every file counts: too much computed again is a delay, too little is a wrong answer.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

from serinus.core.errors import NotFound

_SKIPPED = {"__pycache__", "build", "dist", "node_modules", "site-packages"}
_DYNAMIC = {
    "__import__",
    "exec",
    "exec_module",
    "import_module",
    "load_module",
    "run_module",
    "run_path",
    "spec_from_file_location",
}
_Name = tuple[str, ...]
"""A module's dotted name below the project's folder, in parts; the folder itself is `()`."""


def sources(path: Path) -> Iterator[Path]:
    """All `.py` files below a folder in order, hidden folders and environments excepted; a file is its own.

    Raises:
        NotFound: there is no such file or folder.
    """
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise NotFound(f"there is no {path} to take a code digest of")
    for entry in sorted(path.iterdir()):
        if entry.name.startswith(".") or entry.name in _SKIPPED or (entry / "pyvenv.cfg").exists():
            continue
        if entry.is_dir():
            yield from sources(entry)
        elif entry.suffix == ".py":
            yield entry


def imported(project: Path, modules: Sequence[str]) -> list[Path]:
    """The files below `project` that importing its `modules` can run, in order; all of them where that is unclear.

    A module that does not exist adds nothing: whoever imports it will say so.

    Raises:
        NotFound: there is no such folder.
    """
    whole = list(sources(project))
    found: set[Path] = set()
    waiting = [tuple(module.split(".")) for module in modules]
    seen: set[_Name] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        waiting += [name[:length] for length in range(1, len(name))]  # its packages run first
        for path, package in _files(project, name):
            found.add(path)
            named = _named(path, package)
            if named is None:
                return whole
            waiting += named
    return sorted(found)


def _files(project: Path, name: _Name) -> Iterator[tuple[Path, _Name]]:
    """The files that a name may stand for, each with the package that its relative imports begin at."""
    module, package = project.joinpath(*name).with_suffix(".py"), project.joinpath(*name, "__init__.py")
    if module.is_file():
        yield module, name[:-1]
    if package.is_file():
        yield package, name


def _named(path: Path, package: _Name) -> list[_Name] | None:
    """Modules of the project that a file may import, relatively or not; None where its text does not tell."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return None
    found: list[_Name] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if any(alias.name in _DYNAMIC for alias in node.names):
                return None
            if node.level > len(package) + 1:
                continue  # above the project: the import fails
            start = package[: len(package) + 1 - node.level] if node.level else ()
            base = (*start, *(node.module.split(".") if node.module else ()))
            found += [base, *((*base, alias.name) for alias in node.names)]
        elif (isinstance(node, ast.Name) and node.id in _DYNAMIC) or (
            isinstance(node, ast.Attribute) and node.attr in _DYNAMIC
        ):
            return None
    return [name for name in found if name]
