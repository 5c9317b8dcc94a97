"""Triton's gRPC client against a front door, as a program of its own: its messages and KServe's have the same names, so
that one process cannot load both. Prints what it got as JSON.

    python triton_grpc_client.py HOST:PORT MODEL TIME
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton


def tensor(name: str, values: Any, datatype: str) -> triton.InferInput:
    array = np.array(values, dtype={"BYTES": object, "FP64": np.float64, "INT64": np.int64}[datatype])
    found = triton.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array)
    return found


def refused(call: Any, *arguments: Any, **options: Any) -> list[str]:
    try:
        call(*arguments, **options)
    except triton.InferenceServerException as error:
        return [error.status(), error.message()]
    return ["answered", ""]


def main(address: str, model: str, time: str) -> dict[str, Any]:
    inputs = [
        tensor("origin", ["JFK", "LGA", "XXX"], "BYTES"),
        tensor("carrier", ["AA", "B6", "ZZ"], "BYTES"),
        tensor("plane", [1, 2, 3], "INT64"),
        tensor("distance", [1000.5, np.nan, 3.0], "FP64"),
        tensor("event_timestamp", [time] * 3, "BYTES"),
    ]
    with triton.InferenceServerClient(address) as client:
        answer = client.infer(model, inputs, request_id="t1", client_timeout=20.0)
        asked = [triton.InferRequestedOutput("prediction_id")]
        chosen = client.infer(model, inputs, outputs=asked, parameters={"tag": "x"}, priority=2)
        half = [*inputs[:-1], tensor("event_timestamp", [time, "noon", time], "BYTES")]
        partial = client.infer(model, half)
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready(model),
            "server": client.get_server_metadata(as_json=True),
            "model": client.get_model_metadata(model, as_json=True),
            "id": answer.get_response().id,
            "version": answer.get_response().model_version,
            "probability": answer.as_numpy("probability").tolist(),
            "prediction_id": [each.decode() for each in answer.as_numpy("prediction_id")],
            "chosen": [each.name for each in chosen.get_response().outputs],
            "partial": [value == value for value in partial.as_numpy("probability").tolist()],
            "errors": [each.decode() for each in partial.as_numpy("error")],
            "unknown_model": refused(client.infer, "other", inputs),
            "unknown_version": refused(client.infer, model, inputs, model_version="9"),
            "missing_key": refused(client.infer, model, inputs[1:]),
            "wrong_type": refused(client.infer, model, [tensor("origin", [1], "INT64"), *inputs[1:]]),
            "compressed": refused(client.infer, model, inputs, compression_algorithm="gzip"),
            "too_late": refused(client.infer, model, inputs, client_timeout=1e-6)[:1],
            "not_offered": refused(client.load_model, model),
            "model_not_ready": refused(client.is_model_ready, "other"),
        }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])))
