"""Makes a new project folder from the templates in the package."""

from __future__ import annotations

import logging
import re
import tempfile
from importlib.resources import files
from pathlib import Path
from string import Template

from serinus.core.errors import Conflict, InvalidInput
from serinus.core.spec.common import NAME_PATTERN
from serinus.engines.files import write_text

_SUFFIX = ".template"
_log = logging.getLogger(__name__)


def create(name: str, folder: Path) -> list[Path]:
    """Write a new, runnable project.

    Args:
        name: the model's name: a Kubernetes name that begins with a letter.
        folder: where to; it may exist only if it is empty.

    Returns:
        The files written, in order of name.

    Raises:
        InvalidInput: the name cannot name a resource and a Python class.
        Conflict: the folder holds something; nothing is overwritten.
    """
    if not re.fullmatch(NAME_PATTERN, name) or not name[0].isalpha() or len(name) > 63:
        hint = "use lower-case letters, digits and inner hyphens, a letter first, 63 at most: parcels"
        raise InvalidInput(f"{name!r} cannot name a project", hint=hint)
    taken = folder.exists() or folder.is_symlink()
    if taken and not (folder.is_dir() and not any(folder.iterdir())):
        raise Conflict(f"{folder} exists and is not an empty folder", hint="choose another name or --directory")
    words = {"name": name, "class_name": "".join(part.capitalize() for part in name.split("-"))}
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Built beside its place and moved there whole: a project is never half there.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        built = Path(scratch) / "project"
        names = _write(built, words)
        built.replace(folder)
    _log.info("project %s created in %s", name, folder)
    return [folder / each for each in names]


def _write(folder: Path, words: dict[str, str]) -> list[str]:
    templates = files("serinus.templates").joinpath("project")
    names = []
    for template in sorted(templates.iterdir(), key=lambda each: each.name):
        if template.name.endswith(_SUFFIX):
            target = template.name.removesuffix(_SUFFIX).replace("gitignore", ".gitignore")
            write_text(folder / target, Template(template.read_text(encoding="utf-8")).substitute(words))
            names.append(target)
    return names
