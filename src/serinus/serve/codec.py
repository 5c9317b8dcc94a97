"""Request bodies into columns: Open Inference Protocol (JSON, binary tensors, gRPC), the V1 protocol, plain objects;
each of the JSON ones as a CloudEvent too.

A body that cannot be read fails its request with `InvalidInput` (status 400). A row that cannot be read fails alone and
stays in its place, so that answers line up with what was asked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import orjson

from serinus.core.errors import InvalidInput, Problem
from serinus.core.inference import OUTPUTS, SERVED_FEATURES
from serinus.serve import cloudevents, rpc
from serinus.serve.fields import RowError, Schema, describe

Protocol = Literal["v1", "v2", "plain", "grpc", "torchserve"]
"""`torchserve` is its own gRPC service, which loses headers and raw contents: it is told to come by the front door."""

PROTOCOL_HEADER = rpc.HEADER
BINARY_HEADER = "inference-header-content-length"
# TorchServe marks requests to /predictions/<model> with this header, and only those.
_PLAIN_MARK = "url_path"
_DECLARED: dict[str, Protocol] = {"v1": "v1", "v2": "v2", "plain": "plain"}

_NUMPY = {
    "BOOL": "?", "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "u1", "UINT16": "<u2",
    "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


@dataclass(slots=True)
class Request:
    """One request's rows by column, and how it wants its answer.

    `single` is a plain body of one object, answered by one object. `outputs` names the tensors that were asked for
    (None: the usual ones), `binary` those to send as raw bytes. `event` is how the request was a CloudEvent. `target`
    is the model and version that a gRPC request names, which no route has checked. Rows that came as `objects` have no
    `columns` of their own: those of a whole batch are made at once.
    """

    protocol: Protocol
    rows: int
    columns: dict[str, list[Any]]
    errors: dict[int, RowError] = field(default_factory=dict)
    id: str | None = None
    single: bool = False
    outputs: frozenset[str] | None = None
    binary: frozenset[str] = frozenset()
    event: cloudevents.Mode | None = None
    target: tuple[str, str] | None = None
    objects: list[dict[str, Any]] | None = None

    def by_column(self, names: Iterable[str]) -> Mapping[str, list[Any]]:
        """Values by field; one that no row has may be absent."""
        if self.objects is None:
            return self.columns
        return {name: [row.get(name) for row in self.objects] for name in names}

    @property
    def served_features(self) -> bool:
        """Whether the answer is to hold the values that the model saw."""
        return self.outputs is not None and SERVED_FEATURES in self.outputs

    def place(self, row: int, name: str) -> str:
        """How an error names a field of a row."""
        if self.protocol == "v1":
            return f"instances[{row}].{name}"
        if self.protocol == "plain":
            return name if self.single else f"[{row}].{name}"
        return f"inputs.{name}[{row}]"


class Lowered(dict[str, str]):
    """Headers whose names are in lower case already."""


def lowered(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Headers by name in lower case; TorchServe passes names on as the client wrote them."""
    return headers if type(headers) is Lowered else {name.lower(): value for name, value in headers.items()}


def parse(headers: Mapping[str, Any], body: Any, schema: Schema, maximum_rows: int) -> Request:
    """Read one request.

    Args:
        headers: HTTP headers; none at all means TorchServe's own gRPC service.
        body: bytes, text, or an object that TorchServe has decoded from JSON already.
        schema: the fields that a row may carry.
        maximum_rows: rows allowed.

    Raises:
        InvalidInput: the body as a whole cannot be read: says where, what was found and what is allowed.
    """
    found = lowered(headers)
    if not found:
        raise InvalidInput("TorchServe's own gRPC service is not served", hint="call inference.GRPCInferenceService")
    if found.get(PROTOCOL_HEADER, "").startswith(rpc.PREFIX):
        return _parse_grpc(body, schema, maximum_rows)
    event = cloudevents.mode_of(found)
    tail = memoryview(b"")
    length = found.get(BINARY_HEADER)
    if length is not None:
        body, tail = _split(body, length)
    content = _json(body, found)
    if event == "structured" or cloudevents.is_envelope(content):
        content = cloudevents.data(content)
    request = _parse_content(_protocol(found, content), content, tail, (schema, maximum_rows))
    request.event = event
    if event == "structured":
        request.binary = frozenset()  # its answer is one JSON object
    return request


def protocol_of(headers: Mapping[str, Any]) -> Protocol:
    """The protocol in which to answer a request whose body could not be read."""
    found = lowered(headers)
    return (_declared(found) or "plain") if found else "torchserve"


def _declared(headers: Mapping[str, Any]) -> Protocol | None:
    """What the front said. `headers` have names in lower case."""
    declared = headers.get(PROTOCOL_HEADER, "")
    return "grpc" if declared.startswith(rpc.PREFIX) else _DECLARED.get(declared)


