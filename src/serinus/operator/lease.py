"""Which of several operators decides: the one that holds a Lease, as Kubernetes' own controllers do it.

A holder that could not renew for longer than the Lease lasts must stop at once, for another one may have taken over.
The ledger's keys are the second fence: of two that decide at once only one can write.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from serinus.core.errors import Conflict, SerinusError
from serinus.engines.kubernetes import LEASE, Cluster, Object

log = logging.getLogger(__name__)

_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass
class Election:
    """One operator's part in it.

    Attributes:
        cluster: where the Lease is.
        namespace: of the Lease.
        name: of the Lease.
        identity: this operator's.
        lasts: how long a Lease is good without being renewed; it is renewed three times within it.
    """

    cluster: Cluster
    namespace: str
    name: str
    identity: str
    lasts: timedelta = timedelta(seconds=15)
    # Others' clocks are not trusted: what counts is how long ago *we* saw the Lease change.
    _seen: tuple[str, datetime] | None = field(default=None, init=False)

    def run(self, clock: Callable[[], datetime], leading: threading.Event, stop: threading.Event) -> None:
        """Try to lead until told to stop; `leading` is set while we do. Returns early when a held Lease was lost."""
        renewed: datetime | None = None
        while not stop.is_set():
            now = clock()
            if self._try(now):
                renewed = now
                if not leading.is_set():
                    log.info("%s leads", self.identity)
                leading.set()
            elif leading.is_set() and (renewed is None or now - renewed >= self.lasts * 2 / 3):
                leading.clear()
                log.error("the Lease %s/%s was lost", self.namespace, self.name)
                return
            stop.wait(self.lasts.total_seconds() / 3)

    def leave(self) -> None:
        """Let another one lead at once."""
        try:
            found = self.cluster.get(LEASE, self.namespace, self.name)
            if found is not None and found["spec"].get("holderIdentity") == self.identity:
                self.cluster.replace({**found, "spec": {**found["spec"], "holderIdentity": ""}}, LEASE)
        except SerinusError as error:
            log.warning("the Lease could not be given back, and ends by itself: %s", error)

    def _try(self, now: datetime) -> bool:
        """Take or renew the Lease if we may; whether it is ours."""
        try:
            found = self.cluster.get(LEASE, self.namespace, self.name)
            if found is None:
                self.cluster.create(self._object(now, 0), LEASE)
                return True
            spec = found["spec"]
            ours = spec.get("holderIdentity") == self.identity
            if not ours and spec.get("holderIdentity") and not self._expired(found, now):
                return False
            turns = spec.get("leaseTransitions", 0) + (0 if ours else 1)
            wanted = self._object(now, turns)
            wanted["metadata"] = found["metadata"]  # with its resourceVersion: of two that try only one succeeds
            self.cluster.replace(wanted, LEASE)
            return True
        except Conflict:
            return False
        except SerinusError as error:
            log.warning("the Lease cannot be asked for: %s", error)
            return False

    def _expired(self, found: Object, now: datetime) -> bool:
        stamp = f"{found['spec'].get('holderIdentity')} {found['spec'].get('renewTime')}"
        if self._seen is None or self._seen[0] != stamp:
            self._seen = (stamp, now)
        return now - self._seen[1] > self.lasts

    def _object(self, now: datetime, turns: int) -> Object:
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.name,
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": round(self.lasts.total_seconds()),
                "acquireTime": now.strftime(_FORMAT),
                "renewTime": now.strftime(_FORMAT),
                "leaseTransitions": turns,
            },
        }


def utc_now() -> datetime:
    """The machine's time."""
    return datetime.now(UTC)
