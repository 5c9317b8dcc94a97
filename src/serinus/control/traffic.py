"""Sends rows to a served model as an application would: one HTTP request a row, many at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
import orjson

from serinus.core.errors import EngineError

_JSON = {"Content-Type": "application/json"}
_OUTCOMES_A_POST = 1000


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one row: `error` is None where a probability was given; `seconds` is the client's wait."""

    probability: float | None
    prediction_id: str | None
    version: str | None
    served: dict[str, Any] | None
    error: str | None
    seconds: float


class Client:
    """A pool of connections to one endpoint of the Open Inference Protocol.

    Args:
        address: such as `http://127.0.0.1:8080`.
        model: name in the path.
        concurrency: requests under way at once.
        types: V2 datatype of each input column.
        host: the name by which a gateway knows the model, where the address is the gateway's own.
    """

    def __init__(
        self, address: str, model: str, concurrency: int, types: dict[str, str], *, host: str | None = None
    ) -> None:
        self._url = f"{address}/v2/models/{model}/infer"
        self._outcomes = f"{address}/v1/outcomes"
        self._types = types
        self._concurrency = concurrency
        self._headers = {**_JSON, **({"Host": host} if host else {})}

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=self._concurrency, force_close=False)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, rows: Sequence[dict[str, Any]]) -> list[Answer]:
        """Ask for each row; answers come in the order of the rows.

        Raises:
            EngineError: the endpoint cannot be reached.
        """
        answers: list[Answer | None] = [None] * len(rows)
        pending = iter(enumerate(rows))

        async def work() -> None:
            for position, row in pending:
                answers[position] = await self._ask(row)

        try:
            await asyncio.gather(*(work() for _ in range(min(self._concurrency, len(rows)))))
        except aiohttp.ClientConnectorError as error:
            raise EngineError(f"cannot reach {self._url}", hint="is the model up? `serinus status` tells") from error
        return [answer for answer in answers if answer is not None]

    async def report(self, outcomes: Sequence[dict[str, Any]]) -> int:
        """Report what really happened; gives how many outcomes were taken.

        Raises:
            EngineError: they were not taken.
        """
        taken = 0
        for start in range(0, len(outcomes), _OUTCOMES_A_POST):
            part = outcomes[start : start + _OUTCOMES_A_POST]
            try:
                async with self._session.post(self._outcomes, data=orjson.dumps(part), headers=self._headers) as reply:
                    content, status = await reply.read(), reply.status
            except (aiohttp.ClientError, TimeoutError) as error:
                raise EngineError(f"cannot reach {self._outcomes}: {error}") from error
            if status != 200:
                raise EngineError(f"{self._outcomes} answered {status}: {content[:300].decode(errors='replace')}")
            taken += len(part) - orjson.loads(content)["invalid"]
        return taken

    async def _ask(self, row: dict[str, Any]) -> Answer:
        body = orjson.dumps(
            {
                "inputs": [
                    {"name": name, "shape": [1], "datatype": self._types[name], "data": [value]}
                    for name, value in row.items()
                ],
                "outputs": [{"name": "probability"}, {"name": "prediction_id"}, {"name": "served_features"}],
            }
        )
        started = time.perf_counter()
        try:
            async with self._session.post(self._url, data=body, headers=self._headers) as reply:
                content = await reply.read()
                status = reply.status
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, TimeoutError) as error:
            if isinstance(error, aiohttp.ClientConnectorError):
                raise
            return Answer(None, None, None, None, f"{type(error).__name__}: {error}", time.perf_counter() - started)
        return _read(status, content, time.perf_counter() - started)


def _read(status: int, content: bytes, seconds: float) -> Answer:
    if status != 200:
        return Answer(None, None, None, None, f"HTTP {status}: {content[:300].decode(errors='replace')}", seconds)
    answer = orjson.loads(content)
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    return Answer(
        probability=outputs["probability"][0],
        prediction_id=outputs["prediction_id"][0],
        version=answer["model_version"],
        served=orjson.loads(outputs["served_features"][0]),
        error=outputs["error"][0] if "error" in outputs else None,
        seconds=seconds,
    )
