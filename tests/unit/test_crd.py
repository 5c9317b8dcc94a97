"""The CustomResourceDefinitions: a form that Kubernetes takes, and as strict as the models they are made from."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from jsonschema import Draft4Validator, Draft202012Validator
from pydantic import BaseModel

from serinus.core.crd import crd_names, custom_resource_definition, structural_schema
from serinus.core.spec import KINDS, parse_resources, parse_service
from serinus.core.spec.rules import KEYWORD, rules_of
from serinus.core.status import STATUSES
from tests.support_spec import BEYOND_SCHEMA, DEPLOYMENT, TOGETHER, TRAINING, WRONG, changed

ROOT = Path(__file__).parents[2]
FORBIDDEN = {"$ref", "definitions", "$defs", "oneOf", "title", "const", "examples", "patternProperties"}
ENVELOPE = {"apiVersion", "kind"}


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema node with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}.{key}")


def plain(schema: Any) -> Any:
    """The schema as JSON Schema draft 4, on which OpenAPI 3.0 rests: what OpenAPI adds, written out."""
    if isinstance(schema, list):
        return [plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: plain(value) for key, value in schema.items() if not key.startswith("x-")}
    if schema.get("x-kubernetes-int-or-string"):
        result["type"] = ["integer", "string"]
    if result.pop("nullable", False) is True:
        result["type"] = [result["type"], "null"]
    return result


def accepts(document: dict[str, Any]) -> bool:
    """Whether an API server's schema takes it. (Unknown fields are dropped there, or refused by kubectl.)"""
    schema = structural_schema(KINDS[document["kind"]])
    return Draft4Validator(plain(schema)).is_valid(document)


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_is_structural(kind: str) -> None:
    for path, node in nodes(structural_schema(KINDS[kind])):
        assert not FORBIDDEN & node.keys(), path
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert node.get("additionalProperties") is not False, path
        assert not ("properties" in node and "additionalProperties" in node), path
        for junctor in ("anyOf", "allOf"):
            for branch in node.get(junctor, []):
                assert not {"type", "description", "default", "nullable", "additionalProperties"} & branch.keys(), path


