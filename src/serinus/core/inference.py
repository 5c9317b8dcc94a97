"""What the Open Inference Protocol says about a server and a model; a pure function of the model's signature."""

from __future__ import annotations

from typing import Any

from serinus.core.dataset import EVENT_TIMESTAMP, ID
from serinus.core.signature import Signature

PROBABILITY = "probability"
PREDICTION_ID = "prediction_id"
SERVED_FEATURES = "served_features"
ERROR = "error"
STALE = "stale"
OUTPUTS = {PROBABILITY: "FP64", PREDICTION_ID: "BYTES", SERVED_FEATURES: "BYTES", ERROR: "BYTES", STALE: "BYTES"}
"""Every tensor that an answer may hold, with its datatype. The first two come unasked."""

PLATFORM = "pytorch_torchserve"
EXTENSIONS = ("binary_tensor_data",)
_VERSION = "2"
# By Feast's name of the value type, in lower case; what is not listed goes as text.
_DATATYPES = {
    "float64": "FP64", "double": "FP64", "float32": "FP32", "float": "FP32", "int64": "INT64", "int32": "INT32",
    "bool": "BOOL",
}  # fmt: skip


def server_metadata() -> dict[str, Any]:
    """Server metadata: `version` is the protocol's."""
    return {"name": "serinus", "version": _VERSION, "extensions": list(EXTENSIONS)}


def datatype(dtype: str) -> str:
    """The datatype of a tensor that carries values of a Feast type."""
    return _DATATYPES.get(dtype.lower(), "BYTES")


def model_metadata(signature: Signature) -> dict[str, Any]:
    """The part of model metadata that a version decides: what a request may carry, and what comes back unasked."""
    types = signature.join_keys | {column.name: column.dtype for column in signature.request_fields}
    inputs = [_tensor(name, datatype(dtype)) for name, dtype in types.items()]
    inputs += [_tensor(name, "BYTES") for name in (ID, EVENT_TIMESTAMP) if name not in types]
    outputs = [_tensor(name, OUTPUTS[name]) for name in (PROBABILITY, PREDICTION_ID)]
    return {"platform": PLATFORM, "inputs": inputs, "outputs": outputs}


def _tensor(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "datatype": kind, "shape": [-1]}
