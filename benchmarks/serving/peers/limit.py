"""The limit: TorchServe with encoded features in the request and a minimal handler; model and settings are ours."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.serving.given import positional
from benchmarks.serving.ground import Prepared
from benchmarks.serving.peers.base import HERE, Running, await_answer, processes
from serinus.core.spec.deployment import Predictor
from serinus.engines import archive, torchserve
from serinus.engines.files import write_text
from serinus.engines.ports import free_ports


def bodies(prepared: Prepared, rows: list[dict[str, Any]]) -> list[bytes]:
    """Requests with the features that the store has for the rows."""
    from benchmarks.serving.peers.scorer import Scorer

    found = Scorer(prepared.ground)
    keys = [{name: row[name] for name in found.signature.join_keys} for row in rows]
    columns = found._store.get_online_features(found._service, keys, full_feature_names=True).to_dict()
    columns |= {each.name: [row.get(each.name) for row in rows] for each in found.signature.request_columns}
    encoded = positional(found.signature, columns)
    return [json.dumps({"instances": [each]}, separators=(",", ":")).encode() for each in encoded]


@contextlib.contextmanager
def running(prepared: Prepared, predictor: Predictor, body: bytes, port: int) -> Iterator[Running]:
    """TorchServe with the minimal handler on a port."""
    home = Path(prepared.ground.folder) / f"limit-{port}"
    (home / "store").mkdir(parents=True)
    (home / "tmp").mkdir()
    model = Path(prepared.ground.model)
    parts = {name: model / name for name in archive.PARTS} | {archive.HANDLER: HERE / "limit_handler.py"}
    archive.write_archive(home / "store" / "flights.mar", "flights", parts)
    ports = free_ports(4)
    instance = torchserve.Instance(
        model="flights", archive=home / "store" / "flights.mar", archive_version="1.0", folder=home,
        temporary=home / "tmp", inference_port=port, management_port=ports[0], metrics_port=ports[1],
        grpc_inference_port=ports[2], grpc_management_port=ports[3],
    )  # fmt: skip
    write_text(instance.properties_file, torchserve.properties_text(torchserve.properties(instance, predictor)))
    write_text(instance.log_file, torchserve.log_configuration())
    environment = torchserve.environment(instance) | {"TMPDIR": str(home / "tmp"), "PYTHONPATH": ":".join(sys.path[1:])}
    log = home / "log"
    with processes({"torchserve": torchserve.command(instance)}, log, environment) as roots:
        url = f"http://127.0.0.1:{port}/v1/models/flights:predict"
        await_answer(url, body, log)
        yield Running(url, lambda: labelled(roots["torchserve"]))


def labelled(java: int) -> dict[str, int]:
    """TorchServe's front end and its worker apart."""
    import psutil

    workers = psutil.Process(java).children()
    return {"front end": java} | {f"worker {at}" if at else "worker": each.pid for at, each in enumerate(workers)}
