"""Orders that clients send to the tiny project's model, what comes back, and what becomes of them."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from serinus.control.replay import v2_types
from serinus.control.traffic import Answer, Client
from serinus.core.signature import Signature
from tests.support import eventually

_BATCH = 48
_CLIENTS = 12


class Traffic:
    """Orders sent through the front door by clients that wait for each answer, from `with` to its end.

    `answers` counts versions and errors as the clients saw them, `bare` those answers that were made without any
    feature. With `telling`, what became of each order is reported. A batch of orders takes at least `pace` seconds:
    where what is asked shares its processors with what asks, that leaves some of them.
    """

    def __init__(self, address: str, signature: Signature, host: str | None = None, pace: float = 0.0) -> None:
        self.answers: Counter[tuple[str | None, str | None]] = Counter()
        self.bare = 0
        self.reported = 0
        self.telling = False
        self._address = address
        self._host = host
        self._pace = pace
        self._model = signature.model
        self._types = v2_types(signature)
        self._random = np.random.default_rng(3)
        self._asked = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._broke: BaseException | None = None

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._broke is not None:
            raise self._broke

    @property
    def total(self) -> int:
        return self.answers.total()

    @property
    def failed(self) -> int:
        return sum(count for (_, error), count in self.answers.items() if error is not None)

    @property
    def versions(self) -> Counter[int]:
        """How often each version answered."""
        found: Counter[int] = Counter()
        for (version, error), count in self.answers.items():
            if error is None and version is not None:
                found[int(version)] += count
        return found

    def wait_for(self, more: int, seconds: float = 60) -> None:
        """Until so many more requests have been answered."""
        target = self.total + more
        eventually(lambda: self.total >= target, seconds)

    def errors(self) -> set[str]:
        return {error for _, error in self.answers if error is not None}

    async def _run(self) -> None:
        try:
            async with Client(self._address, self._model, _CLIENTS, self._types, host=self._host) as client:
                while not self._stop.is_set():
                    rows = [self._order() for _ in range(_BATCH)]
                    answers, _ = await asyncio.gather(client.send(rows), asyncio.sleep(self._pace))
                    self.bare += sum(map(_bare, answers))
                    self.answers.update((each.version, each.error) for each in answers)
                    if self.telling:
                        told = [self._outcome(*pair) for pair in zip(rows, answers, strict=True)]
                        self.reported += await client.report([each for each in told if each is not None])
        except BaseException as error:
            self._broke = error

    def _order(self) -> dict[str, Any]:
        self._asked += 1
        shop = int(self._random.integers(8))
        return {
            "id": f"asked-{self._started}-{self._asked}",
            "event_timestamp": "2020-02-15T00:15:00Z",
            "shop": f"shop-{shop}",
            "city": ("east", "west")[shop % 2],
            "channel": ("web", "phone", "desk")[int(self._random.integers(3))],
            "amount": round(float(self._random.exponential(40)), 2),
        }

    @property
    def _started(self) -> str:
        return f"{id(self):x}"

    def _outcome(self, row: Mapping[str, Any], answer: Answer) -> dict[str, Any] | None:
        """As `projects/tiny/world.py` draws it, of the queue that was served."""
        queue = (answer.served or {}).get("shop_hourly__queue")
        if answer.error is not None or queue is None:
            return None
        channel = {"web": 0.6, "phone": 0.0, "desk": -0.6}[row["channel"]]
        chance = 1 / (1 + np.exp(2.2 - 0.25 * queue - 0.01 * row["amount"] - channel))
        return {"id": row["id"], "label": int(self._random.random() < chance)}


def _bare(answer: Answer) -> bool:
    """Whether a row was answered without any feature."""
    features = [value for name, value in (answer.served or {}).items() if "__" in name]
    return answer.error is None and all(value is None for value in features)
