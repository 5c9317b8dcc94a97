"""What both resources share: Kubernetes' envelope, strictness, and reading every mistake at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from serinus.core.errors import InvalidSpec, Problem

GROUP = "serinus.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, min_length=1, max_length=63)]


class SpecModel(BaseModel):
    """Base of every spec object: camelCase in YAML, unknown fields refused, immutable once read."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )


class Metadata(BaseModel):
    """The parts of Kubernetes' object metadata that Serinus reads; the rest passes through untouched."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: Name
    namespace: Name = "default"


class Resource(SpecModel):
    """Kubernetes' envelope around a spec."""

    api_version: Literal["serinus.dev/v1alpha1"]
    metadata: Metadata


def parse_resources(documents: Iterable[Any], kinds: Mapping[str, type[Resource]], origin: str) -> list[Resource]:
    """Validate YAML documents as resources.

    Args:
        documents: parsed documents, empty ones skipped.
        kinds: the allowed kinds.
        origin: what to call the file in an error.

    Raises:
        InvalidSpec: with every problem of every document, each with its path, what was found, what is allowed.
    """
    found: list[Resource] = []
    problems: list[Problem] = []
    for position, document in enumerate(documents):
        if document is None:
            continue
        kind = document.get("kind") if isinstance(document, dict) else None
        if not isinstance(kind, str) or kind not in kinds:
            at = f"[{position}].kind"
            problems.append(Problem(path=at, found=repr(kind), allowed=" or ".join(sorted(kinds))))
            continue
        try:
            found.append(kinds[kind].model_validate(document))
        except ValidationError as error:
            problems.extend(_problem(kind, item) for item in error.errors())
    if problems:
        raise InvalidSpec(origin, problems)
    return found


def _problem(kind: str, item: Any) -> Problem:
    path = kind + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"])
    value = item.get("input")
    if item["type"] == "missing":
        return Problem(path=path, found="nothing", allowed="a value: this field is required")
    if item["type"] == "extra_forbidden":
        return Problem(path=path, found=f"an unknown field with {value!r}", allowed="only the fields of the reference")
    found = repr(value) if len(repr(value)) < 80 else f"a {type(value).__name__}"
    return Problem(path=path, found=found, allowed=item["msg"].removeprefix("Value error, "))
