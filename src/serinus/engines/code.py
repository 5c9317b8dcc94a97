"""A digest of everything, other than data, that decides what a pipeline computes.

KFP's cache compares a component's own source and its arguments, but not the code that it imports. This digest is the
argument that makes a changed line anywhere below, or another version of an engine, a reason to compute again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import serinus
from serinus.core.errors import NotFound

ENGINES = ("duckdb", "feast", "numpy", "pandas", "pyarrow", "scikit-learn", "torch", "torch-model-archiver")
"""Packages whose version can change what comes out of a step."""

_LAYERS = ("core", "engines", "training")
_SKIPPED = {"__pycache__", "build", "dist", "node_modules", "site-packages"}


def code_digest(project: Path, settings: dict[str, Any], extra: tuple[Path, ...] = ()) -> str:
    """SHA-256 over the sources that training runs, the project's own, the engines' versions and the settings.

    Args:
        project: the project's folder; all `.py` files below it count, hidden folders and environments excepted.
        settings: the part of the spec that training depends on, as JSON.
        extra: more files or folders, such as those that are packed into the model's archive.

    Raises:
        NotFound: a file or folder is missing.
    """
    digest = hashlib.sha256()
    package = Path(serinus.__file__).parent
    for layer in _LAYERS:
        _add_sources(digest, f"serinus/{layer}", package / layer)
    _add_sources(digest, "project", project)
    for number, path in enumerate(extra):
        _add_sources(digest, f"extra/{number}", path)
    versions = {name: metadata.version(name) for name in ENGINES}
    digest.update(json.dumps({"settings": settings, "versions": versions}, sort_keys=True).encode())
    return f"sha256:{digest.hexdigest()}"


def _add_sources(digest: hashlib._Hash, label: str, path: Path) -> None:
    for file in _sources(path):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        name = file.name if file == path else file.relative_to(path).as_posix()
        digest.update(f"{label}/{name} {content}\n".encode())


def _sources(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise NotFound(f"there is no {path} to take a code digest of")
    for entry in sorted(path.iterdir()):
        if entry.name.startswith(".") or entry.name in _SKIPPED or (entry / "pyvenv.cfg").exists():
            continue
        if entry.is_dir():
            yield from _sources(entry)
        elif entry.suffix == ".py":
            yield entry