def _protocol(headers: Mapping[str, Any], content: Any) -> Protocol:
    declared = _declared(headers)
    if declared is not None:
        return declared
    if _PLAIN_MARK in headers or not isinstance(content, dict):
        return "plain"
    if "inputs" in content:
        return "v2"
    return "v1" if "instances" in content else "plain"


def _parse_content(protocol: Protocol, content: Any, tail: memoryview, limits: tuple[Schema, int]) -> Request:
    if protocol == "v2":
        return _parse_v2(content, tail, *limits)
    return _parse_v1(content, *limits) if protocol == "v1" else _parse_plain(content, *limits)


def _parse_grpc(body: Any, schema: Schema, maximum_rows: int) -> Request:
    content, tail = rpc.read_infer(body)
    request = _parse_v2(content, tail, schema, maximum_rows)
    request.protocol = "grpc"
    request.id = request.id or None
    request.target = content["target"]
    return request


def _json(body: Any, headers: Mapping[str, Any]) -> Any:
    if body is not None and not isinstance(body, bytes | bytearray | str):
        return body  # TorchServe decoded it, and lets NaN and Infinity through: the check of rows refuses them
    if not body:
        raise _bad("body", "nothing", "JSON with content type application/json")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if headers.get("content-encoding", "identity") != "identity":
            raise _bad("header content-encoding", describe(headers["content-encoding"]), "none") from error
        raise _bad("body", f"text that is not JSON ({error})", "JSON in UTF-8, numbers finite") from error


def _bad(path: str, found: str, allowed: str) -> InvalidInput:
    return InvalidInput(str(Problem(path=path, found=found, allowed=allowed)))


def _split(body: Any, length: str) -> tuple[bytes, memoryview]:
    if not isinstance(body, bytes | bytearray):
        raise _bad(
            f"header {BINARY_HEADER}", "a text body", "binary tensors with content type application/octet-stream"
        )
    if not length.isascii() or not length.isdecimal() or int(length) > len(body):
        raise _bad(f"header {BINARY_HEADER}", describe(length), f"a number of bytes up to the body's {len(body)}")
    return bytes(body[: int(length)]), memoryview(body)[int(length) :]


def _count(rows: int, maximum: int, path: str) -> int:
    if not 1 <= rows <= maximum:
        raise _bad(path, f"{rows} rows", f"1 to {maximum} rows a request")
    return rows


# V1 and plain: a list of objects


def _parse_v1(content: Any, schema: Schema, maximum_rows: int) -> Request:
    if not isinstance(content, dict):
        raise _bad("body", describe(content), 'an object {"instances": [...]}')
    if "instances" not in content:
        raise _bad("body.instances", "nothing", "a list of objects, one a row")
    return _from_objects("v1", content["instances"], schema, maximum_rows)


def _parse_plain(content: Any, schema: Schema, maximum_rows: int) -> Request:
    if isinstance(content, dict):
        request = _from_objects("plain", [content], schema, maximum_rows)
        request.single = True
        return request
    return _from_objects("plain", content, schema, maximum_rows)


def _from_objects(protocol: Protocol, rows: Any, schema: Schema, maximum_rows: int) -> Request:
    path = "body.instances" if protocol == "v1" else "body"
    if not isinstance(rows, list):
        raise _bad(path, describe(rows), "a list of objects, one a row")
    request = Request(protocol, _count(len(rows), maximum_rows, path), {})
    for position, row in enumerate(rows):
        where = f"instances[{position}]" if protocol == "v1" else f"[{position}]"
        error = _object_error(row, schema, where)
        if error is not None:
            request.errors[position] = error
            rows[position] = {}
    request.objects = rows
    return request


def _object_error(row: Any, schema: Schema, where: str) -> RowError | None:
    if type(row) is not dict:
        allowed = f"an object with the fields {schema.listing}"
        return RowError(str(Problem(path=where, found=describe(row), allowed=allowed)))
    if not row.keys() <= schema.names:
        unknown = next(name for name in row if name not in schema.names)
        found = f"an unknown field {describe(unknown)}"
        return RowError(str(Problem(path=where, found=found, allowed=schema.listing)))
    if not schema.required <= row.keys():
        return schema.absent(row, lambda name: f"{where}.{name}")
    return None


# Open Inference Protocol: one tensor a column


def _parse_v2(content: Any, tail: memoryview, schema: Schema, maximum_rows: int) -> Request:
    if not isinstance(content, dict):
        raise _bad("body", describe(content), 'an object {"inputs": [...]}')
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise _bad("body.inputs", "nothing" if inputs is None else describe(inputs), "a list of tensors, one a field")
    request = Request("v2", 0, {}, id=_identifier(content))
    position = 0
    for index, tensor in enumerate(inputs):
        reader = _Tensor(f"inputs[{index}]", tensor, schema)
        if reader.name in request.columns:
            raise _bad(f"{reader.path}.name", f"{reader.name} twice", "each field once")
        rows = _count(reader.rows(), maximum_rows, f"{reader.path}.shape")
        if request.columns and rows != request.rows:
            raise _bad(f"{reader.path}.shape", f"{rows} rows", f"{request.rows}, as in the tensors before it")
        request.rows = rows
        size = reader.binary_size()
        if size is None:
            request.columns[reader.name] = reader.values()
        else:
            request.columns[reader.name] = reader.raw(tail[position : position + size])
            position += size
    if position != len(tail):
        raise _bad("body", f"{len(tail)} bytes after the JSON", f"{position}, the sum of binary_data_size")
    error = schema.absent(request.columns, lambda name: f"inputs.{name}")
    if error is not None:
        request.errors = dict.fromkeys(range(request.rows), error)
    _read_outputs(content, request)
    return request


