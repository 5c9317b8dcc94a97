"""The OpenAPI 3.1 document of one served model: a pure function of its signature, so that it says what it takes.

The front door answers it at `/openapi.json`, and the tests hold every answer against it.
"""

from __future__ import annotations

from typing import Any, Literal

from serinus.core import inference
from serinus.core.signature import Signature
from serinus.serve.fields import FLOAT32_LIMIT, Field, Schema

_JSON = "application/json"
_EVENT = "application/cloudevents+json"
_BINARY = "application/octet-stream"
_INTEGER = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
_NULLABLE_OBJECT = {"type": ["object", "null"]}
_INT32 = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
_TYPES: dict[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "integer": _INTEGER,
    "number": {"type": "number", "minimum": -FLOAT32_LIMIT, "exclusiveMaximum": FLOAT32_LIMIT},
    "boolean": {"type": "boolean"},
    "time": {"type": "string", "format": "date-time"},
    "id": {"type": ["string", "integer"]},
}
_REFUSALS = {
    400: "The body cannot be read.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    422: "No row could be answered.",
    429: "The client's quota is used up.",
    431: "The headers are too large.",
    503: "No worker is ready, or too many requests wait.",
    504: "The deadline has passed.",
}


def document(signature: Signature, model: str, clock: Literal["wall", "request"], maximum_rows: int) -> dict[str, Any]:
    """The document for a model.

    Args:
        signature: what requests carry.
        model: the name in the paths.
        clock: `request` makes `event_timestamp` a required field.
        maximum_rows: rows that a request may have.
    """
    fields = list(Schema.of(signature, clock).fields.values())
    v2 = f"/v2/models/{model}"
    paths = {
        f"{v2}/infer": {"post": _infer()},
        f"/v1/models/{model}:predict": {"post": _predict("V1Request", "V1Response", "V1 protocol")},
        f"/predictions/{model}": {"post": _predict("PlainRequest", "PlainResponse", "One object, or a list of them")},
        "/v2": {"get": _get("Server metadata", "ServerMetadata")},
        v2: {"get": _get("Model metadata: versions, inputs, outputs", "ModelMetadata")},
        "/v2/health/live": {"get": _get("Whether the server lives", "Live", 503)},
        "/v2/health/ready": {"get": _get("Whether the server takes requests", "Ready", 503)},
        f"{v2}/ready": {"get": _get("Whether the model takes requests", "Ready", 503)},
        f"/v1/models/{model}": {"get": _get("Whether the model takes requests", "Ready", 503)},
    }
    schemas = _requests(fields, maximum_rows) | _answers() | _descriptions(fields)
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Serinus: {model}", "version": "1", "description": _DESCRIPTION},
        "paths": paths,
        "components": {"schemas": schemas},
    }


_DESCRIPTION = (
    "Predictions by the Open Inference Protocol (V2), the V1 protocol, or plain objects. "
    "Each request may be a CloudEvent. V2 tensors may be binary: they follow the JSON, whose length is in the header "
    "Inference-Header-Content-Length. `inference.GRPCInferenceService` is on the same port."
)


def _requests(fields: list[Field], maximum_rows: int) -> dict[str, Any]:
    row = {
        "type": "object",
        "properties": {field.name: _value(field) for field in fields},
        "required": [field.name for field in fields if field.required],
        "additionalProperties": False,
    }
    rows = {"type": "array", "items": _ref("Row"), "minItems": 1, "maxItems": maximum_rows}
    tensors = [_tensor(field) for field in fields]
    required = [{"contains": {"properties": {"name": {"const": field.name}}}} for field in fields if field.required]
    inputs: dict[str, Any] = {
        "type": "array",
        "items": {"anyOf": tensors},
        "minItems": 1,
        "maxItems": len(tensors),
        "description": "One tensor a field, each of the same length.",
    }
    if required:
        inputs["allOf"] = required
    return {
        "Row": row,
        "V1Request": _object({"instances": rows}),
        "PlainRequest": {"anyOf": [_ref("Row"), rows]},
        "V2Request": _object(
            {
                "inputs": inputs,
                "id": {"type": ["string", "null"]},
                "parameters": _NULLABLE_OBJECT,
                "outputs": {"type": ["array", "null"], "items": _output()},
            },
            required=["inputs"],
        ),
    }


