"""Reads `serinus.yaml`: YAML made stricter, as a key written twice would lose one of its values in silence."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from serinus.core.errors import InvalidSpec, NotFound, Problem
from serinus.core.spec import ModelService, parse_service

DEFAULT_NAME = "serinus.yaml"


def read_service(path: Path) -> ModelService:
    """Read and validate a spec file.

    Args:
        path: the file, or the folder that holds a `serinus.yaml`.

    Raises:
        NotFound: there is no such file.
        InvalidSpec: the file is not YAML, or what it says is wrong; with every problem at once.
    """
    file = path / DEFAULT_NAME if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        hint = "give the file with --file, or make a project with: serinus init NAME"
        raise NotFound(f"there is no {file}", hint=hint) from error
    except UnicodeDecodeError as error:
        problem = Problem(path=f"byte {error.start}", found="a byte that is not UTF-8", allowed="text in UTF-8")
        raise InvalidSpec(str(file), [problem]) from error
    return parse_text(text, str(file))


def parse_text(text: str, origin: str) -> ModelService:
    """Validate the text of a spec file.

    Args:
        text: YAML documents.
        origin: what to call the text in an error.

    Raises:
        InvalidSpec: it is not YAML, or what it says is wrong; with every problem at once.
    """
    return parse_service(_documents(text, origin), origin)


def _documents(text: str, origin: str) -> list[Any]:
    try:
        return list(yaml.load_all(text, Loader=_StrictLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        problem = Problem(path=at, found=error.problem or "broken YAML", allowed="YAML with each key once")
        raise InvalidSpec(origin, [problem]) from error
    except yaml.reader.ReaderError as error:
        problem = Problem(path=f"character {error.position}", found=error.reason, allowed="printable text")
        raise InvalidSpec(origin, [problem]) from error


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, but a mapping may not have a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} again", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
