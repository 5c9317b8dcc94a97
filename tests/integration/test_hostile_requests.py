"""Through the whole stack: requests of all protocols at once, bytes of all kinds, and clients that mean no good."""

from __future__ import annotations

import math
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from tests import support_serving as toy
from tests.support_front import Front, front

pytestmark = pytest.mark.timeout(240)

PLAIN = f"/predictions/{toy.MODEL}"
PATHS = {"v2": f"/v2/models/{toy.MODEL}/infer", "v1": f"/v1/models/{toy.MODEL}:predict", "plain": PLAIN}
SERVICE = "/inference.GRPCInferenceService/"
QUICK = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with front(tmp_path_factory.mktemp("front")) as found:
        yield found


@pytest.fixture(scope="module")
def client(served: Front) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60) as found:
        yield found


@pytest.fixture(scope="module")
def channel(served: Front) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.address) as found:
        yield found


# Rows that every protocol can carry: known and unknown entities, stale values, wrong times, numbers out of range.
ROWS = st.fixed_dictionaries(
    {
        "event_timestamp": st.sampled_from([toy.NOW.isoformat(), "2024-05-01T13:00:01Z", "noon"]),
        "origin": st.sampled_from(["JFK", "LGA", "EWR", "BOS", "XXX"]),
        "carrier": st.sampled_from(["AA", "B6", "UA", "ZZ"]),
        "plane": st.sampled_from([1, 2**40, 7]),
        "distance": st.floats(-1e6, 1e6) | st.just(1e300),
        "hour": st.integers(-(2**53), 2**53),
        "night": st.booleans(),
        "terminal": st.sampled_from(["A", "C", ""]),
    }
)
KINDS = ["v1", "plain", "event", "v2", "binary", "grpc", "grpc-raw"]
ASKED = st.tuples(st.sampled_from(KINDS), st.lists(ROWS, min_size=1, max_size=4))
# What none of them can read; what it says must not depend on its neighbours either.
BROKEN = st.tuples(st.sampled_from(["v1", "v2", "plain", "grpc"]), st.just([{"origin": "JFK"}]))


def kind_of(name: str) -> str:
    return toy.DATATYPES.get(name, "BYTES")


def raw(name: str, rows: list[dict[str, Any]]) -> bytes:
    values = [each[name] for each in rows]
    if kind_of(name) == "BYTES":
        return b"".join(struct.pack("<I", len(value.encode())) + value.encode() for value in values)
    return np.array(values, dtype={"FP64": "<f8", "INT64": "<i8", "BOOL": "?"}[kind_of(name)]).tobytes()