def _value(field: Field) -> dict[str, Any]:
    kind = _INT32 if field.accepts == "integer" and field.bits == 32 else _TYPES[field.accepts]
    return {"anyOf": [kind, {"type": "null"}]} if field.nullable else kind


def _tensor(field: Field) -> dict[str, Any]:
    shape = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": 2}
    properties = {
        "name": {"const": field.name},
        "shape": shape | {"description": "[n] or [n, 1]"},
        "datatype": {"enum": sorted(field.datatypes)},
        "data": {"type": "array", "items": _value(field), "minItems": 1},
        "parameters": _NULLABLE_OBJECT,
    }
    return _object(properties, required=["name", "shape", "datatype", "data"])


def _output() -> dict[str, Any]:
    return _object({"name": {"enum": list(inference.OUTPUTS)}, "parameters": _NULLABLE_OBJECT}, required=["name"])


def _answers() -> dict[str, Any]:
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    good = {
        "probability": probability,
        "prediction_id": {"type": "string"},
        "model_version": {"type": "string"},
        "stale": {"type": "array", "items": {"type": "string"}},
    }
    row = {"anyOf": [_closed(good, ["probability", "prediction_id", "model_version"]), _ref("Error")]}
    tensor = {
        "name": {"enum": list(inference.OUTPUTS)},
        "datatype": {"enum": sorted(set(inference.OUTPUTS.values()))},
        "shape": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 1},
        "data": {"type": "array", "items": {"type": ["number", "string", "null"]}},
        "parameters": _NULLABLE_OBJECT,
    }
    v2 = {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "parameters": _NULLABLE_OBJECT,
        "outputs": {"type": "array", "items": _closed(tensor, ["name", "datatype", "shape"])},
    }
    return {
        "Error": _closed({"error": {"type": "string"}}, ["error"]),
        "Answer": row,
        "V1Response": _closed({"predictions": {"type": "array", "items": _ref("Answer")}}, ["predictions"]),
        "PlainResponse": {"anyOf": [_ref("Answer"), {"type": "array", "items": _ref("Answer")}]},
        "V2Response": _closed(v2, ["model_name", "model_version", "id", "outputs"]),
    }


def _descriptions(fields: list[Field]) -> dict[str, Any]:
    described = {
        "name": {"type": "string"},
        "datatype": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
    }
    tensors = {"type": "array", "items": _closed(described, list(described))}
    texts = {"type": "array", "items": {"type": "string"}}
    server = {"name": {"type": "string"}, "version": {"type": "string"}, "extensions": texts}
    model = {"name": {"type": "string"}, "versions": texts, "platform": {"type": "string"}}
    model |= {"inputs": tensors | {"minItems": len(fields)}, "outputs": tensors}
    return {
        "ServerMetadata": _closed(server, list(server)),
        "ModelMetadata": _closed(model, list(model)),
        "Live": {"type": "object"},
        "Ready": _object({"ready": {"type": "boolean"}, "name": {"type": "string"}}, required=["ready"]),
    }


def _infer() -> dict[str, Any]:
    found = _predict("V2Request", "V2Response", "Open Inference Protocol")
    found["responses"]["200"]["content"][_BINARY] = {"schema": {"type": "string", "format": "binary"}}
    return found


def _predict(request: str, response: str, summary: str) -> dict[str, Any]:
    answers = {str(status): _answer(text, "Error") for status, text in _REFUSALS.items()}
    good = _answer("Predictions, row by row.", response)
    good["content"][_EVENT] = {"schema": {"type": "object"}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {_JSON: {"schema": _ref(request)}}},
        "responses": {"200": good, **answers},
    }


def _get(summary: str, schema: str, *others: int) -> dict[str, Any]:
    answers = {str(status): _answer("Not now.", schema) for status in others}
    return {"summary": summary, "responses": {"200": _answer(summary, schema), **answers}}


def _answer(description: str, schema: str) -> dict[str, Any]:
    return {"description": description, "content": {_JSON: {"schema": _ref(schema)}}}


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties) if required is None else required}


def _closed(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return _object(properties, required) | {"additionalProperties": False}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
