"""Clients that others wrote, unchanged, against the whole stack: KServe's REST and gRPC, Triton's HTTP and gRPC."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from tests import support_serving as toy
from tests.support_front import Front, front

pytestmark = [
    pytest.mark.timeout(240),
]

ROWS = [
    toy.row(hour=..., night=..., terminal=...),
    toy.row(origin="LGA", carrier="B6", hour=..., night=..., terminal=...),
]
OUTPUTS = ["probability", "prediction_id"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with front(tmp_path_factory.mktemp("front")) as found:
        yield found


@pytest.fixture(scope="module")
def expected(served: Front) -> list[float]:
    """What V1 answers to `ROWS`; every client must get the same, bit for bit."""
    answer = served.post(f"/v1/models/{toy.MODEL}:predict", {"instances": ROWS})
    return [each["probability"] for each in answer.json()["predictions"]]


def columns() -> dict[str, tuple[str, np.ndarray[Any, Any]]]:
    kinds = {"BYTES": object, "FP64": np.float64, "INT64": np.int64}
    found = {name: toy.DATATYPES.get(name, "BYTES") for name in ROWS[0]}
    return {name: (kind, np.array([each[name] for each in ROWS], dtype=kinds[kind])) for name, kind in found.items()}


def kserve_request(binary: bool, **changes: Any) -> Any:
    from kserve import InferInput, InferRequest

    inputs = []
    for name, (kind, values) in columns().items():
        if name in changes:
            kind, values = changes[name]
        inputs.append(InferInput(name, list(values.shape), kind))
        inputs[-1].set_data_from_numpy(values, binary_data=binary)
    return InferRequest(model_name=toy.MODEL, infer_inputs=inputs, request_id="k1")


def output(response: Any, name: str) -> list[Any]:
    values: list[Any] = response.get_output_by_name(name).as_numpy().tolist()
    return values


def with_kserve_rest(protocol: str, work: Callable[[Any], Awaitable[None]]) -> None:
    from kserve import InferenceRESTClient, RESTConfig

    async def run() -> None:
        client = InferenceRESTClient(RESTConfig(protocol=protocol, timeout=30))
        try:
            await work(client)
        finally:
            await client.close()

    asyncio.run(run())


def with_kserve_grpc(served: Front, work: Callable[[Any], Awaitable[None]]) -> None:
    from kserve import InferenceGRPCClient

    async def run() -> None:
        async with InferenceGRPCClient(served.address, timeout=30) as client:
            await work(client)

    asyncio.run(run())


@pytest.mark.parametrize("binary", [False, True])
def test_kserve_rest_v2(served: Front, expected: list[float], binary: bool) -> None:
    async def work(client: Any) -> None:
        assert await client.is_server_live(served.url)
        assert await client.is_server_ready(served.url)
        assert await client.is_model_ready(served.url, toy.MODEL)
        answer = await client.infer(served.url, kserve_request(binary), model_name=toy.MODEL)
        assert (answer.id, answer.model_name) == ("k1", toy.MODEL)  # this client drops the version
        assert output(answer, "probability") == expected
        assert len(set(output(answer, "prediction_id"))) == 2
        bad = kserve_request(binary, distance=("FP64", np.array([1e300, 1e300])))
        with pytest.raises(httpx.HTTPStatusError, match=r"inputs.distance\[0\]: found 1e\+300, out of range") as caught:
            await client.infer(served.url, bad, model_name=toy.MODEL)
        assert caught.value.response.status_code == 422

    with_kserve_rest("v2", work)


def test_kserve_rest_v1(served: Front, expected: list[float]) -> None:
    async def work(client: Any) -> None:
        assert await client.is_server_live(served.url)
        assert await client.is_model_ready(served.url, toy.MODEL)
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            await client.is_model_ready(served.url, "other")
        answer = await client.infer(served.url, {"instances": ROWS}, model_name=toy.MODEL)
        assert [each["probability"] for each in answer["predictions"]] == expected

    with_kserve_rest("v1", work)


@pytest.mark.parametrize("binary", [False, True])
def test_kserve_grpc(served: Front, expected: list[float], binary: bool) -> None:
    async def work(client: Any) -> None:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready(toy.MODEL)
        answer = await client.infer(kserve_request(binary))
        assert (answer.id, answer.model_name, answer.model_version) == ("k1", toy.MODEL, "3")
        assert output(answer, "probability") == expected
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.infer(kserve_request(binary, plane=("BYTES", np.array(["a", "b"], dtype=object))))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "(plane).datatype: found 'BYTES'" in (caught.value.details() or "")

    with_kserve_grpc(served, work)


@pytest.mark.parametrize("binary", [False, True])
def test_triton_http(served: Front, expected: list[float], binary: bool) -> None:
    import tritonclient.http as triton

    inputs = []
    for name, (kind, values) in columns().items():
        inputs.append(triton.InferInput(name, list(values.shape), kind))
        inputs[-1].set_data_from_numpy(values, binary_data=binary)
    with triton.InferenceServerClient(served.address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(toy.MODEL)
        assert client.is_model_ready(toy.MODEL, "3")
        assert not client.is_model_ready("other")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        described = client.get_model_metadata(toy.MODEL)
        assert described["versions"] == ["3"]
        assert {each["name"]: each["datatype"] for each in described["inputs"]}["plane"] == "INT64"
        assert client.get_model_metadata(toy.MODEL, "3")["outputs"] == described["outputs"]
        for version in ("", "3"):
            usual = client.infer(toy.MODEL, inputs, model_version=version, request_id="t1", parameters={"tag": "x"})
            assert usual.get_response()["id"] == "t1"
            assert usual.as_numpy("probability").tolist() == expected
        asked = [triton.InferRequestedOutput(name, binary_data=binary) for name in reversed(OUTPUTS)]
        chosen = client.infer(toy.MODEL, inputs, outputs=asked)
        assert chosen.as_numpy("probability").tolist() == expected
        one = client.infer(toy.MODEL, inputs, outputs=asked[:1])
        assert [each["name"] for each in one.get_response()["outputs"]] == ["prediction_id"]
        bad = triton.InferInput("plane", [2], "BYTES")
        bad.set_data_from_numpy(np.array(["a", "b"], dtype=object), binary_data=binary)
        with pytest.raises(triton.InferenceServerException, match="found 'BYTES', allowed: INT16") as caught:
            client.infer(toy.MODEL, [bad])
        assert caught.value.status() == "400"


def test_triton_grpc(served: Front, expected: list[float]) -> None:
    program = Path(__file__).parents[1] / "triton_grpc_client.py"
    done = subprocess.run(
        [sys.executable, str(program), served.address, toy.MODEL, toy.NOW.isoformat()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["live"], found["ready"], found["model_ready"]) == (True, True, True)
    assert found["server"] == served.get("/v2").json()
    own = served.get(f"/v2/models/{toy.MODEL}").json()
    for described in (each for kind in ("inputs", "outputs") for each in own[kind]):
        described["shape"] = [str(size) for size in described["shape"]]  # int64 is text in protobuf's JSON
    assert found["model"] == own
    assert (found["id"], found["version"]) == ("t1", "3")
    assert found["probability"][0] == expected[0]
    assert len(set(found["prediction_id"])) == 3
    assert found["chosen"] == ["prediction_id"]
    assert found["partial"] == [True, False, True]
    assert [bool(error) for error in found["errors"]] == [False, True, False]
    refusals = {
        "unknown_model": ("StatusCode.NOT_FOUND", "there is no model 'other' here; this is delays"),
        "unknown_version": ("StatusCode.NOT_FOUND", "version '9' did not get this request, version 3 did"),
        "missing_key": ("StatusCode.INVALID_ARGUMENT", "inputs.origin: found nothing"),
        "wrong_type": ("StatusCode.INVALID_ARGUMENT", "inputs[0] (origin).datatype: found 'INT64', allowed: BYTES"),
        "compressed": ("StatusCode.UNIMPLEMENTED", "compressed messages are not taken"),
        "not_offered": ("StatusCode.UNIMPLEMENTED", "there is no such path here"),
        "model_not_ready": ("StatusCode.NOT_FOUND", "there is no model 'other' here"),
    }
    for name, (status, words) in refusals.items():
        assert found[name][0] == status, (name, found[name])
        assert words in found[name][1], name
    assert found["too_late"] == ["StatusCode.DEADLINE_EXCEEDED"]


@pytest.mark.parametrize("path", [f"/v1/models/{toy.MODEL}:predict", f"/v2/models/{toy.MODEL}/infer"])
def test_cloud_events(served: Front, expected: list[float], path: str) -> None:
    from cloudevents.conversion import to_binary, to_structured
    from cloudevents.http import CloudEvent, from_http

    body = {"instances": ROWS} if "v1" in path else json.loads(toy.infer(ROWS))
    event = CloudEvent({"type": "ask", "source": "test", "id": "7"}, body)
    for headers, content in (to_binary(event), to_structured(event)):
        answer = httpx.post(served.url + path, headers=headers, content=content, timeout=30)
        assert answer.status_code == 200, answer.text
        back = from_http(answer.headers, answer.content)
        assert (back["type"], back["source"]) == ("io.kserve.inference.response", f"io.kserve.inference.{toy.MODEL}")
        found = back.data
        if "v1" in path:
            assert [each["probability"] for each in found["predictions"]] == expected
        else:
            assert found["outputs"][0]["data"] == expected
    refused = httpx.post(served.url + path, headers={"ce-specversion": "1.0", "ce-id": "7"}, content=b"{}")
    assert (refused.status_code, "header ce-source" in refused.text) == (400, True)


PAGE = Path(__file__).parents[2] / "docs" / "protocols.md"
RANDOM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT[0-9:.]+[+]00:00")


def message(text: str) -> tuple[str, dict[str, str], str]:
    """First line, headers and body of an example."""
    head, _, body = text.partition("\n\n")
    first, *lines = head.split("\n")
    return first, dict(line.split(": ", 1) for line in lines), body


def comparable(value: Any) -> Any:
    """JSON without what is random or hangs on the machine's arithmetic."""
    if isinstance(value, dict):
        return {name: comparable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [comparable(each) for each in value]
    return RANDOM.sub("random", value) if isinstance(value, str) else round(value, 9) if value else value


def test_the_examples_of_the_page_are_answered_as_it_says(served: Front) -> None:
    found = re.findall(r"```http\n(.*?)\n```\n```http\n(.*?)\n```", PAGE.read_text(), re.DOTALL)
    assert len(found) >= 12
    for asked, answered in found:
        line, headers, body = message(asked)
        method, path = line.split(" ")
        answer = httpx.request(method, served.url + path, headers=headers, content=body.encode(), timeout=30)
        status, expected, content = message(answered)
        assert status == f"HTTP/1.1 {answer.status_code}", (line, answer.text)
        assert {name: comparable(answer.headers[name]) for name in expected} == comparable(expected), line
        assert comparable(answer.json()) == comparable(json.loads(content)), line
