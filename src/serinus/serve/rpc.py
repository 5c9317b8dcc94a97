"""The standard gRPC service, as Envoy hands it over: a message in its gRPC frame is the body of an HTTP/1.1 request to
TorchServe, and so is the answer (docs/decisions/0007-grpc.md). Requests become what `codec` reads from JSON.

An error has no message: its status and text are headers, and with an empty body they are what gRPC calls trailers-only.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from serinus.core import inference
from serinus.core.errors import InvalidInput, NotFound, Problem, SerinusError
from serinus.serve.messages import MESSAGES

CONTENT_TYPE = "application/grpc"
HEADERS = {"content-type": CONTENT_TYPE}
HEADER = "x-serinus-protocol"
PREFIX = "grpc/"
"""Begins the header that says the protocol of a request that came by gRPC; the method's name follows."""
INFER = "ModelInfer"

_FRAME = struct.Struct(">BI")
_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
# By HTTP status: what gRPC calls it. Anything else is INTERNAL.
_STATUS = {400: 3, 404: 5, 415: 12, 422: 3, 429: 8, 503: 14, 504: 4}
_INTERNAL = 13
_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
# Clients take some 8 kB of headers, and a character can become 12 bytes.
_TEXT = 600


class Unimplemented(InvalidInput):
    """The request uses a part of gRPC that is not offered."""


def read_infer(body: Any) -> tuple[dict[str, Any], memoryview]:
    """A ModelInferRequest as the object that a JSON request would be, and the raw contents of its tensors.

    Raises:
        InvalidInput: the body is no such message.
    """
    message = _message("ModelInferRequest", body)
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise _bad("raw_input_contents", f"{len(raw)}", f"{len(message.inputs)}, one a tensor")
    inputs = []
    for position, each in enumerate(message.inputs):
        tensor = {"name": each.name, "datatype": each.datatype, "shape": list(each.shape)}
        if raw:
            tensor["parameters"] = {"binary_data_size": len(raw[position])}
        else:
            tensor["data"] = _values(each)
        inputs.append(tensor)
    content: dict[str, Any] = {
        "id": message.id,
        "inputs": inputs,
        "outputs": [{"name": each.name} for each in message.outputs],
        "parameters": {"binary_data_output": bool(raw)},
        "target": (message.model_name, message.model_version),
    }
    return content, memoryview(b"".join(raw))


def write_infer(content: Mapping[str, Any], tail: bytes) -> bytes:
    """A ModelInferResponse of what a JSON answer would be; `tail` has the raw contents of its tensors, if any."""
    head = {name: content[name] for name in ("model_name", "model_version", "id")}
    message = MESSAGES["ModelInferResponse"](**head)
    for name, value in content.get("parameters", {}).items():
        message.parameters[name].string_param = value
    start = 0
    for tensor in content["outputs"]:
        own = message.outputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
        if "data" in tensor:
            getattr(own.contents, _CONTENTS[tensor["datatype"]]).extend(tensor["data"])
        else:
            end = start + tensor["parameters"]["binary_data_size"]
            message.raw_output_contents.append(tail[start:end])
            start = end
    return _framed(message)


def method_of(headers: Mapping[str, Any]) -> str | None:
    """The method of a request that came by gRPC; names of headers are in lower case."""
    declared = headers.get(HEADER, "")
    return declared[len(PREFIX) :] if declared.startswith(PREFIX) else None


def http_status(error: SerinusError) -> int:
    """The HTTP status for a request that is refused."""
    return 404 if isinstance(error, NotFound) else 415 if isinstance(error, Unimplemented) else 400


class Description:
    """Answers the service's other methods: whether the server and the model live, and what they take.

    That a worker answers at all says that the model is ready: where none can, TorchServe's own answer is UNAVAILABLE.
    """

    def __init__(self, model: str, version: str, metadata: Mapping[str, Any]) -> None:
        self._model = model
        self._version = version
        self._metadata = metadata

    def answer(self, method: str, body: Any) -> bytes:
        """
        Raises:
            InvalidInput: the body is not the method's message.
            Unimplemented: there is no such method.
            NotFound: it asks for another model or version.
        """
        if f"{method}Request" not in MESSAGES:
            raise Unimplemented(f"the method {method} is not offered")
        request = _message(f"{method}Request", body)
        if method.startswith("Model"):
            self.require(request.name, request.version)
        return _framed(MESSAGES[f"{method}Response"](**self._fields(method)))

    def require(self, model: str, version: str) -> None:
        """
        Raises:
            NotFound: the request is for another model, or for a version that this worker is not.
        """
        if model != self._model:
            raise NotFound(f"there is no model {model[:100]!r} here; this is {self._model}")
        if version not in ("", self._version):
            raise NotFound(
                f"version {version[:20]!r} did not get this request, version {self._version} did",
                hint="leave the version empty, or choose one by the header that docs/protocols.md names",
            )

    def _fields(self, method: str) -> dict[str, Any]:
        if method == "ServerMetadata":
            return inference.server_metadata()
        if method == "ModelMetadata":
            return {"name": self._model, "versions": [self._version], **self._metadata}
        return {"live" if method == "ServerLive" else "ready": True}


def failure_headers(status: int, text: str) -> dict[str, str]:
    """The headers of an answer without a message, for an HTTP status."""
    message = quote(text[:_TEXT], safe=_PRINTABLE)
    return {
        "content-type": CONTENT_TYPE,
        "grpc-status": str(_STATUS.get(status, _INTERNAL)),
        "grpc-message": message,
        "grpc-accept-encoding": "identity",
    }


def _message(name: str, body: Any) -> Any:
    if not isinstance(body, bytes | bytearray) or len(body) < _FRAME.size:
        raise _bad("body", "no gRPC message", f"one {name} in its frame")
    compressed, length = _FRAME.unpack_from(body)
    if compressed:
        raise Unimplemented("compressed messages are not taken; send them as they are")
    if length != len(body) - _FRAME.size:
        raise _bad("body", f"{len(body) - _FRAME.size} bytes", f"{length}, as the frame says, and one message")
    try:
        return MESSAGES[name].FromString(memoryview(body)[_FRAME.size :])
    except DecodeError as error:
        raise _bad("body", "bytes that are no such message", f"a {name}") from error


def _values(tensor: Any) -> list[Any]:
    field = _CONTENTS.get(tensor.datatype)
    values = list(getattr(tensor.contents, field)) if field else []
    if field == "bytes_contents":
        return [_text(value) for value in values]
    # A tensor has no null: NaN is how it says that a value is missing.
    return [None if value != value else value for value in values]


def _text(value: bytes) -> Any:
    """Text, or the bytes themselves, which the check of the row then refuses."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _framed(message: Any) -> bytes:
    content: bytes = message.SerializeToString()
    return _FRAME.pack(0, len(content)) + content


def _bad(path: str, found: str, allowed: str) -> InvalidInput:
    return InvalidInput(str(Problem(path=path, found=found, allowed=allowed)))
