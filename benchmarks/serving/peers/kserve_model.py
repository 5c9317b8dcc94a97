"""KServe's Python ModelServer, Feast in process."""

from __future__ import annotations

import sys
from typing import Any

import kserve

from benchmarks.serving.ground import Ground

WORKERS = 2


class FlightModel(kserve.Model):
    def __init__(self, name: str, ground: Ground) -> None:
        super().__init__(name)
        self._ground = ground
        self._scorer: Any = None
        self.ready = True

    def predict(self, payload: dict[str, Any], headers: Any = None, response_headers: Any = None) -> dict[str, Any]:
        if self._scorer is None:  # workers are forked or spawned after this object was made
            from benchmarks.serving.peers.scorer import Scorer

            self._scorer = Scorer(self._ground)
        return {"predictions": self._scorer(payload["instances"])}


if __name__ == "__main__":
    ground = Ground.read(sys.argv[1])
    server = kserve.ModelServer(
        http_port=ground.port, workers=WORKERS, enable_grpc=False, enable_latency_logging=False, max_threads=2
    )
    server.start([FlightModel("flights", ground)])
