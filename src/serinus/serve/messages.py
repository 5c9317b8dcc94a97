"""The messages of the standard gRPC service `inference.GRPCInferenceService` (Open Inference Protocol).

They are described here and live in a pool of their own. Generated modules would register the names in protobuf's one
global pool, where KServe's or Triton's, in the same process, could not be loaded any more.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

_PACKAGE = "inference"
_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "bool": _FIELD.TYPE_BOOL, "int32": _FIELD.TYPE_INT32, "int64": _FIELD.TYPE_INT64, "uint32": _FIELD.TYPE_UINT32,
    "uint64": _FIELD.TYPE_UINT64, "float": _FIELD.TYPE_FLOAT, "double": _FIELD.TYPE_DOUBLE,
    "string": _FIELD.TYPE_STRING, "bytes": _FIELD.TYPE_BYTES,
}  # fmt: skip
_PARAMETERS = "map InferParameter parameters"
_TENSOR = ("string name", "string datatype", "repeated int64 shape")

# Fields by message, numbered from 1 in their order. `map` is one from strings; `oneof` makes one choice of a message.
_MESSAGES = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("bool live",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("bool ready",),
    "ModelReadyRequest": ("string name", "string version"),
    "ModelReadyResponse": ("bool ready",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": ("string name", "string version", "repeated string extensions"),
    "ModelMetadataRequest": ("string name", "string version"),
    "TensorMetadata": _TENSOR,
    "ModelMetadataResponse": (
        "string name", "repeated string versions", "string platform", "repeated TensorMetadata inputs",
        "repeated TensorMetadata outputs",
    ),
    "InferParameter": ("oneof bool bool_param", "oneof int64 int64_param", "oneof string string_param"),
    "InferTensorContents": (
        "repeated bool bool_contents", "repeated int32 int_contents", "repeated int64 int64_contents",
        "repeated uint32 uint_contents", "repeated uint64 uint64_contents", "repeated float fp32_contents",
        "repeated double fp64_contents", "repeated bytes bytes_contents",
    ),
    "InferTensor": (*_TENSOR, _PARAMETERS, "InferTensorContents contents"),
    "InferRequestedOutputTensor": ("string name", _PARAMETERS),
    "ModelInferRequest": (
        "string model_name", "string model_version", "string id", _PARAMETERS, "repeated InferTensor inputs",
        "repeated InferRequestedOutputTensor outputs", "repeated bytes raw_input_contents",
    ),
    "ModelInferResponse": (
        "string model_name", "string model_version", "string id", _PARAMETERS, "repeated InferTensor outputs",
        "repeated bytes raw_output_contents",
    ),
}  # fmt: skip


def _add_field(message: descriptor_pb2.DescriptorProto, number: int, text: str) -> None:
    *rule, kind, name = text.split()
    field = message.field.add(name=name, number=number, label=_FIELD.LABEL_OPTIONAL)
    if rule == ["repeated"]:
        field.label = _FIELD.LABEL_REPEATED
    elif rule == ["map"]:
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        _add_field(entry, 1, "string key")
        _add_field(entry, 2, f"{kind} value")
        field.label = _FIELD.LABEL_REPEATED
        kind = f"{message.name}.ParametersEntry"
    elif rule == ["oneof"]:
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if kind in _TYPES:
        field.type = _TYPES[kind]
    else:
        field.type = _FIELD.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{kind}"


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="serinus/inference.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, text in enumerate(fields, start=1):
            _add_field(message, number, text)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


MESSAGES = _classes()
"""The class of each message, by its name in the service's definition."""
