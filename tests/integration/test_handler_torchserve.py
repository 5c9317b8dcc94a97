"""The handler inside a real TorchServe with two workers, and the sidecar beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serinus.core.spec import Predictor
from serinus.engines import archive, torchserve
from serinus.engines.ports import free_ports
from tests import support_serving as toy
from tests.support import eventually

HANDLER = Path(__file__).parents[2] / "serving" / "handler.py"


@dataclass(frozen=True)
class Running:
    instance: torchserve.Instance
    sidecar_port: int
    sidecar: subprocess.Popen[bytes]
    log: Path

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        address = f"http://127.0.0.1:{self.instance.inference_port}{path}"
        return httpx.post(address, content=content, headers={"content-type": "application/json", **headers}, timeout=30)

    def infer(self, body: Any, **headers: str) -> httpx.Response:
        return self.post(f"/v2/models/{toy.MODEL}/infer", body, **headers)

    def metrics(self) -> dict[tuple[str, ...], float]:
        from prometheus_client.parser import text_string_to_metric_families

        text = httpx.get(f"http://127.0.0.1:{self.sidecar_port}/metrics").text
        return {
            (
                sample.name,
                *(value for name, value in sorted(sample.labels.items()) if name not in ("model", "version")),
            ): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


def healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("serving")
    where = toy.platform(folder / "state")
    toy.write_model(folder / "model", toy.signature(where))
    mar = folder / "store" / f"{toy.MODEL}.mar"
    mar.parent.mkdir()
    parts = {name: folder / "model" / name for name in (archive.MODEL, archive.SIGNATURE, archive.PROFILE)}
    digest = archive.write_archive(mar, toy.MODEL, parts | {archive.HANDLER: HANDLER})
    config = folder / "serving.json"
    config.write_text(toy.config(where, digest=digest).model_dump_json())
    *ports, sidecar_port = free_ports(6)
    temporary = folder / "tmp"
    temporary.mkdir()
    names = ("inference_port", "management_port", "metrics_port", "grpc_inference_port", "grpc_management_port")
    instance = torchserve.Instance(
        model=toy.MODEL,
        archive=mar,
        archive_version="1.0",
        folder=folder,
        temporary=temporary,
        **dict(zip(names, ports, strict=True)),
    )
    predictor = Predictor.model_validate({"workers": 2, "batching": {"maxSize": 16, "maxDelay": "5ms"}})
    instance.properties_file.write_text(torchserve.properties_text(torchserve.properties(instance, predictor)))
    instance.log_file.write_text(torchserve.log_configuration())
    environment = os.environ | torchserve.environment(instance) | {"SERINUS_SERVING": str(config)}
    environment |= {"TMPDIR": str(temporary)}
    environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
    log = folder / "torchserve.txt"
    with log.open("wb") as output:
        server = subprocess.Popen(
            torchserve.command(instance),
            env=environment,
            cwd=folder,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    command = [sys.executable, "-m", "serinus", "sidecar", "--config", str(config), "--port", str(sidecar_port)]
    sidecar = subprocess.Popen(command)
    try:
        ready = eventually(
            lambda: server.poll() is not None or torchserve.worker_states(instance) == ["READY", "READY"], timeout=120
        )
        assert ready
        assert server.poll() is None, log.read_text()
        eventually(lambda: healthy(sidecar_port), timeout=30)
        yield Running(instance, sidecar_port, sidecar, log)
    finally:
        sidecar.kill()
        sidecar.wait(10)
        os.killpg(server.pid, signal.SIGKILL)  # the group is the server's own: it and its workers
        server.wait(10)


def test_every_protocol_is_answered(running: Running) -> None:
    v2 = running.infer(toy.infer([toy.row(), toy.row(origin="EWR")], "probability", "served_features"))
    assert v2.status_code == 200, v2.text
    assert v2.headers["content-type"] == "application/json"
    outputs = {output["name"]: output["data"] for output in v2.json()["outputs"]}
    assert v2.json()["model_version"] == "3"
    assert json.loads(outputs["served_features"][0])["hourly__delay"] == 1.5
    v1 = running.post(f"/v1/models/{toy.MODEL}:predict", {"instances": [toy.row(), toy.row(origin="EWR")]})
    assert [each["probability"] for each in v1.json()["predictions"]] == outputs["probability"]
    plain = running.post(f"/predictions/{toy.MODEL}", toy.row())
    assert plain.json()["probability"] == outputs["probability"][0]


def test_binary_tensors_pass_through_torchserve(running: Running) -> None:
    expected = running.post(f"/predictions/{toy.MODEL}", toy.row()).json()["probability"]
    head = json.loads(toy.infer([toy.row()]))
    distance = next(each for each in head["inputs"] if each["name"] == "distance")
    distance.update(parameters={"binary_data_size": 8})
    del distance["data"]
    head["outputs"] = [{"name": "probability", "parameters": {"binary_data": True}}]
    text = json.dumps(head).encode()
    answer = running.infer(
        text + np.array([1000.5]).tobytes(),
        **{"inference-header-content-length": str(len(text)), "content-type": "application/octet-stream"},
    )
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    assert np.frombuffer(answer.content[length : length + 8])[0] == expected


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"{", {}, 400, "text that is not JSON"),
        (b'{"origin": NaN}', {}, 400, "text that is not JSON"),
        (b"", {}, 400, "found nothing"),
        (toy.row(origin=3), {}, 422, "origin: found 3, allowed: a string"),
        (toy.row(), {"content-type": "text/plain"}, 200, "probability"),
        (b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 400, "found nothing"),
    ],
)
def test_bad_requests_get_their_own_status(
    running: Running, body: Any, headers: dict[str, str], status: int, words: str
) -> None:
    answer = running.post(f"/predictions/{toy.MODEL}", body, **headers)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


def test_the_front_may_say_which_protocol_it_is(running: Running) -> None:
    answer = running.post(f"/predictions/{toy.MODEL}", {"instances": [toy.row()]}, **{"x-serinus-protocol": "v1"})
    assert "predictions" in answer.json()


def test_torchserves_own_grpc_service_says_that_it_is_not_served(running: Running) -> None:
    """Its answer must be one that TorchServe understands: any other takes down the worker's connection."""
    import grpc
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

    with grpc.insecure_channel(f"127.0.0.1:{running.instance.grpc_inference_port}") as channel:
        call = channel.unary_unary(
            "/org.pytorch.serve.grpc.openinference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        tensor = pb.ModelInferRequest.InferInputTensor(
            name="origin", shape=[1], datatype="BYTES", contents=pb.InferTensorContents(bytes_contents=[b"JFK"])
        )
        answer = call(pb.ModelInferRequest(model_name=toy.MODEL, id="g1", inputs=[tensor]), timeout=30)
    assert answer.outputs[0].name == "error"
    assert b"call inference.GRPCInferenceService" in answer.outputs[0].contents.bytes_contents[0]
    assert running.post(f"/predictions/{toy.MODEL}", toy.row()).status_code == 200
    assert "Backend worker process died" not in running.log.read_text()