def _identifier(content: Mapping[str, Any]) -> str | None:
    value = content.get("id")
    if value is not None and not isinstance(value, str):
        raise _bad("body.id", describe(value), "a string")
    return value


def _parameters(content: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    parameters = content.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise _bad(f"{path}.parameters", describe(parameters), "an object")
    return parameters or {}


def _read_outputs(content: Mapping[str, Any], request: Request) -> None:
    everything = bool(_parameters(content, "body").get("binary_data_output"))
    outputs = content.get("outputs")
    if outputs is not None and not isinstance(outputs, list):
        raise _bad("body.outputs", describe(outputs), "a list of objects with a name")
    binary = set(OUTPUTS) if everything else set()
    names = set()
    for index, output in enumerate(outputs or []):
        path = f"outputs[{index}]"
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name not in OUTPUTS:
            raise _bad(f"{path}.name", describe(name), ", ".join(OUTPUTS))
        names.add(name)
        if _parameters(output, path).get("binary_data", everything):
            binary.add(name)
        else:
            binary.discard(name)
    request.outputs = frozenset(names) if names else None
    request.binary = frozenset(binary)


class _Tensor:
    """One input tensor, checked step by step."""

    def __init__(self, path: str, tensor: Any, schema: Schema) -> None:
        if not isinstance(tensor, dict):
            raise _bad(path, describe(tensor), "an object with name, shape, datatype and data")
        name = tensor.get("name")
        if not isinstance(name, str) or name not in schema.fields:
            raise _bad(f"{path}.name", describe(name), schema.listing)
        self.name = name
        self.path = f"{path} ({name})"
        self.tensor = tensor
        datatype = tensor.get("datatype")
        allowed = schema.fields[name].datatypes
        if not isinstance(datatype, str) or datatype not in allowed:
            raise _bad(f"{self.path}.datatype", describe(datatype), ", ".join(sorted(allowed)))
        self.datatype = datatype

    def rows(self) -> int:
        shape = self.tensor.get("shape")
        if isinstance(shape, list) and shape and all(type(size) is int for size in shape) and shape[1:] in ([], [1]):
            return int(shape[0])
        raise _bad(
            f"{self.path}.shape", str(shape)[:60] if isinstance(shape, list) else describe(shape), "[n] or [n, 1]"
        )

    def binary_size(self) -> int | None:
        size = _parameters(self.tensor, self.path).get("binary_data_size")
        if size is None or (type(size) is int and size >= 0):
            return size
        raise _bad(f"{self.path}.parameters.binary_data_size", describe(size), "a number of bytes")

    def values(self) -> list[Any]:
        data = self.tensor.get("data")
        if not isinstance(data, list):
            raise _bad(f"{self.path}.data", "nothing" if data is None else describe(data), "a list with a value a row")
        rows = self.rows()
        if len(data) != rows:
            raise _bad(f"{self.path}.data", f"{len(data)} values", f"{rows}, as its shape says")
        if len(self.tensor["shape"]) == 2:
            return [value[0] if type(value) is list and len(value) == 1 else value for value in data]
        return data

    def raw(self, content: memoryview) -> list[Any]:
        rows = self.rows()
        if self.datatype == "BYTES":
            return self._strings(content, rows)
        kind = np.dtype(_NUMPY[self.datatype])
        if len(content) != rows * kind.itemsize:
            raise _bad(f"{self.path}.data", f"{len(content)} bytes", f"{rows * kind.itemsize} for {rows} values")
        values: list[Any] = np.frombuffer(content, dtype=kind).tolist()
        # Raw tensors have no null: NaN is how they say that a value is missing.
        return [None if value != value else value for value in values] if kind.kind == "f" else values

    def _strings(self, content: memoryview, rows: int) -> list[Any]:
        values: list[Any] = []
        position = 0
        while position + 4 <= len(content) and len(values) < rows:
            (size,) = struct.unpack_from("<I", content, position)
            values.append(_text(bytes(content[position + 4 : position + 4 + size])))
            position += 4 + size
        if len(values) != rows or position != len(content):
            raise _bad(
                f"{self.path}.data", f"{len(content)} bytes", f"{rows} strings, each after its length in 4 bytes"
            )
        return values


def _text(value: bytes) -> Any:
    """Text, or the bytes themselves, which the check of the row then refuses."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
