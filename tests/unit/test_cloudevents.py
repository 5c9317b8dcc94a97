"""Requests and answers as CloudEvents; the forms are those of the specification's own package."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent, from_http

from serinus.core.errors import InvalidInput
from serinus.core.signature import Column, Signature
from serinus.serve.answers import Results, Writer
from serinus.serve.codec import parse
from serinus.serve.fields import Schema

COLUMN = Column(name="hour", kind="number", dtype="Int64")
SCHEMA = Schema.of(
    Signature(model="toy", feature_service="toy", join_keys={"place": "String"}, views=(), columns=(COLUMN,)), "wall"
)
ROW = {"place": "JFK", "hour": 3}
EVENT = CloudEvent({"type": "ask", "source": "test", "id": "7"}, {"instances": [ROW]})
ATTRIBUTES = {"specversion": "1.0", "id": "7", "source": "test", "type": "ask"}


def read(headers: dict[str, str], body: Any) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse({"x-serinus-protocol": "v1", **headers}, content, SCHEMA, 4)


@pytest.mark.parametrize("convert", [to_binary, to_structured])
def test_an_event_is_answered_by_an_event_of_its_mode(convert: Any) -> None:
    request = read(*convert(EVENT))
    assert request.by_column(["place"]) == {"place": ["JFK"]}
    answer = Writer("toy", 3).write(request, Results(np.array([0.5]), ["p"]))
    assert ("ce-id" in answer.headers) == (convert is to_binary)
    back = from_http(answer.headers, answer.body)
    assert (back["type"], back["source"]) == ("io.kserve.inference.response", "io.kserve.inference.toy")
    assert back["id"] != "7"
    assert back.data == {"predictions": [{"probability": 0.5, "prediction_id": "p", "model_version": "3"}]}


def test_data_may_be_base64_and_an_envelope_needs_no_content_type() -> None:
    packed = base64.b64encode(json.dumps({"instances": [ROW]}).encode()).decode()
    assert read({"content-type": "application/cloudevents+json"}, ATTRIBUTES | {"data_base64": packed}).rows == 1
    plain = read({"content-type": "application/json"}, ATTRIBUTES | {"data": {"instances": [ROW]}})
    assert (plain.rows, plain.event) == (1, None)


STRUCTURED = {"content-type": "application/cloudevents+json; charset=utf-8"}


@pytest.mark.parametrize(
    ("headers", "body", "words"),
    [
        ({"content-type": "application/cloudevents-batch+json"}, [], "one event"),
        (STRUCTURED, [], "a CloudEvent, an object"),
        (STRUCTURED, {"specversion": "1.0"}, "body.id: found nothing"),
        (STRUCTURED, ATTRIBUTES | {"specversion": "9"}, "body.specversion: found '9', allowed: 1.0"),
        (STRUCTURED, ATTRIBUTES, "body.data: found nothing that is JSON"),
        (STRUCTURED, ATTRIBUTES | {"data_base64": "!"}, "body.data"),
        (STRUCTURED, ATTRIBUTES | {"data_base64": 3}, "body.data"),
        (STRUCTURED, ATTRIBUTES | {"data": 3}, "body: found 3"),
        ({"ce-specversion": "1.0", "ce-id": "7", "ce-type": "t"}, {}, "header ce-source: found nothing"),
        ({"ce-specversion": "0.1", "ce-id": "7", "ce-type": "t", "ce-source": "s"}, {}, "header ce-specversion"),
    ],
)
def test_what_is_no_event_is_said(headers: dict[str, str], body: Any, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(headers, body)
    assert words in str(caught.value)