def test_requests_in_a_batch_get_their_own_answers(running: Running) -> None:
    origins = ["JFK", "LGA", "EWR", "XXX", 3]
    rows = [toy.row(origin=origins[at % 5], distance=float(at)) for at in range(200)]
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda row: running.post(f"/predictions/{toy.MODEL}", row), rows))
    alone = [running.post(f"/predictions/{toy.MODEL}", row) for row in rows[:25]]
    for one, other in zip(alone, together, strict=False):
        assert one.status_code == other.status_code
        assert one.json().get("probability") == other.json().get("probability")
    assert Counter(answer.status_code for answer in together) == {200: 160, 422: 40}


def predictions_counted(metrics: dict[tuple[str, ...], float]) -> float:
    return sum(value for key, value in metrics.items() if key[0] == "serinus_prediction_values_total")


def test_the_sidecar_adds_up_what_the_workers_counted(running: Running) -> None:
    seen: list[float] = []

    def settled() -> bool:
        seen.append(predictions_counted(running.metrics()))
        return len(seen) > 1 and seen[-1] == seen[-2]

    # Values are written twice a second: those of the tests before must not be taken for this one's.
    eventually(settled, interval=1.0)
    before = running.metrics()
    rows = [toy.row(origin="XXX" if at % 4 == 0 else "JFK") for at in range(100)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda row: running.post(f"/predictions/{toy.MODEL}", row), rows))

    def grown(*key: str) -> float:
        return running.metrics().get(key, 0) - before.get(key, 0)

    assert grown("serinus_requests_total", "200", "live") == 100
    assert grown("serinus_rows_total", "ok", "live") == 100
    assert grown("serinus_feature_missing_total", "absent", "live", "hourly") == 25
    assert grown("serinus_request_duration_seconds_count", "live") == 100
    assert grown("serinus_batch_size_sum") == 100
    assert grown("serinus_batch_size_count") <= 100
    assert eventually(lambda: grown("serinus_feature_values_total", "0", "hourly__delay") == 25)
    assert eventually(lambda: predictions_counted(running.metrics()) - predictions_counted(before) == 100)
    assert sum(key[0] == "serinus_model_info" for key in running.metrics()) == 1


