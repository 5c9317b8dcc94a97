"""Where the time of a batch goes inside a worker: each step of the handler alone, in this process.

    python -m benchmarks.serving.parts [--store redis|sqlite] [--rows 64]

prints microseconds a row, of Zipf keys with the cache and of uniform keys without it; the best tenth of many rounds, as
other work on the machine only ever adds. Cached rows last a second here too: some are read again.
"""

from __future__ import annotations

import argparse
import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from serinus.core.serving import ServingConfig
from serinus.serve import telemetry

if TYPE_CHECKING:
    from benchmarks.serving.ground import Prepared
    from serinus.serve.handler import Predictor

ROUNDS = 300
# What the front door adds to a request, and what wrk sends. The deadline is an hour away: one that has passed is not
# worth a prediction.
HEADERS = {
    "host": "127.0.0.1:8080", "content-type": "application/json", "content-length": "190", "x-serinus-protocol": "v1",
    "x-serinus-start": f"{time.time():.6f}", "x-serinus-received": "0", "x-envoy-attempt-count": "1",
    "x-envoy-expected-rq-timeout-ms": "3600000",
    "x-request-id": "c9b0a1d2-2f54-4d3e-9a6b-0123456789ab",
    "traceparent": "00-c9b0a1d22f544d3e9a6b0123456789ab-c9b0a1d289abcdef-00",
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.parts", description=__doc__)
    parser.add_argument("--store", choices=["redis", "sqlite"], default="redis")
    parser.add_argument("--rows", type=int, default=64, help="requests of one row in a batch")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        telemetry.configure(Path(folder) / "metrics")  # before Feast is imported
        from benchmarks.serving.ground import prepared

        with prepared(Path(folder), given.store) as ground:
            cached = steps(ground, given.rows, cached=True)
            uncached = steps(ground, given.rows, cached=False)
    table = Table(
        title=f"A worker's time, batches of {given.rows}, store {given.store}: us a row", title_justify="left"
    )
    table.add_column("step")
    table.add_column("cached", justify="right")
    table.add_column("uncached", justify="right")
    for name, value in uncached.items():
        table.add_row(name, f"{cached[name]:.2f}" if name in cached else "", f"{value:.2f}")
    Console().print(table)
    return 0


def steps(ground: Prepared, rows: int, *, cached: bool) -> dict[str, float]:
    """Microseconds a row by step; `all of the handler` is measured as a whole, the log's hand-over included."""
    from benchmarks.serving.peers.base import v1
    from serinus.serve import wire
    from serinus.serve.handler import Predictor, _join

    folder = Path(ground.ground.folder)
    config = ServingConfig(
        version=1, digest="sha256:0", deployment=ground.deployment, platform=ground.platform,
        feature_project=ground.project, metrics_dir=folder / "metrics", spool_dir=folder / "spool",
        cache_age=timedelta(seconds=1 if cached else 0),
    )  # fmt: skip
    predictor = Predictor.load(config, Path(ground.ground.model))
    bodies = [v1(row) for row in ground.rows["zipf" if cached else "uniform"]]
    batches = [bodies[at : at + rows] for at in range(0, len(bodies) - rows, rows)]
    messages = [_message(batch) for batch in batches]
    read = [wire.parse(message) for message in messages]
    answers = [predictor.handle(batch.requests) for batch in read[:20]]
    requests = [[predictor._parse(raw) for raw in batch.requests] for batch in read]
    joined = [_join(each, predictor._schema) for each in requests]  # type: ignore[arg-type]
    checked = [predictor._schema.check(each.columns, each.rows, each.place) for each in joined]
    everyone = list(range(rows))
    pair = socket.socketpair()
    columns = [predictor._columns(joined[at], checked[at], everyone) for at in range(20)]
    arrays = [predictor.signature.encode(each) for each in columns]
    found = {
        "(read it by TorchServe's own means)": _best(lambda at: _own_read(pair, messages[at]), len(messages)),
        "read the socket's message": _best(lambda at: _read(pair, messages[at], wire.receive), len(messages)),
        "parse requests": _best(lambda at: [predictor._parse(raw) for raw in read[at].requests], len(read)),
        "join and check rows": _best(lambda at: _check(predictor, _join(requests[at], predictor._schema)), len(read)),  # type: ignore[arg-type]
        "look features up, judge ages": _best(
            lambda at: predictor._columns(joined[at], checked[at], everyone), len(read)
        ),
        **({} if cached else _reads(predictor, [each.columns for each in checked[:20]], rows)),
        "encode": _best(lambda at: predictor.signature.encode(columns[at]), 20),
        "model": _best(lambda at: predictor._model.probabilities(*arrays[at]), 20),
        "all of the handler": _best(lambda at: predictor.handle(read[at].requests), len(read)),
        "write the socket's message": _best(lambda at: wire.encode(read[at].ids, answers[at]), 20),
    }
    predictor.close()
    for each in pair:
        each.close()
    return {name: value / rows for name, value in found.items()}


def _reads(predictor: Predictor, columns: list[Any], rows: int) -> dict[str, float]:
    """The parts of a lookup that has to read."""
    from serinus.serve.lookup import LookedUp
    from serinus.serve.reader import Read

    lookup = predictor._lookup
    wanted = [[lookup._wanted(view, view.keys(each, rows), LookedUp()) for view in lookup._views] for each in columns]
    reads = [
        [Read(wish.view.name, list(map(wish.view.asked, wish.missing)), wish.view.features) for wish in each]
        for each in wanted
    ]
    answers = [list(zip(each, lookup._reader.read(reads[at]), strict=True)) for at, each in enumerate(wanted)]
    return {
        "of it the store's answer": _best(lambda at: lookup._reader.read(reads[at]), len(reads)),
        "of it its values into rows": _best(
            lambda at: [[wish.view.decode(row) for row in answer] for wish, answer in answers[at]], len(answers)
        ),
    }


def _read(pair: tuple[socket.socket, socket.socket], message: bytes, read: Callable[[socket.socket], Any]) -> Any:
    pair[0].sendall(message)
    return read(pair[1])


def _own_read(pair: tuple[socket.socket, socket.socket], message: bytes) -> None:
    """What TorchServe does without ours (docs/performance.md): a batch from the socket into its objects."""
    from ts.protocol import otf_message_handler
    from ts.service import Service

    Service.retrieve_data_for_inference(_read(pair, message, otf_message_handler._retrieve_inference_msg))


def _check(predictor: Any, batch: Any) -> None:
    predictor._schema.check(batch.columns, batch.rows, batch.place)


def _best(step: Callable[[int], Any], inputs: int) -> float:
    """Microseconds of a step, its fastest tenth; inputs in turn."""
    spent = []
    for at in range(ROUNDS):
        start = time.perf_counter()
        step(at % inputs)
        spent.append(time.perf_counter() - start)
    return sorted(spent)[ROUNDS // 10] * 1e6


def _message(bodies: list[bytes]) -> bytes:
    """A batch as TorchServe's front end writes it."""

    def counted(content: bytes) -> bytes:
        return struct.pack("!i", len(content)) + content

    end = struct.pack("!i", -1)
    headers = b"".join(counted(word.encode()) for pair in HEADERS.items() for word in pair) + end
    parts = (counted(b"body") + counted(b"application/json") + counted(body) + end for body in bodies)
    name = counted(b"c9b0a1d2-2f54-4d3e-9a6b-0123456789ab")
    return b"".join(name + headers + part for part in parts) + end


if __name__ == "__main__":
    raise SystemExit(main())
