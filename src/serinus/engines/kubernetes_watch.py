"""What keeps a copy of objects up to date: list them all, then watch what changes, and begin anew when that is lost.

One thread a kind. A watch that ends as it should goes on from where it was; any other end, a 410 among them, leads to
a new list, which also finds what was deleted meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from serinus.core.errors import NotFound, SerinusError
from serinus.engines.kubernetes import Cluster, Gone
from serinus.engines.kubernetes_cache import Changed, Pair, Store

log = logging.getLogger(__name__)

# How long until it is tried again: at first, and at most.
_SOON, _LATE = 0.5, 15.0


@dataclass
class Watching:
    """The watches of some stores.

    Attributes:
        cluster: the API server.
        stores: what is kept up to date.
        changed: told what others changed.
        seconds: that one watch lasts.
        anew: seconds until everything is listed again, whatever the watches told.
    """

    cluster: Cluster
    stores: Sequence[Store]
    changed: Changed
    seconds: int = 300
    anew: float = 1800.0
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _threads: list[threading.Thread] = field(default_factory=list, init=False)

    def start(self) -> None:
        """Begin; `wait` tells when the stores are filled."""
        for store in self.stores:
            name = f"watch-{store.selection.kind.plural}"
            thread = threading.Thread(target=self._keep, args=(store,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def wait(self, seconds: float) -> bool:
        """Whether all stores are filled, at the latest after so long. Those that are not are not asked."""
        until = time.monotonic() + seconds
        return all(store.synced.wait(max(0.0, until - time.monotonic())) for store in self.stores)

    def alive(self) -> bool:
        """Whether every store is still followed, be it that the API server does not answer now."""
        return all(thread.is_alive() for thread in self._threads)

    def stop(self, seconds: float = 0.0) -> None:
        """Watch no longer, and wait so long for the threads: each ends with what it hears next, or with its watch."""
        self._stop.set()
        for store in self.stores:
            store.synced.clear()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _keep(self, store: Store) -> None:
        pause = _SOON
        while not self._stop.is_set():
            try:
                self._follow(store)
                continue
            except Gone as error:
                log.info("%s are listed again: %s", store.selection.kind.plural, error)
            except NotFound as error:
                log.debug("the kind is not known here, or not any more, and there is none of it: %s", error)
                self._tell(store, store.clear())
                store.synced.set()
                pause = self._paused(pause)
                continue
            except SerinusError as error:
                log.warning("%s are listed again, as their watch is lost: %s", store.selection.kind.plural, error)
            except Exception:  # a thread that ended would leave its kind unseen: it is told, and the kind listed again
                log.exception("the watch of %s: a fault in Serinus", store.selection.kind.plural)
            if store.synced.is_set():
                pause = _SOON
            # Until it is listed again, whoever wants to know asks the API server itself.
            store.synced.clear()
            pause = self._paused(pause)

    def _paused(self, seconds: float) -> float:
        """Wait; how long the next time."""
        self._stop.wait(seconds)
        return min(2 * seconds, _LATE)

    def _follow(self, store: Store) -> None:
        """List, and watch for a while, one watch after another."""
        until = time.monotonic() + self.anew
        self._tell(store, store.replace(self.cluster.pages(store.selection)))
        store.synced.set()
        while time.monotonic() < until and not self._stop.is_set():
            for change in self.cluster.watch(store.selection, store.version, self.seconds):
                if self._stop.is_set():
                    return
                self._tell(store, store.saw(change))

    def _tell(self, store: Store, pairs: Iterable[Pair]) -> None:
        for before, after in pairs:
            was, found = before.found if before else None, after.found if after else None
            self.changed(store.selection.kind, was, found)