def test_a_dead_worker_keeps_its_counts_and_costs_no_information(running: Running) -> None:
    import psutil

    running.post(f"/predictions/{toy.MODEL}", toy.row())
    key = ("serinus_requests_total", "200", "live")
    before = running.metrics()[key]
    address = f"http://127.0.0.1:{running.instance.management_port}/models/{toy.MODEL}"
    victim = httpx.get(address).json()[0]["workers"][0]["pid"]
    psutil.Process(victim).kill()
    eventually(lambda: not psutil.pid_exists(victim))
    assert running.metrics()[key] == before
    metrics = Path(running.log.parent / "state" / "metrics")
    assert not list(metrics.glob(f"gauge_live*_{victim}.db"))
    assert list(metrics.glob(f"counter_{victim}.db"))
    eventually(lambda: torchserve.worker_states(running.instance) == ["READY", "READY"], timeout=60)
    assert running.post(f"/predictions/{toy.MODEL}", toy.row()).status_code == 200


def test_the_sidecar_answers_only_what_it_has(running: Running) -> None:
    address = f"http://127.0.0.1:{running.sidecar_port}"
    assert httpx.get(f"{address}/healthz").text == "ok\n"
    assert httpx.get(f"{address}/").status_code == 404
    assert httpx.post(f"{address}/metrics").status_code == 405
    command = [sys.executable, "-m", "serinus", "sidecar", "--port", str(running.sidecar_port)]
    config = ["--config", str(running.log.parent / "serving.json")]
    taken = subprocess.run([*command, *config], capture_output=True, text=True, timeout=60)
    assert taken.returncode == 4
    assert f"cannot listen on 127.0.0.1:{running.sidecar_port}" in taken.stderr


def test_the_sidecar_ends_when_told_to(running: Running, tmp_path: Path) -> None:
    [port] = free_ports(1)
    command = [sys.executable, "-m", "serinus", "sidecar", "--port", str(port), "--config"]
    process = subprocess.Popen([*command, str(running.log.parent / "serving.json")])
    try:
        eventually(lambda: healthy(port), timeout=30)
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture
def prometheus(running: Running, tmp_path: Path) -> Iterator[str]:
    """A real Prometheus that scrapes the sidecar every half second; its address."""
    config = tmp_path / "prometheus.yml"
    target = f"127.0.0.1:{running.sidecar_port}"
    config.write_text(
        "global: {scrape_interval: 500ms, scrape_timeout: 500ms}\n"
        f"scrape_configs: [{{job_name: serinus, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = [
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path}", f"--web.listen-address={address}"
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        yield f"http://{address}"
        process.terminate()


def value_of(address: str, query: str) -> float | None:
    try:
        answer = httpx.get(f"{address}/api/v1/query", params={"query": query}).json()
    except (httpx.TransportError, ValueError):
        return None
    found = answer["data"]["result"] if answer.get("status") == "success" else []
    return float(found[0]["value"][1]) if found else None


@pytest.mark.prometheus
def test_prometheus_scrapes_what_was_counted(running: Running, prometheus: str) -> None:
    running.infer(json.loads(toy.infer([toy.row()])))
    counted = running.metrics()
    requests = sum(value for key, value in counted.items() if key[0] == "serinus_requests_total")
    assert requests > 0
    assert eventually(lambda: value_of(prometheus, "sum(serinus_requests_total)") == requests, timeout=30)
    quantile = "histogram_quantile(0.99, sum by (le) (serinus_request_duration_seconds_bucket))"
    assert (value_of(prometheus, quantile) or 0) > 0
    assert value_of(prometheus, "count(serinus_model_info)") == 1


@pytest.mark.prometheus
def test_promtool_finds_nothing_wrong_with_the_metrics(running: Running) -> None:
    text = httpx.get(f"http://127.0.0.1:{running.sidecar_port}/metrics").content
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")
