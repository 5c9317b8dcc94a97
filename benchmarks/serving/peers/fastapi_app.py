"""FastAPI on uvicorn, Feast in process."""

from __future__ import annotations

import os
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.serving.given import Ground

WORKERS = 2


class Body(BaseModel):
    instances: list[dict[str, Any]]


def create() -> FastAPI:
    from benchmarks.serving.peers.scorer import Scorer

    scorer = Scorer(Ground.read(os.environ["GROUND"]))
    app = FastAPI()

    @app.post("/v1/models/flights:predict")
    async def predict(body: Body) -> dict[str, list[float]]:
        return {"predictions": scorer(body.instances)}

    return app


if __name__ == "__main__":
    os.environ["GROUND"] = sys.argv[1]
    app = f"{__spec__.name}:create"
    uvicorn.run(app, factory=True, host="127.0.0.1", port=int(sys.argv[2]), workers=WORKERS, access_log=False)
