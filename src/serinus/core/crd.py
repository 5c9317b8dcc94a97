"""The resources as Kubernetes CustomResourceDefinitions, made from the same models that validate the YAML.

Kubernetes takes a *structural* schema: everything in place (no references), one type a field, no `additionalProperties:
false` (it drops unknown fields instead). What pydantic writes is JSON Schema, so it is rewritten rule by rule. Checks
across fields come along as CEL (`spec/rules.py`). What neither can say stays with the operator: a cron expression that
names a day which exists, names in one resource that refer to another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from serinus.core.spec.common import GROUP, NAME_PATTERN, VERSION, Resource
from serinus.core.spec.rules import KEYWORD
from serinus.core.spec.service import KINDS
from serinus.core.status import STATUSES
from serinus.core.times import format_duration

_PLURALS = {"ContinuousTraining": "continuoustrainings", "ModelDeployment": "modeldeployments"}
_SHORT = {"ContinuousTraining": "ct", "ModelDeployment": "md"}
# Heading, type and path of what `kubectl get` shows; the columns of `_WIDE` only with `-o wide`.
_COLUMNS = {
    "ContinuousTraining": [
        ("Deployment", "string", ".spec.deployment"),
        ("Schedule", "string", ".spec.triggers.schedule.cron"),
        ("Last Run", "date", ".status.lastRun.started"),
        ("Result", "string", ".status.lastRun.result"),
    ],
    "ModelDeployment": [
        ("Phase", "string", ".status.phase"),
        ("Stable", "integer", ".status.stable"),
        ("Canary", "integer", ".status.canary"),
        ("Weight", "number", ".status.weight"),
    ],
}
_AGE = ("Age", "date", ".metadata.creationTimestamp")
_WIDE = {
    "ContinuousTraining": [
        ("Next Run", "string", ".status.nextRun"),
        ("Version", "integer", ".status.lastRun.version"),
    ],
    "ModelDeployment": [
        ("Model", "string", ".spec.model.name"),
        ("Wanted", "string", ".spec.model.version"),
        ("Shadow", "number", ".status.shadow"),
        ("Why", "string", ".status.decisions[0].reasons[0]"),
    ],
}
_DROPPED = {"$defs", "title", "additionalProperties", "const", "properties", "items", "default"}
_ORDER = (
    "type",
    "description",
    "default",
    "nullable",
    "format",
    "enum",
    "minLength",
    "maxLength",
    "pattern",
    KEYWORD,
    "required",
)

Schema = dict[str, Any]


class _JsonSchema(GenerateJsonSchema):
    """Pydantic's generator, with durations written as our YAML writes them."""

    def encode_default(self, dft: Any) -> Any:
        return format_duration(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


def crd_names() -> list[str]:
    """The names of the definitions, `<plural>.<group>`."""
    return [f"{_PLURALS[kind]}.{GROUP}" for kind in KINDS]


def custom_resource_definition(kind: str) -> Schema:
    """The CustomResourceDefinition of one of `KINDS`, as plain data ready for YAML."""
    model = KINDS[kind]
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": structural_schema(model)},
        "subresources": {"status": {}},
        "additionalPrinterColumns": _columns(kind),
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{_PLURALS[kind]}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": _PLURALS[kind],
                "singular": kind.lower(),
                "shortNames": [_SHORT[kind]],
                "categories": ["serinus"],
            },
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def structural_schema(model: type[Resource]) -> Schema:
    """A resource's schema in Kubernetes' structural form, descriptions and defaults included."""
    schema = model.model_json_schema(by_alias=True, schema_generator=_JsonSchema)
    kind = schema["properties"]["kind"]["const"]
    spec = _rewrite(schema["properties"]["spec"], schema["$defs"])
    found = {
        "type": "object",
        "description": schema["description"],
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"Group and version of this schema: {GROUP}/{VERSION}."},
            "kind": {"type": "string", "description": f"What this resource is: {kind}."},
            # Kubernetes owns metadata; of its fields a definition may restrict the name alone.
            "metadata": {
                "type": "object",
                "properties": {"name": {"type": "string", "pattern": NAME_PATTERN, "maxLength": 63}},
            },
            "spec": spec,
            "status": status_schema(kind),
        },
    }
    # Through JSON, so that no two places share an object: YAML would write the second one as an alias.
    result: Schema = json.loads(json.dumps(found))
    return result


def status_schema(kind: str) -> Schema:
    """The schema of a kind's `status`. Nothing is filled in: what the operator has not written, it has not observed."""
    schema = STATUSES[kind].model_json_schema(by_alias=True, schema_generator=_JsonSchema)
    return _observed(_rewrite(schema, schema["$defs"]))


