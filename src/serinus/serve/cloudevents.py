"""CloudEvents around requests and answers: in binary mode attributes are headers, in structured mode the body wraps the
data. Answers carry the type and source that KServe gives them, so that triggers written for it go on working.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from serinus.core.errors import InvalidInput, Problem
from serinus.serve.fields import describe

Mode = Literal["binary", "structured"]

STRUCTURED = "application/cloudevents+json"
_FAMILY = "application/cloudevents"
_MARK = "ce-specversion"
_REQUIRED = ("specversion", "id", "source", "type")
_VERSIONS = ("1.0", "0.3")


def mode_of(headers: Mapping[str, Any]) -> Mode | None:
    """How a request is an event, if it is one. Names of headers are in lower case.

    Raises:
        InvalidInput: attributes are missing, or it is a kind of event that is not taken.
    """
    content_type = headers.get("content-type")
    if isinstance(content_type, str) and content_type.lower().startswith(_FAMILY):
        if content_type.partition(";")[0].strip().lower() == STRUCTURED:
            return "structured"
        raise InvalidInput(str(Problem("header content-type", describe(content_type), f"{STRUCTURED}, one event")))
    if _MARK not in headers:
        return None
    _check({name: headers.get(f"ce-{name}") for name in _REQUIRED}, "header ce-")
    return "binary"


def is_envelope(content: Any) -> bool:
    """Whether a JSON body wraps its data, whatever its content type says (KServe takes it for an event too)."""
    return isinstance(content, dict) and all(name in content for name in _REQUIRED)


def data(envelope: Any) -> Any:
    """The data of a structured event, decoded.

    Raises:
        InvalidInput: it is no event, or its data cannot be read.
    """
    if not isinstance(envelope, dict):
        raise InvalidInput(str(Problem("body", describe(envelope), "a CloudEvent, an object")))
    _check(envelope, "body.")
    if "data" in envelope:
        return envelope["data"]
    try:
        return orjson.loads(base64.b64decode(envelope.get("data_base64", ""), validate=True))
    except (binascii.Error, TypeError, ValueError) as error:
        raise InvalidInput(str(Problem("body.data", "nothing that is JSON", "a request as JSON"))) from error


def wrap(mode: Mode, model: str, headers: dict[str, str], body: bytes) -> tuple[dict[str, str], bytes]:
    """The headers and body of an answer as an event of the mode that its request had."""
    attributes = {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": f"io.kserve.inference.{model}",
        "type": "io.kserve.inference.response",
        "time": datetime.now(UTC).isoformat(),
    }
    if mode == "binary":
        return headers | {f"ce-{name}": value for name, value in attributes.items()}, body
    head = orjson.dumps(attributes | {"datacontenttype": "application/json"})
    # The data is JSON already: it is put in as it is, instead of being read and written again.
    return {"content-type": STRUCTURED}, b'%b,"data":%b}' % (head[:-1], body)


def _check(attributes: Mapping[str, Any], prefix: str) -> None:
    for name in _REQUIRED:
        value = attributes.get(name)
        if not isinstance(value, str) or not value:
            found = "nothing" if value is None else describe(value)
            raise InvalidInput(str(Problem(f"{prefix}{name}", found, "a string that is not empty, as in CloudEvents")))
    if attributes["specversion"] not in _VERSIONS:
        found = describe(attributes["specversion"])
        raise InvalidInput(str(Problem(f"{prefix}specversion", found, ", ".join(_VERSIONS))))
