"""The operator's process: watches say that something happened, a lease says who decides, workers take one look after
another.

A watch only ever brings a look forward. So an operator that dies, is upgraded or loses its watches leaves nothing
behind that its successor would have to understand, and no resource needs a finalizer that could hang.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime

from serinus.core.errors import Conflict, SerinusError
from serinus.engines.kubernetes import CONTINUOUS_TRAINING, DEPLOYMENT, MODEL_DEPLOYMENT, POD, Kind, Object
from serinus.engines.kubernetes_cache import Changed
from serinus.engines.kubernetes_kserve import NAME_LABEL, trouble
from serinus.engines.kubernetes_watch import Watching
from serinus.operator.lease import Election, utc_now
from serinus.operator.metrics import Metrics
from serinus.operator.queue import Key, WorkQueue
from serinus.operator.report import goes_by

log = logging.getLogger(__name__)

LEASE_NAME = "serinus-operator"
_FAILED_SECONDS = 10.0
# What is made together changes together, and is looked at once.
_TOGETHER = 0.2
_SYNC_SECONDS = 60.0
_CALM = 15.0

Look = Callable[[str, str, datetime], float | None]
"""Takes a namespace, a name and the time; gives the seconds until the next look, or None if the resource is gone."""


class Operator:
    """Looks after resources while it leads.

    Args:
        looks: by kind of resource.
        election: this operator's part in it.
        metrics: where it counts.
        watch: makes the watches that keep the copy of a cluster up to date, and tell what others changed.
        workers: looks side by side.
    """

    def __init__(
        self,
        looks: Mapping[str, Look],
        election: Election,
        metrics: Metrics,
        watch: Callable[[Changed], Watching],
        workers: int,
    ) -> None:
        self._looks = looks
        self._election = election
        self._metrics = metrics
        self._queue = WorkQueue()
        self._leading = threading.Event()
        # Asked for, not told: one that has nothing to look at leads, too.
        metrics.leading.set_function(lambda: float(self._leading.is_set()))
        metrics.queue.set_function(lambda: float(len(self._queue)))
        self._stop = threading.Event()
        self._watching = watch(self._changed)
        self._threads = [threading.Thread(target=self._elect, name="election", daemon=True)]
        for at in range(workers):
            self._threads.append(threading.Thread(target=self._work, name=f"look-{at}", daemon=True))

    def run(self) -> None:
        """Work until `stop` is called, or until the Lease is lost."""
        self._watching.start()
        for each in self._threads:
            each.start()
        try:
            self._stop.wait()
        finally:
            self._stop.set()
            self._queue.close()
            self._watching.stop()
            for each in self._threads:
                each.join(timeout=30)
            self._election.leave()

    def stop(self) -> None:
        """Let `run` end, once the looks that are under way are over."""
        self._stop.set()

    def alive(self) -> bool:
        """Whether everything that is to run does. An API server that cannot be asked is no reason to begin anew."""
        return all(each.is_alive() for each in self._threads) and self._watching.alive()

    def _elect(self) -> None:
        self._election.run(utc_now, self._leading, self._stop)
        self.stop()  # a lease that was lost ends the process: what it has in its hands must not be finished

    def _work(self) -> None:
        if not self._watching.wait(_SYNC_SECONDS):
            log.warning("what is on the cluster is not known yet: every look asks the API server")
        while not self._stop.is_set():
            if not self._leading.wait(timeout=0.5):
                continue
            taken = self._queue.take()
            if taken is None:
                return
            key, late = taken
            self._queue.done(key, self._look(key, late))

    def _look(self, key: Key, late: float) -> float | None:
        metrics = self._metrics
        metrics.late.labels(key.kind).observe(max(0.0, late))
        if not self._leading.is_set():
            return 0.0
        try:
            with metrics.reconcile.labels(key.kind).time():
                return self._looks[key.kind](key.namespace, key.name, utc_now())
        except Conflict as error:
            log.info("%s %s/%s has changed meanwhile: %s", *key, error)
            return 1.0
        except SerinusError as error:
            log.error("%s %s/%s: %s", *key, error)
        except Exception:  # a fault with one resource must not end the looks at all others: it is told and counted
            log.exception("%s %s/%s: a fault in Serinus", *key)
        metrics.errors.labels(key.kind).inc()
        return _FAILED_SECONDS

    def _changed(self, kind: Kind, before: Object | None, after: Object | None) -> None:
        """Have the resource looked at that others changed, or that owns what others changed."""
        if kind.name in self._looks:
            self._resource_changed(kind, before, after)
        # That pods are ready says their InferenceService.
        elif kind != POD or trouble([before] if before else []) != trouble([after] if after else []):
            owned_by = CONTINUOUS_TRAINING if kind == DEPLOYMENT else MODEL_DEPLOYMENT
            for each in (before, after):
                owner = each["metadata"].get("labels", {}).get(NAME_LABEL) if each else None
                if each and owner:
                    self._queue.add(Key(owned_by.name, each["metadata"]["namespace"], owner), _TOGETHER)

    def _resource_changed(self, kind: Kind, before: Object | None, after: Object | None) -> None:
        found = after or before
        assert found is not None
        key = Key(kind.name, found["metadata"]["namespace"], found["metadata"]["name"])
        if before is not None and after is not None and goes_by(before) == goes_by(after):
            return
        # Of all that there is when an operator begins, rollouts come first. What is new has no status.
        status = after.get("status", {}) if before is None and after is not None else {}
        self._queue.add(key, slack=_CALM if status and not status.get("canary") else None)
