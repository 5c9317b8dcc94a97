"""The OpenAPI document follows from the signature, and says what the codec takes."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from serinus.core.inference import model_metadata
from serinus.core.signature import Column, Signature
from serinus.serve.fields import Schema
from serinus.serve.openapi import document

SIGNATURE = Signature(
    model="toy",
    feature_service="toy",
    join_keys={"place": "String", "plane": "Int32"},
    views=(),
    columns=(
        Column(name="distance", kind="number", dtype="Float64"),
        Column(name="night", kind="number", dtype="Bool"),
        Column(name="load__mean", kind="number", dtype="Float64", view="load"),
    ),
)
DOCUMENT = document(SIGNATURE, "delays", "wall", 3)
ROW = {"place": "JFK", "plane": 1, "distance": 1.5, "night": True, "id": "a", "event_timestamp": "2024-01-01T00:00:00Z"}


def fits(schema: str, value: Any) -> bool:
    whole = {"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]}
    return bool(jsonschema.Draft202012Validator(whole).is_valid(value))


def tensor(name: str, datatype: str, value: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [1], "data": [value]}


KEYS = [tensor("place", "BYTES", "JFK"), tensor("plane", "INT32", 1)]


@pytest.mark.parametrize(
    ("schema", "value", "good"),
    [
        ("Row", ROW, True),
        ("Row", {"place": None, "plane": None}, True),
        ("Row", {"plane": 1}, False),
        ("Row", ROW | {"colour": "red"}, False),
        ("Row", ROW | {"load__mean": 1.0}, False),
        ("Row", ROW | {"plane": 2**31}, False),
        ("Row", ROW | {"distance": 3.5e38}, False),
        ("V1Request", {"instances": [ROW]}, True),
        ("V1Request", {"instances": [ROW] * 4}, False),
        ("V1Request", {"instances": []}, False),
        ("PlainRequest", ROW, True),
        ("PlainRequest", [ROW, ROW], True),
        ("PlainRequest", 3, False),
        ("V2Request", {"inputs": KEYS, "outputs": [{"name": "probability"}]}, True),
        ("V2Request", {"inputs": KEYS, "outputs": [{"name": "colour"}]}, False),
        ("V2Request", {"inputs": KEYS[:1]}, False),
        ("V2Request", {"inputs": [*KEYS, tensor("night", "FP64", 1)]}, False),
    ],
)
def test_schemas_take_what_the_codec_takes(schema: str, value: Any, good: bool) -> None:
    assert fits(schema, value) is good


def test_every_reference_leads_somewhere_and_every_schema_is_one() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)

    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            own = [part["$ref"]] if "$ref" in part else []
            return own + [each for value in part.values() for each in references(value)]
        return [each for value in part for each in references(value)] if isinstance(part, list) else []

    assert {each.rpartition("/")[2] for each in references(DOCUMENT)} == set(schemas)


def test_the_models_own_time_must_be_given_where_it_is_the_clock() -> None:
    row = document(SIGNATURE, "delays", "request", 3)["components"]["schemas"]["Row"]
    assert "event_timestamp" in row["required"]
    assert "event_timestamp" not in DOCUMENT["components"]["schemas"]["Row"]["required"]


def test_metadata_names_datatypes_that_the_codec_takes() -> None:
    fields = Schema.of(SIGNATURE, "wall").fields
    found = {each["name"]: each["datatype"] for each in model_metadata(SIGNATURE)["inputs"]}
    assert found.keys() == fields.keys()
    assert all(kind in fields[name].datatypes for name, kind in found.items())
    assert found == {
        "place": "BYTES", "plane": "INT32", "distance": "FP64", "night": "BOOL", "id": "BYTES",
        "event_timestamp": "BYTES",
    }  # fmt: skip
