"""TorchServe's configuration is a pure function of the spec; its log is read for the reason of a failure."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from datetime import timedelta
from pathlib import Path

import pytest

from serinus.core.spec.deployment import Batching, Predictor
from serinus.engines.torchserve import (
    Instance,
    command,
    environment,
    load_failure,
    log_configuration,
    properties,
    properties_text,
)

INSTANCE = Instance(
    model="flights",
    archive=Path("/srv/run/versions/3/store/flights-3.mar"),
    archive_version="1.0",
    folder=Path("/srv/run/versions/3"),
    temporary=Path("/srv/run/rt/torchserve-3"),
    inference_port=20001,
    management_port=20002,
    metrics_port=20003,
    grpc_inference_port=20004,
    grpc_management_port=20005,
)


def test_the_spec_decides_workers_batches_queue_and_time_limit() -> None:
    predictor = Predictor(
        workers=2,
        batching=Batching(max_size=32, max_delay=timedelta(milliseconds=5)),
        queue_size=500,
        timeout=timedelta(seconds=2.5),
    )
    found = properties(INSTANCE, predictor)
    model = json.loads(found["models"])["flights"]["1.0"]
    assert (model["minWorkers"], model["maxWorkers"]) == (2, 2)
    assert (model["batchSize"], model["maxBatchDelay"]) == (32, 5)
    assert model["responseTimeout"] == 3, "whole seconds, never less than the spec says"
    assert model["marName"] == "flights-3.mar"
    assert found["job_queue_size"] == "500"
    assert found["load_models"] == "flights=flights-3.mar"


def test_one_thread_reads_requests_and_one_talks_with_workers() -> None:
    found = properties(INSTANCE, Predictor(workers=4))
    assert (found["number_of_netty_threads"], found["netty_client_threads"]) == ("1", "1")


def test_all_five_servers_listen_on_the_loopback_and_take_no_configuration_from_the_environment() -> None:
    found = properties(INSTANCE, Predictor())
    for name, port in (("inference", 20001), ("management", 20002), ("metrics", 20003)):
        assert found[f"{name}_address"] == f"http://127.0.0.1:{port}"
    assert found["grpc_inference_address"] == found["grpc_management_address"] == "127.0.0.1"
    assert (found["grpc_inference_port"], found["grpc_management_port"]) == ("20004", "20005")
    assert found["enable_envvars_config"] == "false"
    assert found["enable_model_api"] == "false"
    assert found["install_py_dep_per_model"] == "false"
    assert found["disable_token_authorization"] == "true"


def test_requests_come_by_a_socket_where_there_is_one() -> None:
    instance = INSTANCE.model_copy(update={"inference_socket": Path("/srv/run/rt/torchserve-3/front.sock")})
    found = properties(instance, Predictor())
    assert found["inference_address"] == "unix:/srv/run/rt/torchserve-3/front.sock"
    assert found["management_address"] == "http://127.0.0.1:20002"
    assert instance.ports == (20002, 20003, 20004, 20005)


@pytest.mark.parametrize(("delay", "expected"), [(timedelta(0), 1), (timedelta(milliseconds=7), 7)])
def test_a_batch_waits_at_least_a_millisecond(delay: timedelta, expected: int) -> None:
    found = properties(INSTANCE, Predictor(batching=Batching(max_delay=delay)))
    assert json.loads(found["models"])["flights"]["1.0"]["maxBatchDelay"] == expected


def test_a_backslash_survives_javas_properties_format() -> None:
    assert properties_text({"a": "x\\y", "b": "1"}) == "a=x\\\\y\nb=1\n"


def test_the_java_heap_is_bounded_and_sockets_go_to_the_instances_own_folder() -> None:
    found = command(INSTANCE)
    assert any(each.startswith("-Xmx") for each in found)
    assert "-XX:+ExitOnOutOfMemoryError" in found
    assert "-Djava.io.tmpdir=/srv/run/rt/torchserve-3" in found
    assert "org.pytorch.serve.ModelServer" in found
    assert environment(INSTANCE)["TS_OPEN_INFERENCE_PROTOCOL"] == "oip"


def test_the_log_configuration_is_sound_and_quiet() -> None:
    root = ElementTree.fromstring(log_configuration())
    levels = {each.get("name"): each.get("level") for each in root.iter("Logger")}
    assert levels["ACCESS_LOG"] == levels["TS_METRICS"] == levels["MODEL_METRICS"] == "off"
    assert levels["MODEL_LOG"] == "info", "what a failing worker says must be kept"


LOG = """2026-01-01T00:00:00,000 INFO  MODEL_LOG model_name: flights, batchSize: 16
2026-01-01T00:00:00,001 INFO  MODEL_LOG Backend worker process died.
2026-01-01T00:00:00,001 INFO  MODEL_LOG Traceback (most recent call last):
2026-01-01T00:00:00,001 INFO  MODEL_LOG   File "handler.py", line 3, in initialize
2026-01-01T00:00:00,001 INFO  MODEL_LOG KeyError: 'x'
2026-01-01T00:00:00,001 INFO  MODEL_LOG The above exception was the direct cause of the following exception:
2026-01-01T00:00:00,002 WARN  BatchAggregator Load model failed: flights, error: Worker died.
2026-01-01T00:00:00,002 INFO  MODEL_LOG serinus.core.errors.NotFound: no such feature service
2026-01-01T00:00:05,001 INFO  MODEL_LOG Backend worker process died.
2026-01-01T00:00:05,001 INFO  MODEL_LOG ValueError: another
"""


def test_the_reason_of_a_failed_load_is_the_last_exception_of_the_first_attempt() -> None:
    assert load_failure(LOG) == "serinus.core.errors.NotFound: no such feature service"


def test_the_reason_of_a_runtime_error_is_what_was_logged_before_torchserve_raised_its_own() -> None:
    log = """INFO  MODEL_LOG model_name: flights, batchSize: 16
INFO  MODEL_LOG Failed to load model flights, exception no weights for layer 3
INFO  MODEL_LOG Traceback (most recent call last):
INFO  MODEL_LOG   File "handler.py", line 3, in initialize
INFO  MODEL_LOG RuntimeError: no weights for layer 3
INFO  MODEL_LOG Backend worker process died.
INFO  MODEL_LOG Traceback (most recent call last):
INFO  MODEL_LOG   File "model_service_worker.py", line 201, in handle_connection
INFO  MODEL_LOG RuntimeError: 500 - Unknown exception
"""
    assert load_failure(log) == "RuntimeError: no weights for layer 3"
    cut = log[log.index("INFO  MODEL_LOG Backend") :]
    assert load_failure(cut) == "RuntimeError: 500 - Unknown exception"


def test_a_log_without_a_failure_has_no_reason() -> None:
    assert load_failure("2026-01-01T00:00:00,000 INFO  MODEL_LOG Torch worker started.\n") is None


def test_a_worker_that_died_without_a_word_is_still_a_failure() -> None:
    assert load_failure("MODEL_LOG Backend worker process died.\n") is not None