def ask_http(client: httpx.Client, kind: str, rows: list[dict[str, Any]]) -> Any:
    headers, protocol = {"content-type": "application/json"}, {"event": "v1", "binary": "v2"}.get(kind, kind)
    body: Any = {"v1": {"instances": rows}, "plain": rows}.get(protocol)
    content = toy.infer(rows) if body is None else orjson.dumps(body)
    if kind == "event":
        headers |= {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t"}
    if kind == "binary":
        parts = {name: raw(name, rows) for name in rows[0]}
        described = [
            {"name": name, "datatype": kind_of(name), "shape": [len(rows)],
             "parameters": {"binary_data_size": len(part)}}
            for name, part in parts.items()
        ]  # fmt: skip
        head = orjson.dumps({"id": "r1", "inputs": described})
        content = head + b"".join(parts.values())
        headers |= {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    answer = client.post(PATHS[protocol], content=content, headers=headers)
    return answer.status_code, comparable(answer.json())


def comparable(content: Any) -> Any:
    """An answer but for the ids of its predictions."""
    if isinstance(content, dict) and "outputs" in content:
        return [(each["name"], each["data"]) for each in content["outputs"] if each["name"] != "prediction_id"]
    rows = content.get("predictions", [content]) if isinstance(content, dict) else content
    return [{name: value for name, value in each.items() if name != "prediction_id"} for each in rows]


def ask_grpc(channel: grpc.Channel, kind: str, rows: list[dict[str, Any]]) -> Any:
    fields = {"BYTES": "bytes_contents", "FP64": "fp64_contents", "INT64": "int64_contents", "BOOL": "bool_contents"}
    message = pb.ModelInferRequest(model_name=toy.MODEL, id="r1")
    for name in rows[0]:
        own = message.inputs.add(name=name, datatype=kind_of(name), shape=[len(rows)])
        if kind == "grpc":
            values = [each[name].encode() if kind_of(name) == "BYTES" else each[name] for each in rows]
            getattr(own.contents, fields[kind_of(name)]).extend(values)
        else:
            message.raw_input_contents.append(raw(name, rows))
    call = channel.unary_unary(SERVICE + "ModelInfer", pb.ModelInferRequest.SerializeToString, None)
    try:
        answer = pb.ModelInferResponse.FromString(call(message, timeout=60))
    except grpc.RpcError as error:
        return error.code(), error.details()  # type: ignore[attr-defined]
    probability = answer.outputs[0].contents.fp64_contents or np.frombuffer(answer.raw_output_contents[0])
    errors = [list(each.contents.bytes_contents) for each in answer.outputs if each.name == "error"]
    if answer.raw_output_contents and len(answer.outputs) > 2:
        errors = [answer.raw_output_contents[2]]
    return [repr(value) for value in np.array(probability).tolist()], errors


@QUICK
@given(requests=st.lists(ASKED | BROKEN, min_size=20, max_size=60), data=st.data())
def test_requests_of_all_protocols_at_once_get_what_each_gets_alone(
    client: httpx.Client, channel: grpc.Channel, requests: list[Any], data: st.DataObject
) -> None:
    def ask(request: tuple[str, list[dict[str, Any]]]) -> Any:
        kind, rows = request
        return ask_grpc(channel, kind, rows) if kind.startswith("grpc") else ask_http(client, kind, rows)

    alone = [ask(request) for request in requests]
    order = data.draw(st.permutations(range(len(requests))))
    with ThreadPoolExecutor(16) as pool:
        together = dict(zip(order, pool.map(lambda at: ask(requests[at]), order), strict=True))
    assert [together[at] for at in range(len(requests))] == alone


def test_schemathesis_finds_nothing(served: Front, tmp_path: Path) -> None:
    config = Path(__file__).parents[1] / "schemathesis.toml"
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(config),
            "run", f"{served.url}/openapi.json", "--max-examples", "60", "--seed", "1",
            "--phases", "examples,coverage,fuzzing", "--continue-on-failure",
            "--generation-database", "none", "--warnings", "off", "--no-color",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "9 selected / 9 total" in done.stdout


BODIES = st.binary(max_size=400) | st.builds(
    lambda start, rest: start + rest,
    st.sampled_from([toy.infer([toy.row()]), b'{"instances": [', b'{"inputs": [{"name": "origin"', b"[{}, "]),
    st.binary(max_size=60),
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "content-type": st.sampled_from(
            ["application/json", "application/octet-stream", "multipart/form-data; boundary=x", "text/plain",
             "application/x-www-form-urlencoded", "application/cloudevents+json", "application/grpc", "image/png", "x"]
        ),
        "inference-header-content-length": st.sampled_from(["0", "5", "99999999999", "-1", "x", "٣"]).map(
            lambda text: text.encode()
        ),
        "content-encoding": st.sampled_from(["gzip", "br", "identity"]),
        "ce-specversion": st.sampled_from(["1.0", "x"]),
        "ce-id": st.just("1"),
        "x-serinus-protocol": st.sampled_from(["v2", "grpc/ModelInfer", "x"]),
        "expect": st.just("100-continue"),
    },
)  # fmt: skip


@MANY
@given(path=st.sampled_from(list(PATHS.values())), body=BODIES, headers=HEADERS)
def test_no_body_whatever_is_the_servers_error(
    client: httpx.Client, path: str, body: bytes, headers: dict[str, Any]
) -> None:
    answer = client.post(path, content=body, headers=headers)
    assert answer.status_code in (200, 400, 413, 415, 422), (answer.status_code, answer.text)


@MANY
@given(
    method=st.sampled_from(["ModelInfer", "ModelInfer", "ModelMetadata", "ServerLive", "Unheard"]),
    content=st.binary(max_size=200),
)
def test_no_grpc_message_whatever_is_the_servers_error(channel: grpc.Channel, method: str, content: bytes) -> None:
    code = channel.unary_unary(SERVICE + method, None, None).future(content, timeout=30).code()
    assert code.name in {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"}


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_100_mb_is_refused_and_costs_nothing(served: Front, chunked: bool) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(1_000_000)

    headers = {} if chunked else {"content-length": "100000000"}
    answer = httpx.post(served.url + PLAIN, content=parts(), headers=headers, timeout=30)
    assert answer.status_code == 413
    assert answer.json()["error"].startswith("the request's body is larger than 10485760 bytes")
    assert served.post(PLAIN, toy.row()).status_code == 200


def test_a_grpc_message_of_100_mb_is_refused(served: Front) -> None:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(served.address, options=options) as own, pytest.raises(grpc.RpcError) as caught:
        own.unary_unary(SERVICE + "ModelInfer", None, None)(bytes(100_000_000), timeout=30)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
    assert "larger than 10485760 bytes" in caught.value.details()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "headers",
    [
        {f"x-{number}": "1" for number in range(300)},
        {"x-long": "1" * 100_000},
        {f"x-{at}": "1" * 5000 for at in range(20)},
    ],
    ids=["many", "one long", "large together"],
)
def test_a_flood_of_headers_is_refused(served: Front, headers: dict[str, str]) -> None:
    answer = served.post(PLAIN, toy.row(), **headers)
    assert answer.status_code in (400, 431)
    assert served.post(PLAIN, toy.row()).status_code == 200


def test_a_client_that_sends_its_headers_slowly_is_shut_out(served: Front) -> None:
    host, _, port = served.address.partition(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(50)]
    try:
        started = time.monotonic()
        for each in slow:
            each.settimeout(20)
            each.sendall(f"POST {PLAIN} HTTP/1.1\r\nhost: x\r\nx-a: ".encode())
        assert served.post(PLAIN, toy.row()).status_code == 200, "others are answered meanwhile"
        for each in slow:
            assert b" 408 " in each.recv(1000)
            while each.recv(1000):
                pass
        assert time.monotonic() - started < 15
    finally:
        for each in slow:
            each.close()


def test_bodies_that_do_not_come_hold_no_place_in_the_queue(served: Front) -> None:
    host, _, port = served.address.partition(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(200)]
    try:
        for each in slow:
            each.sendall(f"POST {PLAIN} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{{".encode())
        answers = [served.post(PLAIN, toy.row()) for _ in range(50)]
        assert {answer.status_code for answer in answers} == {200}
        assert max(answer.elapsed.total_seconds() for answer in answers) < 5
        assert math.isfinite(answers[-1].json()["probability"])
    finally:
        for each in slow:
            each.close()
