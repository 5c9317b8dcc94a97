"""The least that a TorchServe handler can do: features out of the request, the model, probabilities back."""

from pathlib import Path

import numpy as np
import torch

from serinus.engines.exported import load_exported

_model = None


def handle(data, context):
    global _model
    if _model is None:
        torch.set_num_threads(1)
        _model = load_exported(Path(context.system_properties["model_dir"]) / "model.pt2")
    if data is None:
        return None
    rows = [request["body"]["instances"][0] for request in data]
    numbers = np.array([row["numbers"] for row in rows], dtype=np.float32)
    categories = np.array([row["categories"] for row in rows], dtype=np.int64)
    return [{"predictions": [each]} for each in _model.probabilities(numbers, categories).tolist()]