def _observed(node: Schema) -> Schema:
    """A schema without defaults and nulls, which an observation leaves out instead."""
    result = {key: value for key, value in node.items() if key not in ("default", "nullable")}
    if "properties" in node:
        result["properties"] = {name: _observed(each) for name, each in node["properties"].items()}
    if "items" in node:
        result["items"] = _observed(node["items"])
    return result


def _columns(kind: str) -> list[Schema]:
    shown = [(0, each) for each in (*_COLUMNS[kind], _AGE)] + [(1, each) for each in _WIDE[kind]]
    return [
        {"name": name, "type": type_, "jsonPath": path} | ({"priority": priority} if priority else {})
        for priority, (name, type_, path) in shown
    ]


def _rewrite(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    """One node in structural form; `definitions` resolves its references."""
    node = _resolved(schema, definitions)
    if node.get("x-kubernetes-int-or-string"):
        return _int_or_string(node)
    node = _without_null(node, definitions)
    if KEYWORD in node:
        # One of several fields being required is a rule's to say: it names the object, not the field that was tried.
        node.pop("anyOf", None)
    result = {key: node[key] for key in sorted(node.keys() - _DROPPED, key=_position)}
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    if "const" in node:
        result["enum"] = [node["const"]]
    for bound, opposite in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if bound in result:
            # OpenAPI 3.0 writes an exclusive bound as the bound and a flag.
            result[opposite], result[bound] = result[bound], True
    if node.get("default") is not None:
        result["default"] = _default(node)
    if "properties" in node:
        result["properties"] = {name: _rewrite(each, definitions) for name, each in node["properties"].items()}
    if "items" in node:
        result["items"] = _rewrite(node["items"], definitions)
        # kubectl explain would print it below the list's own.
        result["items"].pop("description", None)
    return result | _mapping(node.get("additionalProperties"), definitions)


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    """The node with what it refers to in place; what stands beside the reference wins."""
    if "$ref" not in schema:
        return dict(schema)
    target = definitions[schema["$ref"].rpartition("/")[2]]
    return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}


def _without_null(node: Schema, definitions: Mapping[str, Any]) -> Schema:
    """`anyOf: [something, null]` as something that is `nullable`.

    Raises:
        ValueError: a union of several types, which a structural schema cannot hold.
    """
    if not any("type" in each or "$ref" in each for each in node.get("anyOf", [])):
        return node
    kept = [each for each in node["anyOf"] if each.get("type") != "null"]
    if len(kept) != 1 or len(kept) == len(node["anyOf"]):
        raise ValueError(f"a union of types has no structural form: {node}")
    own = {key: value for key, value in node.items() if key != "anyOf"}
    return {**_resolved(kept[0], definitions), **own, "nullable": True}


def _int_or_string(node: Schema) -> Schema:
    """An integer or one of some words: bounds judge integers only, and a pattern strings only."""
    number = next(each for each in node["anyOf"] if each["type"] == "integer")
    words = next(each for each in node["anyOf"] if each["type"] == "string")["enum"]
    found = {
        "x-kubernetes-int-or-string": True,
        "description": " ".join(node["description"].split()),
        "minimum": number["minimum"],
        "pattern": f"^({'|'.join(words)})$",
    }
    return found | ({"default": node["default"]} if "default" in node else {})


def _mapping(values: Any, definitions: Mapping[str, Any]) -> Schema:
    """What a free mapping becomes: typed values, or anything at all."""
    if not isinstance(values, Mapping):
        return {}
    if not _resolved(values, definitions):
        return {"x-kubernetes-preserve-unknown-fields": True}
    return {"additionalProperties": _rewrite(values, definitions)}


def _default(node: Schema) -> Any:
    """An object whose fields all have defaults of their own defaults to an empty one: they are filled in one by one.

    Not where a rule judges the object: an API server tries rules on the default as it stands.
    """
    default = node["default"]
    if not isinstance(default, dict) or "properties" not in node or node.get("required"):
        return default
    return _without_nulls(default) if KEYWORD in node else {}


def _without_nulls(value: Any) -> Any:
    """A default object without the fields that are not given by default."""
    if not isinstance(value, dict):
        return value
    return {key: _without_nulls(each) for key, each in value.items() if each is not None}


def _position(key: str) -> tuple[int, str]:
    return (_ORDER.index(key) if key in _ORDER else len(_ORDER), key)
