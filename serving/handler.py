"""TorchServe's entry into Serinus; every model archive carries this file. What it does lives in `serinus.serve`."""

from typing import Any

from serinus.serve.torchserve import Worker

_worker = Worker()


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[bytes] | None:
    """Load the model when called without data, answer a batch otherwise."""
    return _worker.handle(data, context)
