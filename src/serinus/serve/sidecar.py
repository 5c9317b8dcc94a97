"""The small process beside a predictor's workers: adds up what they counted, takes outcomes, ships the log.

It shares the workers' folders of metrics and of the log, and must see their process ids: the same container, or one
process namespace.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from serinus.core.errors import Conflict, EngineError, InvalidInput
from serinus.core.serving import ServingConfig
from serinus.engines.prediction_store import PredictionStore
from serinus.serve.telemetry import MULTIPROCESS_FOLDER

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from uvicorn import Server

    from serinus.serve.outcomes import Intake
    from serinus.serve.ship import Shipper

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
PREFIX = "serinus_"
BODY_LIMIT = 10 * 1024 * 1024
_LIVE_FILE = re.compile(r"gauge_live[a-z]*_(\d+)\.db")
_LAST_SHIPPING_SECONDS = 5.0
_SHUTDOWN_SECONDS = 5


def forget_dead_workers(folder: Path) -> None:
    """Remove the live gauges of processes that are gone. Their counters stay: a counter must not fall."""
    from prometheus_client import multiprocess

    found = (_LIVE_FILE.fullmatch(path.name) for path in folder.glob("gauge_live*.db"))
    for pid in {int(match.group(1)) for match in found if match is not None}:
        if not _alive(pid):
            multiprocess.mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def application(config: ServingConfig, door: Path | None = None) -> Starlette:
    """`/metrics` for Prometheus, `/healthz` for probes and, where there is a log, `POST /v1/outcomes`.

    Args:
        config: the predictor's.
        door: the admin socket of the Envoy in front, which counts the use of quotas.

    Raises:
        Conflict: another sidecar has the log's folder.
        InvalidInput: nothing that is installed knows the log's destination.
    """
    folder = config.metrics_dir
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[MULTIPROCESS_FOLDER] = str(folder)
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    class OwnMetrics(MultiProcessCollector):
        """Feast counts into the same folder, for a server that is not running here."""

        def collect(self) -> Iterator[Any]:
            found = super().collect()  # type: ignore[no-untyped-call]
            return (family for family in found if family.name.startswith(PREFIX))

    registry = CollectorRegistry()
    OwnMetrics(registry, path=str(folder))  # type: ignore[no-untyped-call]
    if door is not None and config.deployment.traffic.quota is not None:
        from serinus.serve.door_metrics import DoorCollector

        registry.register(DoorCollector(door, config.deployment.model.name))
    routes = [Route("/metrics", _metrics(folder, registry)), Route("/healthz", _healthy)]
    beside = [_door(config, registry)]
    if config.logged:
        intake, shipper = _log(config, registry)
        routes.append(Route("/v1/outcomes", _outcomes(intake), methods=["POST"]))
        beside.append(_shipping(intake, shipper))

    @asynccontextmanager
    async def running(_: Starlette) -> AsyncIterator[None]:
        with ExitStack() as stack:
            for each in beside:
                stack.enter_context(each)
            yield

    return Starlette(routes=routes, lifespan=running, exception_handlers={HTTPException: _refused})


def _door(config: ServingConfig, registry: CollectorRegistry) -> AbstractContextManager[None]:
    """What the front door counts, and since when everything here counts."""
    from serinus.serve.door_counts import Counting, DoorCounts
    from serinus.serve.log import epoch

    model = config.deployment.model.name
    registry.register(Counting(model, epoch(config.metrics_dir)))
    if config.door_admin is None:
        return nullcontext()
    counts = DoorCounts(config.door_admin, model, config.metrics_dir)
    registry.register(counts)
    return counts.watching()


@contextmanager
def _shipping(intake: Intake, shipper: Shipper) -> Iterator[None]:
    from serinus.serve.ship import shipping

    with shipping(shipper, intake.close_if_due, _LAST_SHIPPING_SECONDS):
        try:
            yield
        finally:
            intake.close()  # comes first, so that what it has is shipped too


def _log(config: ServingConfig, registry: CollectorRegistry) -> tuple[Intake, Shipper]:
    from serinus.serve.log import epoch
    from serinus.serve.log_metrics import LogCollector
    from serinus.serve.outcomes import Intake
    from serinus.serve.ship import Shipper

    spool = config.spool_dir
    assert spool is not None
    destination = config.log_destination
    store = PredictionStore(destination, config.platform.options_for(destination))
    limit = config.deployment.log.buffer_limit
    shipper = Shipper(spool, store, limit, config.metrics_dir, epoch(config.metrics_dir))
    intake = Intake(config, spool)
    registry.register(LogCollector(shipper, intake, config.deployment.model.name))
    log.info("prediction log goes from %s to %s", spool, store.url)
    return intake, shipper


def _metrics(folder: Path, registry: CollectorRegistry) -> Callable[[Request], Response]:
    from prometheus_client.exposition import choose_encoder

    def answer(request: Request) -> Response:
        forget_dead_workers(folder)
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": kind})

    return answer


def _healthy(_: Request) -> Response:
    return PlainTextResponse("ok\n")


def _outcomes(intake: Intake) -> Callable[[Request], object]:
    async def answer(request: Request) -> Response:
        body = await _body(request)
        try:
            posted = await run_in_threadpool(intake.post, body)
        except InvalidInput as error:
            return _error(400, str(error))
        except EngineError as error:
            log.error("%s", error)
            return JSONResponse({"error": str(error)}, 503, {"Retry-After": "1"})
        return JSONResponse(posted.content(), posted.status)

    return answer


async def _body(request: Request) -> bytes:
    """The request's body, no further than the limit."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_LIMIT:
            raise HTTPException(413, f"the request's body is larger than {BODY_LIMIT} bytes")
    return bytes(body)


def _refused(_: Request, error: Exception) -> Response:
    """What the framework refuses, in our form of an error."""
    assert isinstance(error, HTTPException)
    words = {404: "there is no such path here", 405: "this path does not take this method"}
    return _error(error.status_code, words.get(error.status_code, error.detail), dict(error.headers or {}))


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status, headers)


def listen(port: int, address: str = LOOPBACK) -> socket.socket:
    """A bound socket; port 0 takes a free one.

    Raises:
        Conflict: the port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise Conflict(f"cannot listen on {address}:{port}: {error.strerror}", hint="choose another port") from error
    return listener


def server(config: ServingConfig, door: Path | None = None) -> Server:
    """A server for `run(sockets=[listen(port)])`, ended in order by SIGTERM and SIGINT. Raises as `application`."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            application(config, door),
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            limit_concurrency=256,
        )
    )
