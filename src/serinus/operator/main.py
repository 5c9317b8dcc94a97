"""The operator's process: kopf watches our resources, a lease says who decides, workers take one look after another.

kopf's handlers only say that something happened. So an operator that dies, is upgraded or loses its watch leaves
nothing behind that its successor would have to understand, and no resource needs a finalizer that could hang. What we
made for a resource is watched for a copy of it (`engines.kubernetes_cache`), which says so too.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Hashable, Mapping
from datetime import datetime
from typing import Any

import kopf

from serinus.core.errors import Conflict, SerinusError
from serinus.core.spec.common import GROUP, VERSION
from serinus.engines.kubernetes import CONTINUOUS_TRAINING, DEPLOYMENT, MODEL_DEPLOYMENT, POD, Kind, Object
from serinus.engines.kubernetes_features import COMPONENT
from serinus.engines.kubernetes_kserve import MANAGED, NAME_LABEL, trouble
from serinus.engines.kubernetes_watch import Watching
from serinus.operator.definitions import Definitions
from serinus.operator.lease import Election, utc_now
from serinus.operator.metrics import Metrics
from serinus.operator.queue import Key, WorkQueue

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
    """Watches, and looks after resources while it leads.

    Args:
        looks: by kind of resource.
        election: this operator's part in it.
        metrics: where it counts.
        workers: looks side by side.
        namespaces: that are watched; all where empty.
    """

    def __init__(
        self,
        looks: Mapping[str, Look],
        election: Election,
        metrics: Metrics,
        workers: int,
        namespaces: tuple[str, ...] = (),
    ) -> None:
        self._looks = looks
        self._election = election
        self._metrics = metrics
        self._workers = workers
        self._namespaces = namespaces
        self._queue = WorkQueue()
        self._leading = threading.Event()
        # Asked for, not told: one that has nothing to look at leads, too.
        metrics.leading.set_function(lambda: float(self._leading.is_set()))
        self._stop = threading.Event()
        self._registry = kopf.OperatorRegistry()
        self._watching_children: Watching | None = None
        self._definitions: Definitions | None = None
        # What a look goes by: changes of anything else are our own news.
        self._told: dict[Key, Hashable] = {}
        self._watch()

    def follow(self, watching: Watching, definitions: Definitions) -> None:
        """Have the copy of what we made kept up to date while this runs; it is to tell `changed`. Where definitions of
        our kinds are replaced, `run` ends."""
        self._watching_children = watching
        self._definitions = definitions

    def changed(self, kind: Kind, before: Object | None, after: Object | None) -> None:
        """Have the owner of something that others changed looked at."""
        if kind == POD and trouble([before] if before else []) == trouble([after] if after else []):
            return  # that its pods are ready says the InferenceService
        for each in (before, after):
            owner = each["metadata"].get("labels", {}).get(NAME_LABEL) if each else None
            if each and owner:
                self._queue.add(Key(MODEL_DEPLOYMENT.name, each["metadata"]["namespace"], owner), _TOGETHER)

    def run(self, liveness: str | None = None) -> None:
        """Work until told to stop by a signal, or until the Lease is lost or the definitions are replaced."""
        flag = threading.Event()
        elected = threading.Thread(target=self._elect, args=(flag,), name="election", daemon=True)
        defined = threading.Thread(target=self._mind_definitions, args=(flag,), name="definitions", daemon=True)
        working = [threading.Thread(target=self._work, name=f"look-{at}", daemon=True) for at in range(self._workers)]
        if self._watching_children is not None:
            self._watching_children.start()
        for each in (elected, defined, *working):
            each.start()
        try:
            asyncio.run(self._watching(flag, liveness))
        finally:
            self._stop.set()
            self._queue.close()
            if self._watching_children is not None:
                self._watching_children.stop()
            for each in (*working, defined, elected):
                each.join(timeout=30)
            self._election.leave()

    async def _watching(self, flag: threading.Event, liveness: str | None) -> None:
        try:
            await kopf.operator(
                registry=self._registry,
                clusterwide=not self._namespaces,
                namespaces=self._namespaces,
                standalone=True,
                stop_flag=flag,
                liveness_endpoint=liveness,
            )
        finally:
            flag.set()  # kopf waits for it in a thread, which would hold up the end where kopf fails

    def _elect(self, flag: threading.Event) -> None:
        self._election.run(utc_now, self._leading, self._stop)
        flag.set()  # a lease that was lost ends the process: what it has in its hands must not be finished

    def _mind_definitions(self, flag: threading.Event) -> None:
        if self._definitions is not None and self._definitions.follow(self._stop):
            flag.set()

    def _work(self) -> None:
        if self._watching_children is not None and not self._watching_children.wait(_SYNC_SECONDS):
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
        metrics.queue.set(len(self._queue))
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
        except Exception:
            log.exception("%s %s/%s: a fault in Serinus", *key)
        metrics.errors.labels(key.kind).inc()
        return _FAILED_SECONDS

    def _watch(self) -> None:
        """Tell kopf what to watch."""
        for kind in (MODEL_DEPLOYMENT, CONTINUOUS_TRAINING):
            if kind.name in self._looks:
                kopf.on.event(GROUP, VERSION, kind.plural, registry=self._registry)(self._happened(kind))
        if CONTINUOUS_TRAINING.name in self._looks:
            own = {**COMPONENT, "app.kubernetes.io/managed-by": MANAGED["app.kubernetes.io/managed-by"]}
            group, version = DEPLOYMENT.api_version.split("/")
            kopf.on.event(group, version, DEPLOYMENT.plural, registry=self._registry, labels=own)(self._feature_pod)
        kopf.on.startup(registry=self._registry)(_quietly)
        kopf.on.login(registry=self._registry)(kopf.login_via_client)

    def _happened(self, kind: Kind) -> Callable[..., None]:
        def handler(namespace: str | None, name: str, body: Mapping[str, Any], type: str | None, **_: Any) -> None:
            key, meta = Key(kind.name, namespace or "", name), body.get("metadata", {})
            if type == "DELETED":
                self._told.pop(key, None)
                return self._queue.add(key)
            annotations = frozenset(meta.get("annotations", {}).items())
            told = (meta.get("uid"), meta.get("generation"), meta.get("deletionTimestamp"), hash(annotations))
            if self._told.get(key) != told or type != "MODIFIED":
                self._told[key] = told
                # Of all that there is when an operator begins, rollouts come first.
                calm = type is None and not body.get("status", {}).get("canary")
                self._queue.add(key, slack=_CALM if calm else None)
            return None

        return handler

    def _feature_pod(self, namespace: str | None, labels: Mapping[str, str], **_: Any) -> None:
        if owner := labels.get(NAME_LABEL):
            self._queue.add(Key(CONTINUOUS_TRAINING.name, namespace or "", owner))


def _quietly(settings: kopf.OperatorSettings, **_: Any) -> None:
    """kopf says nothing of our resources itself, and never waits for ever on a watch that has gone quiet."""
    settings.posting.enabled = False
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
