"""The gRPC service's messages: what KServe's client writes is read, and what is written KServe's client reads."""

from __future__ import annotations

import contextlib
import math
import struct
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from serinus.core.errors import InvalidInput, NotFound
from serinus.core.inference import model_metadata
from serinus.core.signature import Column, Signature
from serinus.serve import rpc
from serinus.serve.answers import Answer, Results, Writer
from serinus.serve.codec import Request, parse
from serinus.serve.fields import RowError, Schema

SIGNATURE = Signature(
    model="toy",
    feature_service="toy",
    join_keys={"place": "String"},
    views=(),
    columns=(
        Column(name="distance", kind="number", dtype="Float64"),
        Column(name="hour", kind="number", dtype="Int64"),
        Column(name="night", kind="number", dtype="Bool"),
    ),
)
SCHEMA = Schema.of(SIGNATURE, "wall")
INFER = {"x-serinus-protocol": "grpc/ModelInfer"}
WRITER = Writer("toy", 3)
DESCRIPTION = rpc.Description("toy", "3", model_metadata(SIGNATURE))


def framed(message: Any) -> bytes:
    content = message.SerializeToString()
    return struct.pack(">BI", 0, len(content)) + content


def tensor(name: str, datatype: str, rows: int = 2, **contents: Any) -> Any:
    content = pb.InferTensorContents(**contents) if contents else None
    return pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=[rows], contents=content)


def read(*tensors: Any, **more: Any) -> Request:
    message = pb.ModelInferRequest(model_name="toy", inputs=tensors, **more)
    return parse(INFER, framed(message), SCHEMA, 4)


def message_of(answer: Answer, kind: Any = pb.ModelInferResponse) -> Any:
    compressed, length = struct.unpack_from(">BI", answer.body)
    assert (answer.status, compressed, length) == (200, 0, len(answer.body) - 5)
    return kind.FromString(answer.body[5:])


