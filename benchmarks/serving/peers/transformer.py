"""KServe's Python transformer, as its documentation's Feast example has it: features over HTTP from Feast's server,
then the predictor."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import httpx
import kserve
from kserve.predictor_config import PredictorConfig

from benchmarks.serving.given import Ground, positional
from serinus.core.signature import Signature

# Its access log and traces: ours has none either. Here, as its workers import this module and nothing else.
logging.disable(logging.INFO)


class FeastTransformer(kserve.Model):
    def __init__(self, name: str, ground: Ground) -> None:
        super().__init__(name)
        self._ground = ground
        self._signature = Signature.model_validate_json((Path(ground.model) / "signature.json").read_bytes())
        self._client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{ground.feast_port}", timeout=30)
        self.ready = True

    async def preprocess(self, payload: dict[str, Any], headers: Any = None) -> dict[str, Any]:
        rows = payload["instances"]
        answer = await self._client.post(
            "/get-online-features",
            json={
                "feature_service": self._ground.service,
                "entities": {name: [row[name] for row in rows] for name in self._signature.join_keys},
                "full_feature_names": True,
            },
        )
        answer.raise_for_status()
        found = answer.json()
        names = found["metadata"]["feature_names"]
        columns = {name: each["values"] for name, each in zip(names, found["results"], strict=True)}
        columns |= {each.name: [row.get(each.name) for row in rows] for each in self._signature.request_columns}
        return {"instances": positional(self._signature, columns)}


if __name__ == "__main__":
    ground = Ground.read(sys.argv[1])
    config = PredictorConfig(predictor_host=f"127.0.0.1:{ground.predictor_port}", predictor_protocol="v1")
    server = kserve.ModelServer(
        http_port=int(sys.argv[2]), workers=1, enable_grpc=False, enable_latency_logging=False, predictor_config=config
    )
    server.start([FeastTransformer("flights", ground)])
