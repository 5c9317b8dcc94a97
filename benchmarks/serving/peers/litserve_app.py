"""LitServe with its dynamic batching, Feast in process."""

import sys
from typing import Any

import litserve

from benchmarks.serving.given import Ground

WORKERS = 2


class Api(litserve.LitAPI):
    def __init__(self, ground: Ground, **options: Any) -> None:
        super().__init__(**options)
        self._ground = ground

    def setup(self, device: str) -> None:
        from benchmarks.serving.peers.scorer import Scorer

        self._scorer = Scorer(self._ground)

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        return request["instances"][0]

    def predict(self, rows: list[dict[str, Any]]) -> list[float]:
        return self._scorer(rows)

    def encode_response(self, probability: float) -> dict[str, list[float]]:
        return {"predictions": [probability]}


if __name__ == "__main__":
    ground = Ground.read(sys.argv[1])
    api = Api(ground, max_batch_size=64, batch_timeout=0.002, api_path="/v1/models/flights:predict")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=WORKERS, timeout=30)
    port = int(sys.argv[2])
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False, access_log=False)
