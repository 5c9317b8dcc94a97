"""A copy of our resources and of what was made for them, kept up to date by one watch a kind: a look reads memory.

The API server stays the only truth. What it answers to our own writes goes into the copy at once, older news of the
same object are passed over, and while a watch is down its kind is read from the server itself. (Versions of objects are
numbers that grow with every change of a kind, and may be compared.)

Objects are kept as JSON, which takes a fifth of the memory, and whoever reads one gets a copy of their own.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from serinus.engines.kubernetes import POD, Change, Cluster, Kind, Object, Selection

OWNER_LABEL = "app.kubernetes.io/name"
"""Objects of one owner are found together by it."""

Changed = Callable[[Kind, Object | None, Object | None], None]
"""Told that somebody else changed an object: what it was and what it is; None where it was or is not there."""

# All that is asked of a pod is why it does not get ready.
_OF_PODS = ("conditions", "initContainerStatuses", "containerStatuses")
_DELETED, _BOOKMARK = "DELETED", "BOOKMARK"


class Entry(NamedTuple):
    """An object as it is kept."""

    version: int
    text: bytes
    owner: str

    @property
    def found(self) -> Object:
        """The object."""
        made: Object = json.loads(self.text)
        return made


Pair = tuple[Entry | None, Entry | None]
"""What was kept of an object, and what is."""


class Store:
    """The objects of one kind that are watched together."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.synced = threading.Event()
        self._entries: dict[tuple[str, str], Entry] = {}
        self._owned: dict[tuple[str, str], set[str]] = defaultdict(set)
        # How far the watch has come: what is older has been seen, and was perhaps followed by a deletion.
        self._seen = 0
        self._lock = threading.Lock()

    def replace(self, pages: Iterable[tuple[list[Object], str]]) -> list[Pair]:
        """Take over a new list; what has changed by it."""
        listed: dict[tuple[str, str], Entry] = {}
        version = 0
        for page, stamp in pages:
            version = int(stamp)
            listed.update((_key(each), self._entry(each)) for each in page)
        with self._lock:
            own = {key: each for key, each in self._entries.items() if each.version > version}
            found: list[Pair] = []
            for key in {*self._entries, *listed} - own.keys():
                found.extend(self._put(key, listed.get(key)))
            self._seen = version
            return found

    def clear(self) -> list[Pair]:
        """Forget everything, as the kind is known no longer; what that changes."""
        with self._lock:
            self._seen = 0
            return [pair for key in list(self._entries) for pair in self._put(key, None)]

    def saw(self, change: Change) -> list[Pair]:
        """Take over what a watch tells; what has changed by it."""
        version = _version(change.found)
        with self._lock:
            self._seen = max(self._seen, version)
            if change.what == _BOOKMARK:
                return []
            key = _key(change.found)
            kept = self._entries.get(key)
            if kept is not None and kept.version > version:
                return []
            return list(self._put(key, None if change.what == _DELETED else self._entry(change.found)))

    def wrote(self, found: Object) -> None:
        """Take over what the API server answered to a write of ours, or to a question about one object."""
        version, key = _version(found), _key(found)
        with self._lock:
            kept = self._entries.get(key)
            if version > self._seen and (kept is None or version > kept.version):
                list(self._put(key, self._entry(found)))

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether objects with these labels are among those that are watched."""
        return (self.selection.labels or {}).items() <= labels.items()

    @property
    def version(self) -> str:
        """Where the watch goes on."""
        with self._lock:
            return str(self._seen)

    def get(self, namespace: str, name: str) -> Object | None:
        """An object, or None where there is none."""
        with self._lock:
            kept = self._entries.get((namespace, name))
        return kept.found if kept is not None else None

    def all(self, namespace: str | None, labels: Mapping[str, str]) -> list[Object]:
        """Objects with these labels, in a namespace or in all."""
        owner = labels.get(OWNER_LABEL)
        with self._lock:
            if namespace is not None and owner is not None:
                names = sorted(self._owned.get((namespace, owner), ()))
                kept = [self._entries[namespace, name] for name in names]
            else:
                kept = [each for key, each in sorted(self._entries.items()) if namespace in (None, key[0])]
        found = [each.found for each in kept if owner in (None, each.owner)]
        return [each for each in found if labels.items() <= each["metadata"].get("labels", {}).items()]

    def _put(self, key: tuple[str, str], entry: Entry | None) -> Iterator[Pair]:
        """Keep an object, or forget it; yields where that changed more than its version."""
        before = self._entries.pop(key, None)
        if before is not None:
            self._owned[key[0], before.owner].discard(key[1])
            if not self._owned[key[0], before.owner]:
                del self._owned[key[0], before.owner]
        if entry is not None:
            self._entries[key] = entry
            self._owned[key[0], entry.owner].add(key[1])
        if (before.text if before else None) != (entry.text if entry else None):
            yield before, entry

    def _entry(self, found: Object) -> Entry:
        kind, metadata = self.selection.kind, found["metadata"]
        kept = {key: value for key, value in metadata.items() if key not in ("managedFields", "resourceVersion")}
        rest = {key: value for key, value in found.items() if key != "metadata"}
        if kind == POD:
            status = found.get("status", {})
            rest = {"status": {key: status[key] for key in _OF_PODS if key in status}}
        made = {**rest, "apiVersion": kind.api_version, "kind": kind.name, "metadata": kept}
        text = json.dumps(made, sort_keys=True, separators=(",", ":")).encode()
        return Entry(_version(found), text, metadata.get("labels", {}).get(OWNER_LABEL, ""))


class CachedCluster:
    """`Cluster`, where what is watched is read from memory.

    Args:
        cluster: the API server.
        watched: which kinds, and with which labels; there is nothing else of these kinds here. Of other kinds the
            server is asked.
        namespaces: that are watched; all where empty.
    """

    def __init__(self, cluster: Cluster, watched: Sequence[Selection], namespaces: Sequence[str] = ()) -> None:
        self.cluster = cluster
        scopes: Sequence[str | None] = namespaces or (None,)
        self._stores = {
            (each.kind, scope): Store(each._replace(namespace=scope)) for each in watched for scope in scopes
        }

    @property
    def stores(self) -> Sequence[Store]:
        """What is to be kept up to date."""
        return tuple(self._stores.values())

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """An object, or None where there is none."""
        store = self._store(kind, namespace)
        if store is None or not store.synced.is_set():
            return self.cluster.get(kind, namespace, name)
        return store.get(namespace, name)

    def fresh(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The same, from the API server itself: before something is done that cannot be taken back."""
        found = self.cluster.get(kind, namespace, name)
        self._take(kind, found)
        return found

    def all(self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> list[Object]:
        """Objects with these labels, in a namespace or in all."""
        wanted = labels or {}
        store = self._store(kind, namespace)
        if store is None or not store.synced.is_set() or not store.holds(wanted):
            return self.cluster.all(kind, namespace, labels)
        return store.all(namespace, wanted)

    def apply(self, wanted: Object, kind: Kind, *, status: bool = False) -> Object:
        """See `Cluster.apply`."""
        found = self.cluster.apply(wanted, kind, status=status)
        self._take(kind, found)
        return found

    def delete(self, kind: Kind, namespace: str, name: str, uid: str | None = None) -> None:
        """See `Cluster.delete`. The copy learns of it from the watch: another one of the name may have come already."""
        self.cluster.delete(kind, namespace, name, uid)

    def _store(self, kind: Kind, namespace: str | None) -> Store | None:
        return self._stores.get((kind, None), self._stores.get((kind, namespace)))

    def _take(self, kind: Kind, found: Object | None) -> None:
        if found is None or (store := self._store(kind, found["metadata"]["namespace"])) is None:
            return
        if store.holds(found["metadata"].get("labels", {})):
            store.wrote(found)


def _key(found: Object) -> tuple[str, str]:
    return found["metadata"]["namespace"], found["metadata"]["name"]


def _version(found: Object) -> int:
    return int(found["metadata"]["resourceVersion"])
