"""Serinus, started as `serinus up` starts it: Envoy, TorchServe, the sidecar; freshness, telemetry and log on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from benchmarks.serving.ground import Prepared
from benchmarks.serving.measure import Roots
from benchmarks.serving.peers.base import START_SECONDS, Running, await_answer
from serinus.control import stack
from serinus.control.instance import Serving
from serinus.control.state import RunFolder, StackState
from serinus.engines import processes
from serinus.engines.ports import free_ports


@dataclass(frozen=True)
class Door(Running):
    """The predictor's front door, and the socket behind it."""

    socket: Path


@contextlib.contextmanager
def running(prepared: Prepared, cached: bool, body: bytes) -> Iterator[Door]:
    """Serve the model, with or without the cache of decoded rows."""
    spec = prepared.deployment
    if not cached:
        features = spec.features.model_copy(update={"cache_age": timedelta(0)})
        spec = spec.model_copy(update={"features": features})
    # Stacks of one platform know of each other by its folder: each gets its own, the store is the same.
    home = prepared.platform.state / ("cached" if cached else "uncached")
    platform = prepared.platform.model_copy(update={"state": home})
    serving = Serving(platform=platform, deployment=spec, feature_project=prepared.project)
    (port,) = free_ports(1)
    options = stack.Options(port=port, ready_seconds=START_SECONDS, progress=lambda _: None)
    stack.up(serving, prepared.version, prepared.registry.fetch, options)
    try:
        folder = RunFolder(platform)
        state = folder.read()
        assert state is not None
        log = folder.supervisor(state).log("envoy")
        url = f"{state.address}/v1/models/{state.model}:predict"
        await_answer(url, body, log)
        (instance,) = state.instances.values()
        assert instance.inference_socket is not None
        yield Door(url, lambda: _roots(state), instance.inference_socket)
    finally:
        stack.down(platform)


def _roots(state: StackState) -> Roots:
    found: dict[str, int] = {}
    for each in processes.marked(state.mark):
        words = " ".join(processes.command_line(each))
        for label, sign in _SIGNS.items():
            if sign in words:
                found[label] = each.pid
                break
    return found


_SIGNS = {
    "worker": "model_service_worker",
    "front end": "org.pytorch.serve.ModelServer",
    "envoy": "_bin/envoy",
    "sidecar": "serinus sidecar",
    "supervisor": "supervisord",
}
