"""Reads of the online store that a batch can stop waiting for.

Stores block: on a lock, on a network that swallows packets. Reads therefore happen on a thread of their own, and a
batch waits for a bounded time. While a read hangs, later batches are told at once; when it comes back the store is in
use again, and one that never comes back is left behind with its connections. Where a store has a direct way in
(`engines.feast_redis`), all views of a batch are read by that at once, else one after another by Feast's `online_read`.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feast import FeatureView, RepoConfig
    from feast.infra.online_stores.online_store import OnlineStore
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey

    from serinus.engines.feast_redis import RedisRows

log = logging.getLogger(__name__)

# Below the number of parameters that SQLite takes in one statement.
_KEYS_A_READ = 4096
_PATIENCE = 10


@dataclass(frozen=True, slots=True)
class OnlineSource:
    """What Feast needs for a read: the store, its configuration, and the views by the name the model knows them by.

    `direct` is the direct way into the store, if there is one.
    """

    store: OnlineStore
    config: RepoConfig
    views: Mapping[str, FeatureView]
    direct: RedisRows | None = None

    def join_keys(self, view: str) -> dict[str, str]:
        """A view's own join keys, in Feast's order, each with the request field that holds it."""
        table = self.views[view]
        renamed = table.projection.join_key_map
        return {column.name: renamed.get(column.name, column.name) for column in table.entity_columns}


@dataclass(frozen=True, slots=True)
class Read:
    """One view's distinct keys, as Feast's messages or, for a direct way, its commands; and the features."""

    view: str
    keys: list[EntityKey] | list[bytes]
    features: list[str]


@dataclass(frozen=True, slots=True)
class Failed:
    """A read that gave no answer."""

    reason: str


Answer = list[Any] | Failed
"""A row for each key: Feast's event time and values, or a direct way's fields."""


@dataclass(slots=True)
class _Job:
    reads: Sequence[Read]
    answers: list[Answer] = field(default_factory=list)
    # A bare lock, held until the job is done: half the cost of an Event.
    done: threading.Lock = field(default_factory=threading.Lock)
    since: float = 0.0


class Reader:
    """One thread that reads, and the patience of those who wait for it."""

    def __init__(self, source: OnlineSource, reopen: Callable[[], OnlineSource], timeout: float) -> None:
        self._reopen = reopen
        self._timeout = timeout
        self._hanging: _Job | None = None
        self._healthy = True
        self._start(lambda: source)

    def read(self, reads: Sequence[Read], patience: float = math.inf) -> list[Answer]:
        """An answer for each read, in order; within the timeout and the patience, whatever the store does."""
        start = time.monotonic()
        if self._hanging is not None and not self._came_back(self._hanging, patience):
            return [Failed("an earlier read still hangs")] * len(reads)
        limit = max(0.0, min(self._timeout, patience - (time.monotonic() - start)))
        job = _Job(reads, since=time.monotonic())
        job.done.acquire()
        self._jobs.put(job)
        if job.done.acquire(timeout=limit):
            answers = job.answers
        else:
            self._hanging = job
            got = list(job.answers)
            late = Failed(f"no answer within {limit:.3g} s")
            answers = got + [late] * (len(reads) - len(got))
        self._report(reads, answers)
        return answers

    def close(self) -> None:
        """End the thread once it is idle."""
        self._jobs.put(None)

    def _start(self, connect: Callable[[], OnlineSource]) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(target=_work, args=(connect, self._jobs), name="online-reads", daemon=True).start()

    def _came_back(self, job: _Job, patience: float) -> bool:
        """Whether an earlier read has ended. One that only a hurried client left is waited for, within the timeout."""
        left = self._timeout - (time.monotonic() - job.since)
        if job.done.acquire(timeout=max(0.0, min(left, patience))):
            self._hanging = None
            return True
        if time.monotonic() - job.since > _PATIENCE * self._timeout:
            log.warning(
                "a read of the online store has hung for %g s; opening new connections", _PATIENCE * self._timeout
            )
            self.close()
            self._start(self._reopen)
            self._hanging = None
            return True
        return False

    def _report(self, reads: Sequence[Read], answers: Sequence[Answer]) -> None:
        """One line when the store begins to fail and one when it is back, not one a request."""
        failed = next(
            ((read, answer) for read, answer in zip(reads, answers, strict=True) if isinstance(answer, Failed)), None
        )
        if failed is not None and self._healthy:
            log.warning(
                "online store: view %s: %s; answers follow the feature policy", failed[0].view, failed[1].reason
            )
        if failed is None and not self._healthy:
            log.warning("online store: reads succeed again")
        self._healthy = failed is None


def _work(connect: Callable[[], OnlineSource], jobs: queue.SimpleQueue[_Job | None]) -> None:
    source: OnlineSource | None = None
    while (job := jobs.get()) is not None:
        try:
            source = source or connect()
        except Exception as error:  # the next batch tries again
            job.answers += [Failed(f"{type(error).__name__}: {error}")] * len(job.reads)
        else:
            if source.direct is not None:
                job.answers += _read_directly(source.direct, job.reads)
            else:
                for read in job.reads:
                    job.answers.append(_read(source, read))
        job.done.release()


def _read_directly(direct: RedisRows, reads: Sequence[Read]) -> list[Answer]:
    commands: list[Any] = list(chain.from_iterable(read.keys for read in reads))
    try:
        rows = iter(direct.read(commands))
    except Exception as error:  # as in `_read`
        return [Failed(f"{type(error).__name__}: {error}")] * len(reads)
    return [_whole(list(islice(rows, len(read.keys)))) for read in reads]


def _whole(rows: list[Any]) -> Answer:
    """A view's rows, unless the store refused one."""
    refusal = next((row for row in rows if isinstance(row, Exception)), None)
    return rows if refusal is None else Failed(f"{type(refusal).__name__}: {refusal}")


def _read(source: OnlineSource, read: Read) -> Answer:
    found: list[tuple[Any, Any]] = []
    try:
        for start in range(0, len(read.keys), _KEYS_A_READ):
            keys = read.keys[start : start + _KEYS_A_READ]
            # Redis appends to the list of features that it is given: each read gets its own.
            found += source.store.online_read(source.config, source.views[read.view], keys, list(read.features))
    except Exception as error:  # whatever a store's client raises, the policy for missing values answers it
        return Failed(f"{type(error).__name__}: {error}")
    if len(found) != len(read.keys):
        return Failed(f"{len(found)} rows for {len(read.keys)} keys")
    return found
