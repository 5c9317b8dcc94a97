"""KServe's Python ModelServer, Feast in process."""

from __future__ import annotations

import logging
import sys
from functools import partialmethod
from typing import Any

import kserve
from kserve.protocol.rest.multiprocess.server import RESTServerProcess

from benchmarks.serving.given import Ground

WORKERS = 2
# Its access log and traces: ours has none either. Here, as its workers import this module and nothing else.
logging.disable(logging.INFO)


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
    # KServe takes a worker that does not answer after 5 s for hung and kills it, again and again where imports take
    # longer than that.
    RESTServerProcess.is_alive = partialmethod(RESTServerProcess.is_alive, timeout=60)
    ground = Ground.read(sys.argv[1])
    server = kserve.ModelServer(
        http_port=int(sys.argv[2]), workers=WORKERS, enable_grpc=False, enable_latency_logging=False, max_threads=2
    )
    server.start([FlightModel("flights", ground)])
