"""What both resources share: Kubernetes' envelope, strictness, and reading every mistake at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from serinus.core.errors import InvalidSpec, Problem
from serinus.core.spec.rules import KEYWORD, rules_of

GROUP = "serinus.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, min_length=1, max_length=63)]

ENTRY_POINT_PATTERN = r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$"
EntryPoint = Annotated[str, Field(pattern=ENTRY_POINT_PATTERN)]

PATTERN_WORDS = {
    NAME_PATTERN: "lower-case letters, digits and inner hyphens, 1 to 63 of them",
    ENTRY_POINT_PATTERN: "module:Class, such as project:Flights",
}
_WORDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
    "literal_error": "{expected}",
    "invalid-json-value": "text, a number, true or false, null, a list or a mapping (quote a date)",
}


class SpecModel(BaseModel):
    """Base of every spec object: camelCase in YAML, nothing converted or ignored silently, immutable once read."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema, with what only code can check added for a cluster's API server."""
        found = handler.resolve_ref_schema(handler(schema))
        if rules := rules_of(cls):
            found[KEYWORD] = [each.schema() for each in rules]
        return found


class Metadata(BaseModel):
    """The parts of Kubernetes' object metadata that Serinus reads; the rest passes through untouched."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    name: Name
    """Name of the resource, unique in its namespace and kind."""
    namespace: Name = "default"
    """Namespace of the resource on a cluster."""


class Resource(SpecModel):
    """Kubernetes' envelope around a spec."""

    api_version: Literal["serinus.dev/v1alpha1"]
    """Group and version of this schema."""
    metadata: Metadata
    """Kubernetes' object metadata."""


def parse_resources(documents: Iterable[Any], kinds: Mapping[str, type[Resource]], origin: str) -> list[Resource]:
    """Validate YAML documents as resources, strictly: the names and types that a cluster's API server takes too.

    Args:
        documents: parsed documents, empty ones skipped.
        kinds: the allowed kinds.
        origin: what to call the file in an error.

    Raises:
        InvalidSpec: with every problem of every document, each with its path, what was found, what is allowed.
    """
    found, problems = collect_resources(documents, kinds)
    if problems:
        raise InvalidSpec(origin, problems)
    return found


def collect_resources(
    documents: Iterable[Any], kinds: Mapping[str, type[Resource]]
) -> tuple[list[Resource], list[Problem]]:
    """The documents that are valid resources, and every problem of the others."""
    found: list[Resource] = []
    problems: list[Problem] = []
    for position, document in enumerate(documents):
        if document is None:
            continue
        if not isinstance(document, dict):
            problems.append(Problem(path=f"[{position}]", found=_describe(document), allowed="a resource: a mapping"))
            continue
        kind = document.get("kind")
        if not isinstance(kind, str) or kind not in kinds:
            at = "nothing" if kind is None else repr(kind)
            problems.append(Problem(path=f"[{position}].kind", found=at, allowed=" or ".join(sorted(kinds))))
            continue
        try:
            found.append(kinds[kind].model_validate(document, by_alias=True, by_name=False))
        except ValidationError as error:
            problems.extend(_problem(kinds[kind], kind, item) for item in error.errors(include_url=False))
    return found, problems


def _problem(model: type[BaseModel], kind: str, item: Any) -> Problem:
    loc = item["loc"]
    path = kind + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    value = item.get("input")
    if item["type"] == "missing":
        return Problem(path=path, found="nothing", allowed="a value: this field is required")
    if item["type"] == "extra_forbidden":
        known = _fields(model, loc[:-1])
        return Problem(path=path, found=f"an unknown field with {_describe(value)}", allowed=", ".join(known))
    return Problem(path=path, found=_describe(value), allowed=_allowed(item))


def _allowed(item: Any) -> str:
    context = item.get("ctx", {})
    words = PATTERN_WORDS.get(context.get("pattern", ""), _WORDS.get(item["type"]))
    if words is None:
        return str(item["msg"]).removeprefix("Value error, ")
    return words.format(**context)


def _describe(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping) and len(repr(value)) >= 80:
        return "a mapping with " + ", ".join(map(str, value))
    return repr(value) if len(repr(value)) < 80 else f"a {type(value).__name__} of {len(repr(value))} characters"


def _fields(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The names of the fields of the model at a location, as YAML writes them."""
    for part in loc:
        inner = next((info.annotation for name, info in model.model_fields.items() if part in (name, info.alias)), None)
        candidates = [inner, *get_args(inner)] if inner is not None else []
        nested = [each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)]
        # A key of a mapping, such as a view's name, is no field: the model stays.
        model = nested[0] if nested else model
    return [info.alias or name for name, info in model.model_fields.items()]