@pytest.mark.parametrize("part", ["spec", "status"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_described(kind: str, part: str) -> None:
    schema = structural_schema(KINDS[kind])["properties"][part]
    undescribed = [path for path, node in nodes(schema, part) if not node.get("description")]
    assert [path for path in undescribed if not path.endswith(".items")] == []


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_filled_into_a_status(kind: str) -> None:
    for path, node in nodes(structural_schema(KINDS[kind])["properties"]["status"], "status"):
        assert not {"default", "nullable", "x-kubernetes-preserve-unknown-fields"} & node.keys(), path


def models() -> set[type[BaseModel]]:
    """Every model of both resources, spec and status."""
    found: set[type[BaseModel]] = set()
    pending: list[Any] = [*KINDS.values(), *STATUSES.values()]
    while pending:
        each = pending.pop()
        if isinstance(each, type) and issubclass(each, BaseModel) and each not in found:
            found.add(each)
            pending += [field.annotation for field in each.model_fields.values()]
        pending += get_args(each)
    return found


def test_no_check_across_fields_is_the_laptops_alone() -> None:
    assert len(models()) > 30
    checks = {each: len(each.__pydantic_decorators__.model_validators) for each in models()}
    assert {each.__name__ for each, count in checks.items() if count != len(rules_of(each))} == set()


def test_every_rule_reaches_the_definitions_and_is_broken_by_a_test() -> None:
    told = {rule.words for each in models() for rule in rules_of(each)}
    schemas = [structural_schema(model) for model in KINDS.values()]
    held = {each["message"] for schema in schemas for _, node in nodes(schema) for each in node.get(KEYWORD, [])}
    assert told
    assert told <= held
    assert {words for words in told if not any(allowed in words for *_, allowed in TOGETHER)} == set()


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_valid_by_themselves(kind: str) -> None:
    for path, node in nodes(structural_schema(KINDS[kind])):
        if "default" in node:
            assert Draft4Validator(plain(node)).is_valid(node["default"]), path


def defaulted(schema: dict[str, Any], value: Any) -> Any:
    """What an API server makes of a value: defaults filled in from the top down."""
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            if name not in value and "default" in child:
                value[name] = copy.deepcopy(child["default"])
            if name in value:
                value[name] = defaulted(child, value[name])
        if isinstance(schema.get("additionalProperties"), dict):
            value = {name: defaulted(schema["additionalProperties"], each) for name, each in value.items()}
    return value


@pytest.mark.parametrize("document", [TRAINING, DEPLOYMENT], ids=lambda each: each["kind"])
def test_the_schemas_defaults_are_the_models(document: dict[str, Any]) -> None:
    filled = defaulted(structural_schema(KINDS[document["kind"]]), copy.deepcopy(document))
    assert filled != document
    [by_server], [by_model] = parse_resources([filled], KINDS, "x"), parse_resources([document], KINDS, "x")
    assert by_server == by_model


def test_good_specs_are_taken() -> None:
    assert accepts(TRAINING)
    assert accepts(DEPLOYMENT)
    assert accepts(changed(DEPLOYMENT, "spec.model.version", 3))
    assert accepts(changed(DEPLOYMENT, "spec.model.version", "challenger"))
    assert accepts(changed(TRAINING, "spec.windows.length", None))
    assert accepts(changed(TRAINING, "spec.training.parameters", {"layers": [64, 32], "deep": {"dropout": 0.1}}))


def expressible(document: dict[str, Any], path: str, value: Any) -> bool:
    """Whether a schema can refuse it: Kubernetes drops unknown fields, and guards the envelope by itself."""
    known = {at for at, _ in nodes(structural_schema(KINDS[document["kind"]]))}
    known |= {at.replace(".additionalProperties", ".weather") for at in known}
    # Draft 4 does not judge formats; an API server does judge `date-time`.
    return f".{path}" in known and path not in ENVELOPE and path != "spec.windows.start"


EXPRESSIBLE = [(document, path, value) for document, path, value, _ in WRONG if expressible(document, path, value)]


@pytest.mark.parametrize(("document", "path", "value"), EXPRESSIBLE)
def test_what_the_model_refuses_the_schema_refuses(document: dict[str, Any], path: str, value: Any) -> None:
    assert not accepts(changed(document, path, value))


def test_most_mistakes_can_be_told_by_a_schema() -> None:
    assert len(EXPRESSIBLE) >= len(WRONG) - 6


def test_the_schema_needs_a_start_or_a_length() -> None:
    # What an editor checks by says it as alternatives, what a cluster checks by as a rule (see tests/cluster).
    for_editors = Draft202012Validator(KINDS["ContinuousTraining"].model_json_schema())
    assert not for_editors.is_valid(changed(TRAINING, "spec.windows", {"holdout": "31d"}))
    assert for_editors.is_valid(changed(TRAINING, "spec.windows", {"length": "60d"}))
    windows = structural_schema(KINDS["ContinuousTraining"])["properties"]["spec"]["properties"]["windows"]
    assert "has(self.start) || has(self.length)" in [each["rule"] for each in windows[KEYWORD]]
    assert accepts(changed(TRAINING, "spec.windows", {"length": "60d"}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_default_that_a_rule_judges_is_whole(kind: str) -> None:
    # An API server tries the rules on the default before it fills in what is in it.
    for path, node in nodes(structural_schema(KINDS[kind])):
        if KEYWORD in node and "default" in node and "properties" in node:
            assert defaulted(node, copy.deepcopy(node["default"])) == node["default"], path


def test_some_mistakes_are_beyond_a_schema() -> None:
    crons = [(document, path, value) for document, path, value, _ in BEYOND_SCHEMA if path.endswith("cron")]
    assert all(accepts(changed(document, path, value)) for document, path, value in crons)


@pytest.mark.parametrize("kind", KINDS)
def test_the_definition_names_itself(kind: str) -> None:
    definition = custom_resource_definition(kind)
    assert definition["metadata"]["name"] in crd_names()
    assert definition["metadata"]["name"] == f"{definition['spec']['names']['plural']}.{definition['spec']['group']}"
    [version] = definition["spec"]["versions"]
    assert (version["served"], version["storage"], version["subresources"]) == (True, True, {"status": {}})
    assert yaml.safe_load(yaml.safe_dump(definition)) == definition
    assert "&id" not in yaml.safe_dump(definition)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_lead_to_fields(kind: str) -> None:
    schema = structural_schema(KINDS[kind])
    paths = {path for path, _ in nodes(schema)}
    for column in custom_resource_definition(kind)["spec"]["versions"][0]["additionalPrinterColumns"]:
        path = column["jsonPath"].replace("[0]", ".items")
        assert path in paths or path == ".metadata.creationTimestamp"


def test_the_example_is_taken_by_model_and_schema() -> None:
    documents = list(yaml.safe_load_all((ROOT / "examples/flights/serinus.yaml").read_text(encoding="utf-8")))
    assert parse_service(documents, "serinus.yaml").deployment.spec.model.name == "flights"
    as_json = yaml.load_all((ROOT / "examples/flights/serinus.yaml").read_text(encoding="utf-8"), yaml.BaseLoader)
    for document, text in zip(documents, as_json, strict=True):
        start = text["spec"].get("windows", {}).get("start")
        assert accepts(changed(document, "spec.windows.start", start) if start else document)
