"""A digest of everything, other than data, that decides what a pipeline computes.

KFP's cache compares a component's own source and its arguments, but not the code that it imports. This digest is the
argument that makes a changed line anywhere below, or another version of an engine, a reason to compute again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import serinus
from serinus.engines.code_imports import imported, sources

ENGINES = ("duckdb", "feast", "numpy", "pandas", "pyarrow", "scikit-learn", "torch", "torch-model-archiver")
"""Packages whose version can change what comes out of a step."""

_LAYERS = ("core", "engines", "training")
FEATURES = "features"
"""The module of a project with its Feast definitions."""


def project_digest(project: Path, entry_module: str) -> str:
    """SHA-256 over the project's own Python that its class and its feature definitions can run.

    Raises:
        NotFound: there is no such folder.
    """
    digest = hashlib.sha256()
    _add(digest, "project", project, imported(project, (entry_module, FEATURES)))
    return f"sha256:{digest.hexdigest()}"


def code_digest(project: Path, entry_module: str, settings: dict[str, Any], extra: Sequence[Path] = ()) -> str:
    """SHA-256 over the sources that training runs, the project's own, the engines' versions and the settings.

    Args:
        project: the project's folder.
        entry_module: its module with the project's class; what that and `features` can import of the folder counts.
        settings: the part of the spec that training depends on, as JSON.
        extra: more files or folders, such as those that are packed into the model's archive.

    Raises:
        NotFound: a file or folder is missing.
    """
    digest = hashlib.sha256()
    package = Path(serinus.__file__).parent
    for layer in _LAYERS:
        _add(digest, f"serinus/{layer}", package / layer, sources(package / layer))
    _add(digest, "project", project, imported(project, (entry_module, FEATURES)))
    for number, path in enumerate(extra):
        _add(digest, f"extra/{number}", path, sources(path))
    versions = {name: metadata.version(name) for name in ENGINES}
    digest.update(json.dumps({"settings": settings, "versions": versions}, sort_keys=True).encode())
    return f"sha256:{digest.hexdigest()}"


def _add(digest: hashlib._Hash, label: str, folder: Path, files: Iterable[Path]) -> None:
    for file in files:
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        name = file.name if file == folder else file.relative_to(folder).as_posix()
        digest.update(f"{label}/{name} {content}\n".encode())
