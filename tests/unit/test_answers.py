"""The form of answers, in the protocol of the question."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import orjson
import pytest

from serinus.core.errors import InvalidInput
from serinus.serve.answers import Answer, Results, Writer
from serinus.serve.codec import Request, parse
from serinus.serve.fields import RowError
from tests.support_codec import SCHEMA, packed, read, tensor

WRITER = Writer("toy", 3)
FAILED = {1: RowError("bad row")}


def results(*probabilities: float, **more: Any) -> Results:
    return Results(np.array(probabilities), [f"id{row}" for row in range(len(probabilities))], **more)


def body(answer: Answer) -> Any:
    return orjson.loads(answer.body)


def test_v2_answers_hold_null_and_a_reason_for_a_failed_row() -> None:
    answer = WRITER.write(Request("v2", 2, {}, id="r"), results(0.25, math.nan, errors=FAILED))
    assert answer.status == 200
    assert body(answer) == {
        "model_name": "toy",
        "model_version": "3",
        "id": "r",
        "outputs": [
            {"name": "probability", "datatype": "FP64", "shape": [2], "data": [0.25, None]},
            {"name": "prediction_id", "datatype": "BYTES", "shape": [2], "data": ["id0", None]},
            {"name": "error", "datatype": "BYTES", "shape": [2], "data": [None, "bad row"]},
        ],
    }


def test_v2_answers_say_which_views_were_stale() -> None:
    content = body(WRITER.write(Request("v2", 2, {}), results(0.25, 0.5, stale={1: ["b", "a"]})))
    assert content["parameters"] == {"stale_views": "a,b"}
    assert content["outputs"][-1]["data"] == [None, "b,a"]
    assert content["id"] == "id0"


def test_served_features_come_when_asked_for() -> None:
    request = read({"inputs": [tensor("hour", "INT64", [1, 2])], "outputs": [{"name": "served_features"}]})
    assert request.served_features
    content = body(WRITER.write(request, results(0.5, math.nan, errors=FAILED, served=[{"a": None}, {}])))
    served = next(output for output in content["outputs"] if output["name"] == "served_features")
    assert served["data"] == ['{"a":null}', None]
    assert [output["name"] for output in content["outputs"]] == ["served_features", "error"], "and no more"


def test_only_the_outputs_that_were_asked_for_come_back() -> None:
    request = Request("v2", 1, {}, outputs=frozenset({"stale", "probability", "error"}))
    content = body(WRITER.write(request, results(0.5)))
    assert [(output["name"], output["data"]) for output in content["outputs"]] == [
        ("probability", [0.5]),
        ("error", [None]),
        ("stale", [None]),
    ]


def test_binary_outputs_follow_the_json() -> None:
    request = Request("v2", 2, {}, binary=frozenset({"probability", "prediction_id"}))
    answer = WRITER.write(request, results(0.25, math.nan, errors=FAILED))
    length = int(answer.headers["inference-header-content-length"])
    head, tail = orjson.loads(answer.body[:length]), answer.body[length:]
    assert [output.get("parameters") for output in head["outputs"]] == [
        {"binary_data_size": 16},
        {"binary_data_size": 11},
        None,
    ]
    assert np.frombuffer(tail[:16]).tolist()[0] == 0.25
    assert math.isnan(np.frombuffer(tail[:16])[1])
    assert tail[16:] == packed(b"id0", b"")


def test_v1_and_plain_answers() -> None:
    good = {"probability": 0.25, "prediction_id": "id0", "model_version": "3"}
    both = results(0.25, math.nan, errors=FAILED)
    assert body(WRITER.write(Request("v1", 2, {}), both)) == {"predictions": [good, {"error": "bad row"}]}
    assert body(WRITER.write(Request("plain", 2, {}), both)) == [good, {"error": "bad row"}]
    assert body(WRITER.write(Request("plain", 1, {}, single=True), results(0.25))) == good
    stale = body(WRITER.write(Request("plain", 1, {}, single=True), results(0.25, stale={0: ["v"]})))
    assert stale == good | {"stale": ["v"]}


@pytest.mark.parametrize(
    ("statuses", "expected"), [([422, 422], 422), ([503, 503], 503), ([422, 503], 422), ([500, 503], 500)]
)
def test_when_every_row_failed_the_request_fails(statuses: list[int], expected: int) -> None:
    errors = {row: RowError(f"reason {row}", status) for row, status in enumerate(statuses)}
    for protocol in ("v1", "v2", "plain"):
        answer = WRITER.write(Request(protocol, 2, {}), results(math.nan, math.nan, errors=errors))
        assert answer.status == expected
        assert body(answer) == {"error": "reason 0; reason 1"}


def test_many_errors_are_summed_up() -> None:
    errors = {row: RowError(f"reason {row}") for row in range(9)}
    answer = WRITER.write(Request("v1", 9, {}), results(*[math.nan] * 9, errors=errors))
    assert body(answer)["error"].endswith("reason 4; and 4 more")


def test_torchserves_own_grpc_service_is_not_served() -> None:
    with pytest.raises(InvalidInput, match=r"inference\.GRPCInferenceService"):
        parse({}, json.dumps({"inputs": [tensor("hour", "INT64", [1])]}).encode(), SCHEMA, 4)
    content = body(WRITER.failure("torchserve", 400, "by the front door"))
    assert (content["model_name"], content["model_version"], content["id"]) == ("toy", "3", "")
    assert content["outputs"][0]["data"] == ["by the front door"]