def test_typed_and_raw_contents_say_the_same() -> None:
    typed = read(
        tensor("place", "BYTES", bytes_contents=[b"JFK", "Zürich".encode()]),
        tensor("distance", "FP64", fp64_contents=[1.5, math.nan]),
        tensor("hour", "INT32", int_contents=[1, 2]),
        tensor("night", "BOOL", bool_contents=[True, False]),
        id="r1",
    )
    packed = b"".join(struct.pack("<I", len(each)) + each for each in (b"JFK", "Zürich".encode()))
    arrays = [np.array([1.5, math.nan]), np.array([1, 2], "<i4"), np.array([True, False])]
    names = [("place", "BYTES"), ("distance", "FP64"), ("hour", "INT32"), ("night", "BOOL")]
    raw = read(
        *(tensor(*each) for each in names), raw_input_contents=[packed, *(each.tobytes() for each in arrays)], id="r1"
    )
    assert typed.columns == raw.columns
    assert typed.columns["distance"] == [1.5, None], "NaN is how a tensor says that a value is missing"
    assert (raw.id, raw.target, raw.protocol, raw.rows) == ("r1", ("toy", ""), "grpc", 2)
    assert (typed.binary, raw.binary > {"probability"}) == (frozenset(), True)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (None, "no gRPC message"),
        (b"\x00\x00", "no gRPC message"),
        (b"\x00\x00\x00\x00\x09abc", "3 bytes, allowed: 9"),
        (b"\x01\x00\x00\x00\x03abc", "compressed messages are not taken"),
        (b"\x00\x00\x00\x00\x03abc", "bytes that are no such message"),
        (framed(pb.ModelInferRequest(inputs=[tensor("hour", "INT64")], raw_input_contents=[b""] * 2)), "found 2"),
        (framed(pb.ModelInferRequest(inputs=[tensor("hour", "INT64")])), "(hour).data: found 0 values"),
        (framed(pb.ModelInferRequest(inputs=[tensor("hour", "FP16")])), "(hour).datatype: found 'FP16'"),
        (framed(pb.ModelInferRequest()), "body.inputs"),
        (
            framed(pb.ModelInferRequest(inputs=[tensor("hour", "INT64")], raw_input_contents=[b"123"])),
            "found 3 bytes, allowed: 16",
        ),
    ],
)
def test_a_wrong_message_says_what_is_wrong(body: Any, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(INFER, body, SCHEMA, 4)
    assert words in str(caught.value)


@given(st.binary(max_size=300), st.booleans())
def test_no_message_whatever_breaks_the_reader(content: bytes, whole: bool) -> None:
    body = struct.pack(">BI", 0, len(content)) + content if whole else content
    with contextlib.suppress(InvalidInput):
        request = parse(INFER, body, SCHEMA, 4)
        SCHEMA.check(request.columns, request.rows, request.place)


@pytest.mark.parametrize("raw", [False, True])
def test_answers_are_read_by_kserve(raw: bool) -> None:
    from kserve import InferResponse

    names = frozenset({"probability", "prediction_id", "error"}) if raw else frozenset()
    request = Request("grpc", 2, {}, id="r1", binary=names)
    found = Results(np.array([0.25, math.nan]), ["a", "b"], errors={1: RowError("bad row")}, stale={0: ["hourly"]})
    request.binary = names | ({"stale"} if raw else set())
    message = message_of(WRITER.write(request, found))
    assert (message.model_name, message.model_version, message.id) == ("toy", "3", "r1")
    assert message.parameters["stale_views"].string_param == "hourly"
    response = InferResponse.from_grpc(message)
    outputs = {each.name: each.as_numpy().tolist() for each in response.outputs}
    assert outputs["probability"][0] == 0.25
    assert math.isnan(outputs["probability"][1])
    texts = {name: [each if isinstance(each, str) else each.decode() for each in outputs[name]] for name in outputs
             if name != "probability"}  # fmt: skip
    assert texts == {"prediction_id": ["a", ""], "error": ["", "bad row"], "stale": ["hourly", ""]}


@pytest.mark.parametrize(
    ("status", "code"), [(400, "3"), (404, "5"), (415, "12"), (422, "3"), (500, "13"), (503, "14"), (504, "4")]
)
def test_an_error_is_headers_alone(status: int, code: str) -> None:
    answer = WRITER.failure("grpc", status, "50% of Zürich\n" + "x" * 5000)
    assert (answer.status, answer.body, answer.headers["content-type"]) == (status, b"", "application/grpc")
    assert answer.headers["grpc-status"] == code
    words = answer.headers["grpc-message"]
    assert words.isascii()
    assert "\n" not in words
    assert len(words) < 7200
    assert unquote(words).startswith("50% of Zürich\nxxx")


def test_the_service_describes_itself() -> None:
    def ask(method: str, request: Any, response: Any) -> Any:
        return response.FromString(DESCRIPTION.answer(method, framed(request))[5:])

    assert ask("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
    assert ask("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
    assert ask("ModelReady", pb.ModelReadyRequest(name="toy", version="3"), pb.ModelReadyResponse).ready
    assert ask("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse).name == "serinus"
    model = ask("ModelMetadata", pb.ModelMetadataRequest(name="toy"), pb.ModelMetadataResponse)
    assert list(model.versions) == ["3"]
    assert [(each.name, each.datatype) for each in model.inputs] == [
        ("place", "BYTES"),
        ("distance", "FP64"),
        ("hour", "INT64"),
        ("night", "BOOL"),
        ("id", "BYTES"),
        ("event_timestamp", "BYTES"),
    ]
    for name, version in (("other", ""), ("toy", "4")):
        with pytest.raises(NotFound):
            DESCRIPTION.answer("ModelReady", framed(pb.ModelReadyRequest(name=name, version=version)))
    with pytest.raises(rpc.Unimplemented):
        DESCRIPTION.answer("Infer", b"")
