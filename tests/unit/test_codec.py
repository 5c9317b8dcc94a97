"""Request bodies in every protocol, and the checks of their rows."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.core.errors import InvalidInput
from serinus.core.signature import Column, Signature
from serinus.serve.codec import Request, parse, protocol_of
from serinus.serve.fields import Checked, Schema
from tests.support_codec import SCHEMA, SIGNATURE, packed, read, tensor

FIELDS = "place, plane, distance, hour, night, kind, event_timestamp, id"
ROW = {"place": "JFK", "plane": 7, "distance": 1.5, "hour": 3, "night": True, "kind": "a"}


def check(request: Request, schema: Schema = SCHEMA) -> Checked:
    return schema.check(request.by_column(schema.fields), request.rows, request.place)


def messages(content: Any, protocol: str = "plain") -> dict[int, str]:
    request = read(content, protocol)
    return {row: error.message for row, error in (check(request).errors | request.errors).items()}


def test_the_same_rows_are_read_from_every_protocol() -> None:
    types = {"plane": "INT32", "distance": "FP64", "hour": "INT64", "night": "BOOL"}
    tensors = [tensor(name, types.get(name, "BYTES"), [value, value]) for name, value in ROW.items()]
    column = [tensor(each["name"], each["datatype"], [[value] for value in each["data"]], [2, 1]) for each in tensors]
    requests = [
        read({"inputs": tensors}),
        read({"inputs": column}),
        read({"instances": [ROW, ROW]}, "v1"),
        read([ROW, ROW], "plain"),
    ]
    for request in requests:
        checked = check(request)
        assert request.rows == 2
        assert checked.errors == {}
        assert {name: checked.columns[name] for name in ROW} == {name: [value] * 2 for name, value in ROW.items()}


@pytest.mark.parametrize(
    ("headers", "content", "expected"),
    [
        ({"x-serinus-protocol": "plain"}, {"inputs": []}, "plain"),
        ({"X-Serinus-Protocol": "v1"}, {"instances": [ROW]}, "v1"),
        ({"host": "h"}, {"inputs": [tensor("place", "BYTES", ["A"])]}, "v2"),
        ({"host": "h"}, {"instances": [ROW]}, "v1"),
        ({"host": "h"}, ROW, "plain"),
        ({"host": "h", "url_path": ""}, {"instances": 1}, "plain"),
    ],
)
def test_the_protocol_is_what_the_front_says_or_else_what_the_body_looks_like(
    headers: dict[str, str], content: Any, expected: str
) -> None:
    assert parse(headers, json.dumps(content).encode(), SCHEMA, 4).protocol == expected


def test_an_unreadable_body_is_answered_in_the_declared_protocol() -> None:
    assert protocol_of({"x-serinus-protocol": "v1"}) == "v1"
    assert protocol_of({"x-serinus-protocol": "grpc/ModelInfer"}) == "grpc"
    assert protocol_of({}) == "torchserve"
    assert protocol_of({"host": "h"}) == "plain"


@pytest.mark.parametrize(
    ("protocol", "content", "words"),
    [
        ("plain", b"", "body: found nothing"),
        ("plain", b"{", "body: found text that is not JSON"),
        ("plain", b'{"distance": NaN}', "numbers finite"),
        ("plain", b'{"distance": 1e999}', "numbers finite"),
        ("plain", b"\xff\xfe", "UTF-8"),
        ("plain", b"[" * 3000 + b"]" * 3000, "body: found text that is not JSON"),
        ("plain", 3, "body: found 3, allowed: a list of objects"),
        ("plain", [], "body: found 0 rows, allowed: 1 to 4 rows a request"),
        ("plain", [ROW] * 5, "body: found 5 rows, allowed: 1 to 4 rows a request"),
        ("v1", [ROW], 'body: found a list, allowed: an object {"instances": [...]}'),
        ("v1", {}, "body.instances: found nothing"),
        ("v1", {"instances": ROW}, "body.instances: found an object"),
        ("v2", [], "body: found a list"),
        ("v2", {}, "body.inputs: found nothing"),
        ("v2", {"inputs": []}, "body.inputs: found a list"),
        ("v2", {"inputs": [3]}, "inputs[0]: found 3, allowed: an object with name"),
        ("v2", {"inputs": [tensor("foo", "BYTES", ["a"])]}, f"inputs[0].name: found 'foo', allowed: {FIELDS}"),
        (
            "v2",
            {"inputs": [tensor("hour", "BYTES", ["a"])]},
            "inputs[0] (hour).datatype: found 'BYTES', allowed: INT16",
        ),
        (
            "v2",
            {"inputs": [tensor("hour", "INT64", [1], [1, 2])]},
            "inputs[0] (hour).shape: found [1, 2], allowed: [n]",
        ),
        ("v2", {"inputs": [tensor("hour", "INT64", [1], [2])]}, "inputs[0] (hour).data: found 1 values, allowed: 2"),
        ("v2", {"inputs": [tensor("hour", "INT64", [1], ["a"])]}, "inputs[0] (hour).shape"),
        ("v2", {"inputs": [tensor("hour", "INT64", 3, [1])]}, "inputs[0] (hour).data: found 3"),
        ("v2", {"inputs": [tensor("hour", "INT64", [1])] * 2}, "inputs[1] (hour).name: found hour twice"),
        (
            "v2",
            {"inputs": [tensor("hour", "INT64", [1]), tensor("place", "BYTES", ["a", "b"])]},
            "inputs[1] (place).shape: found 2 rows, allowed: 1",
        ),
        ("v2", {"id": 3, "inputs": [tensor("hour", "INT64", [1])]}, "body.id: found 3, allowed: a string"),
        (
            "v2",
            {"inputs": [tensor("hour", "INT64", [1])], "outputs": [{"name": "x"}]},
            "outputs[0].name: found 'x', allowed: probability, prediction_id, served_features, error, stale",
        ),
    ],
)
def test_a_malformed_body_says_where_what_and_what_is_allowed(protocol: str, content: Any, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(content, protocol)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"place": 3}, "[1].place: found 3, allowed: a string"),
        ({"place": ["x"]}, "[1].place: found a list, allowed: a string"),
        ({"plane": 2**31}, "[1].plane: found 2.14748e+09, out of range, allowed: an integer"),
        ({"plane": True}, "[1].plane: found true, allowed: an integer"),
        ({"hour": 1.5}, "[1].hour: found 1.5, allowed: an integer"),
        ({"hour": 2**64 - 1}, "[1].hour: found 1.84467e+19, out of range, allowed: an integer"),
        ({"distance": "far"}, "[1].distance: found 'far', allowed: a number"),
        ({"distance": 3.5e38}, "[1].distance: found 3.5e+38, out of range, allowed: a number"),
        ({"night": 1}, "[1].night: found 1, allowed: true or false"),
        ({"kind": {"a": 1}}, "[1].kind: found an object, allowed: a string"),
        ({"event_timestamp": "noon"}, "[1].event_timestamp: found 'noon', allowed: a time in ISO 8601"),
        ({"event_timestamp": "0001-01-01T00:00:00+23:00"}, "[1].event_timestamp: found"),
        ({"id": 1.5}, "[1].id: found 1.5, allowed: a string or an integer"),
        ({"colour": "red"}, f"[1]: found an unknown field 'colour', allowed: {FIELDS}"),
    ],
)
def test_a_wrong_value_fails_its_own_row_only(change: dict[str, Any], words: str) -> None:
    found = messages([ROW, ROW | change, ROW])
    assert list(found) == [1]
    assert words in found[1]


def test_a_row_that_is_no_object_fails_alone() -> None:
    found = messages({"instances": [ROW, 3, None]}, "v1")
    assert found[1].startswith("instances[1]: found 3, allowed: an object with the fields place")
    assert found[2].startswith("instances[2]: found null")
    assert 0 not in found


def test_an_absent_key_is_named_and_an_absent_feature_is_missing() -> None:
    assert messages({"plane": 1}) == {0: "[0].place: found nothing, allowed: a string, or null"}
    assert messages({"place": "JFK", "plane": 1, "distance": None}) == {}


def test_a_whole_number_is_an_integer_however_it_is_written() -> None:
    request = read([ROW | {"plane": 7.0, "hour": 3.0, "id": 5.0}, ROW | {"plane": 1e300}, ROW | {"id": 1e30}], "plain")
    checked = check(request)
    assert (checked.columns["plane"][0], checked.columns["id"][0]) == (7, 5)
    assert type(checked.columns["plane"][0]) is int
    assert checked.errors[1].message.startswith("[1].plane: found 1e+300, allowed: an integer")
    assert checked.errors[2].message.startswith("[2].id: found 1e+30")


def test_a_key_that_is_null_is_an_entity_that_nobody_knows() -> None:
    assert messages([ROW, ROW | {"place": None}, ROW]) == {}


def test_a_missing_tensor_of_a_key_fails_every_row() -> None:
    found = messages({"inputs": [tensor("plane", "INT64", [1, 2])]}, "v2")
    assert found == dict.fromkeys((0, 1), "inputs.place: found nothing, allowed: a string, or null")


def test_where_the_clock_is_the_requests_each_row_needs_its_time() -> None:
    schema = Schema.of(SIGNATURE, "request")
    request = read([ROW, ROW | {"event_timestamp": "1970-01-01T00:00:01.5Z"}], "plain")
    checked = check(request, schema)
    assert checked.errors[0].message.startswith("[0].event_timestamp: found nothing")
    assert checked.moments.tolist() == [0, 1_500_000]


def test_a_signature_with_a_type_that_requests_cannot_carry_is_refused() -> None:
    column = Column(name="when", kind="number", dtype="UnixTimestamp")
    with pytest.raises(InvalidInput, match="request field when has the type UnixTimestamp"):
        Schema.of(Signature(model="m", feature_service="s", join_keys={}, views=(), columns=(column,)), "wall")


def binary(tensors: list[tuple[str, str, bytes]], rows: int) -> tuple[bytes, dict[str, str]]:
    described = [
        {"name": name, "datatype": datatype, "shape": [rows], "parameters": {"binary_data_size": len(content)}}
        for name, datatype, content in tensors
    ]
    head = json.dumps({"inputs": described}).encode()
    return head + b"".join(content for *_, content in tensors), {"Inference-Header-Content-Length": str(len(head))}


def test_binary_tensors_are_read_and_nan_means_missing() -> None:
    body, headers = binary(
        [
            ("place", "BYTES", packed(b"JFK", "Zürich".encode())),
            ("plane", "INT32", np.array([1, 2], "<i4").tobytes()),
            ("distance", "FP32", np.array([1.5, math.nan], "<f4").tobytes()),
            ("night", "BOOL", b"\x01\x00"),
        ],
        2,
    )
    checked = check(read(body, **headers))
    assert checked.errors == {}
    assert checked.columns["place"] == ["JFK", "Zürich"]
    assert checked.columns["plane"] == [1, 2]
    assert checked.columns["distance"] == [1.5, None]
    assert checked.columns["night"] == [True, False]


def test_infinity_and_bytes_that_are_no_text_fail_their_row() -> None:
    tensors = [
        ("place", "BYTES", packed(b"JFK", b"\xff")),
        ("plane", "INT32", bytes(8)),
        ("distance", "FP64", np.array([math.inf, 1.0]).tobytes()),
    ]
    body, headers = binary(tensors, 2)
    errors = check(read(body, **headers)).errors
    assert errors[0].message.startswith("inputs.distance[0]: found inf, out of range")
    assert errors[1].message.startswith("inputs.place[1]: found b'\\xff'")


@pytest.mark.parametrize(
    ("length", "words"),
    [("9999", "found '9999'"), ("-1", "found '-1'"), ("x", "found 'x'")],
)
def test_a_wrong_length_of_the_json_part_is_refused(length: str, words: str) -> None:
    with pytest.raises(InvalidInput, match="header inference-header-content-length") as caught:
        read(b"{}", **{"inference-header-content-length": length})
    assert words in str(caught.value)


def test_binary_tensors_must_use_up_the_body() -> None:
    body, headers = binary([("hour", "INT64", bytes(8))], 1)
    with pytest.raises(InvalidInput, match="found 11 bytes after the JSON, allowed: 8"):
        read(body + b"abc", **headers)
    with pytest.raises(InvalidInput, match="found 5 bytes, allowed: 8 for 1 values"):
        read(body[:-3], **headers)
    body, headers = binary([("place", "BYTES", b"\x09\x00\x00\x00abc")], 1)
    with pytest.raises(InvalidInput, match="1 strings, each after its length"):
        read(body, **headers)


def test_a_compressed_body_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidInput, match="header content-encoding: found 'gzip', allowed: none"):
        read(b"\x1f\x8b\x08", **{"content-encoding": "gzip"})


@given(st.binary(max_size=200), st.sampled_from(["v1", "v2", "plain"]), st.none() | st.integers(0, 250))
def test_no_body_whatever_breaks_the_reader(body: bytes, protocol: str, length: int | None) -> None:
    headers = {} if length is None else {"inference-header-content-length": str(length)}
    with contextlib.suppress(InvalidInput):
        check(read(body, protocol, **headers))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TENSORS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.sampled_from([*SCHEMA.fields, "x"]) | JSON,
            "datatype": st.sampled_from(["BYTES", "INT64", "FP64", "BOOL"]) | JSON,
            "shape": st.sampled_from([[1], [2], [1, 1]]) | JSON,
            "data": st.lists(JSON, max_size=2) | JSON,
            "parameters": JSON,
        },
    ),
    max_size=3,
)


@given(st.fixed_dictionaries({"inputs": TENSORS}, optional={"outputs": JSON, "parameters": JSON, "id": JSON}) | JSON)
def test_no_decoded_body_whatever_breaks_the_reader(content: Any) -> None:
    for protocol in ("v1", "v2", "plain"):
        with contextlib.suppress(InvalidInput):
            check(parse({"x-serinus-protocol": protocol}, content, SCHEMA, 4))


@given(st.lists(st.dictionaries(st.sampled_from([*SCHEMA.fields, "x"]), JSON), min_size=1, max_size=4))
def test_no_row_whatever_breaks_the_check_or_reaches_another_row(rows: list[dict[str, Any]]) -> None:
    together = parse({"x-serinus-protocol": "v1"}, {"instances": [dict(row) for row in rows]}, SCHEMA, 4)
    checked = check(together)
    for position, row in enumerate(rows):
        alone = parse({"x-serinus-protocol": "v1"}, {"instances": [dict(row)]}, SCHEMA, 4)
        own = check(alone)
        failed = position in checked.errors or position in together.errors
        assert failed == (0 in own.errors or 0 in alone.errors)
        if not failed:
            assert [values[position] for values in checked.columns.values()] == [
                values[0] for values in own.columns.values()
            ]
