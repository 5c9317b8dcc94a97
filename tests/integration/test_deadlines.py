"""Deadlines through Envoy and TorchServe: who is not waited for any more is not worked for either."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import psutil
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from tests import support_serving as toy
from tests.support import eventually
from tests.support_front import Front, front

pytestmark = pytest.mark.timeout(180)

SERVICE = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with front(tmp_path_factory.mktemp("front")) as found:
        yield found


def ask_grpc(address: str, seconds: float) -> str:
    message = pb.ModelInferRequest(model_name=toy.MODEL, id="late")
    fields = {"BYTES": "bytes_contents", "FP64": "fp64_contents", "INT64": "int64_contents", "BOOL": "bool_contents"}
    for name, value in toy.row().items():
        kind = toy.DATATYPES.get(name, "BYTES")
        tensor = message.inputs.add(name=name, datatype=kind, shape=[1])
        getattr(tensor.contents, fields[kind]).append(value.encode() if kind == "BYTES" else value)
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(SERVICE, pb.ModelInferRequest.SerializeToString, None)
        try:
            call(message, timeout=seconds)
        except grpc.RpcError as error:
            return str(error.code().name)  # type: ignore[attr-defined]
    return "OK"


def test_requests_that_waited_too_long_are_dropped_and_the_next_ones_are_not(served: Front) -> None:
    workers = [psutil.Process(pid) for pid in served.workers()]
    before = served.metrics()
    for worker in workers:
        worker.suspend()
    try:
        started = time.monotonic()
        with ThreadPoolExecutor(40) as pool:
            hurried = [
                pool.submit(served.infer, toy.infer([toy.row()]), **{"x-request-timeout-ms": "150"}) for _ in range(30)
            ]
            by_grpc = [pool.submit(ask_grpc, served.address, 0.15) for _ in range(5)]
            patient = [pool.submit(served.infer, toy.infer([toy.row()])) for _ in range(5)]
            statuses = Counter(each.result().status_code for each in hurried)
            codes = Counter(each.result() for each in by_grpc)
            assert time.monotonic() - started < 5
            for worker in workers:
                worker.resume()
            assert {each.result().status_code for each in patient} == {200}
    finally:
        for worker in workers:
            worker.resume()
    assert statuses == {504: 30}
    assert codes == {"DEADLINE_EXCEEDED": 5}

    def grown(name: str, **labels: str) -> float:
        found = served.metrics()
        wanted = set(labels.items())
        return sum(value - before.get(key, 0) for key, value in found.items() if key[0] == name and wanted <= key[1])

    eventually(lambda: grown("serinus_requests_total") == 40)
    assert grown("serinus_requests_total", code="504") == 35
    assert grown("serinus_rows_total", result="ok") == 5
    assert grown("serinus_log_rows_total") == 5
    assert served.infer(toy.infer([toy.row()]), **{"x-request-timeout-ms": "5000"}).status_code == 200


def test_a_slow_client_is_not_taken_for_a_late_one(served: Front) -> None:
    """Its deadline runs from when its body is there, as Envoy's does."""

    def parts() -> Iterator[bytes]:
        content = toy.infer([toy.row()])
        yield content[:100]
        time.sleep(0.4)
        yield content[100:]

    headers = {"content-type": "application/json", "x-request-timeout-ms": "300"}
    answer = httpx.post(f"{served.url}/v2/models/{toy.MODEL}/infer", content=parts(), headers=headers, timeout=10)
    assert answer.status_code == 200
