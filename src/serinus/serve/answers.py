"""Answers in the protocol of their request: the other half of `codec`."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from serinus.core.inference import ERROR, OUTPUTS, PREDICTION_ID, PROBABILITY, SERVED_FEATURES, STALE
from serinus.serve import cloudevents, rpc
from serinus.serve.codec import BINARY_HEADER, Protocol, Request
from serinus.serve.fields import RowError

_JSON = {"content-type": "application/json"}
_LISTED_ERRORS = 5
TOO_LATE = 504
"""The status of requests that nobody waits for any more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back for one request. A `probe` asked for no prediction: it is not counted among the requests."""

    status: int
    headers: dict[str, str]
    body: bytes
    probe: bool = False


@dataclass(slots=True)
class Results:
    """What became of one request's rows.

    `probabilities` has NaN where a row failed, and `errors` says why; `stale` names the feature views that were served
    past their age limit; `served` holds each row's column values where the request asked for them.
    """

    probabilities: NDArray[np.float64]
    ids: list[str]
    errors: dict[int, RowError] = field(default_factory=dict)
    stale: dict[int, list[str]] = field(default_factory=dict)
    served: list[dict[str, Any]] | None = None


class Writer:
    """Writes answers of one model version."""

    def __init__(self, model: str, version: int) -> None:
        self.model = model
        self.version = str(version)

    def write(self, request: Request, results: Results) -> Answer:
        """The answer to a request whose body could be read."""
        if len(results.errors) == request.rows:
            return self.failure(request.protocol, *_summary(results.errors))
        answer = self._write(request, results)
        if request.event is None:
            return answer
        return Answer(answer.status, *cloudevents.wrap(request.event, self.model, answer.headers, answer.body))

    def _write(self, request: Request, results: Results) -> Answer:
        if request.protocol in ("v2", "grpc"):
            return self._write_tensors(request, results)
        rows = self._objects(results)
        if request.protocol == "v1":
            return Answer(200, _JSON, orjson.dumps({"predictions": rows}))
        return Answer(200, _JSON, orjson.dumps(rows[0] if request.single else rows))

    def failure(self, protocol: Protocol, status: int, message: str) -> Answer:
        """An answer that says only what went wrong.

        By TorchServe's own gRPC service it is a whole response with one output, `error`: an answer without model name,
        id and outputs would take down its connection to the worker, with every request in the batch.
        """
        if protocol == "grpc":
            return Answer(status, rpc.failure_headers(status, message), b"")
        content: dict[str, Any] = {"error": message}
        if protocol == "torchserve":
            content |= self._head("")
            content["outputs"] = [{"name": ERROR, "datatype": "BYTES", "shape": [1], "data": [message]}]
        return Answer(status, _JSON, orjson.dumps(content))

    def _head(self, identifier: str) -> dict[str, Any]:
        return {"model_name": self.model, "model_version": self.version, "id": identifier}

    def _objects(self, results: Results) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for row, (probability, identifier) in enumerate(zip(results.probabilities.tolist(), results.ids, strict=True)):
            error = results.errors.get(row)
            if error is not None:
                rows.append({"error": error.message})
                continue
            answer = {PROBABILITY: probability, PREDICTION_ID: identifier, "model_version": self.version}
            if row in results.stale:
                answer[STALE] = results.stale[row]
            rows.append(answer)
        return rows

    def _write_tensors(self, request: Request, results: Results) -> Answer:
        content = self._head(request.id if request.id is not None else results.ids[0])
        if results.stale:
            content["parameters"] = {"stale_views": ",".join(sorted(set().union(*results.stale.values())))}
        tail = bytearray()
        content["outputs"] = [_tensor(name, values, request, tail) for name, values in _outputs(request, results)]
        if request.protocol == "grpc":
            return Answer(200, rpc.HEADERS, rpc.write_infer(content, bytes(tail)))
        head = orjson.dumps(content)
        if not request.binary:
            return Answer(200, _JSON, head)
        headers = {"content-type": "application/octet-stream", BINARY_HEADER: str(len(head))}
        return Answer(200, headers, head + bytes(tail))


def _summary(errors: dict[int, RowError]) -> tuple[int, str]:
    """Status and text for a request in which every row failed; our own failures count only if nothing else failed."""
    statuses = {error.status for error in errors.values()}
    messages = list(dict.fromkeys(errors[row].message for row in sorted(errors)))
    text = "; ".join(messages[:_LISTED_ERRORS])
    if len(messages) > _LISTED_ERRORS:
        text += f"; and {len(messages) - _LISTED_ERRORS} more"
    return min(statuses), text


def _outputs(request: Request, results: Results) -> list[tuple[str, list[Any]]]:
    """The tensors of an answer: those asked for, or the usual two; errors and stale views wherever there are any."""
    rows = range(request.rows)
    errors, stale = results.errors, results.stale
    asked = {PROBABILITY, PREDICTION_ID} if request.outputs is None else request.outputs
    found: list[tuple[str, list[Any]]] = []
    if PROBABILITY in asked:
        found.append((PROBABILITY, results.probabilities.tolist()))
    if PREDICTION_ID in asked:
        found.append((PREDICTION_ID, [None if row in errors else results.ids[row] for row in rows]))
    if results.served is not None:
        values = [None if row in errors else orjson.dumps(results.served[row]).decode() for row in rows]
        found.append((SERVED_FEATURES, values))
    if errors or ERROR in asked:
        found.append((ERROR, [errors[row].message if row in errors else None for row in rows]))
    if stale or STALE in asked:
        found.append((STALE, [",".join(stale[row]) if row in stale else None for row in rows]))
    return found


def _tensor(name: str, values: list[Any], request: Request, tail: bytearray) -> dict[str, Any]:
    datatype = OUTPUTS[name]
    tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [len(values)]}
    if name in request.binary:
        content = np.array(values, dtype="<f8").tobytes() if datatype == "FP64" else _packed(values)
        tail += content
        return tensor | {"parameters": {"binary_data_size": len(content)}}
    if request.protocol == "grpc" and datatype == "BYTES":
        values = [(value or "").encode() for value in values]
    return tensor | {"data": values}


def _packed(values: list[str | None]) -> bytes:
    """Strings as the binary tensor extension has them: each after its length; empty where there is none."""
    encoded = [(value or "").encode() for value in values]
    return b"".join(struct.pack("<I", len(value)) + value for value in encoded)
