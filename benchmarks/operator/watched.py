"""What is seen from outside: which deployments are ready, when decisions come, what the operator's process takes."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from select import select
from threading import Lock
from typing import Any, Self

from benchmarks.operator.fleet import INTERVAL
from serinus.engines.kubernetes import MODEL_DEPLOYMENT, Cluster, Kind, Object, Selection
from serinus.engines.kubernetes_cache import Store
from serinus.engines.kubernetes_watch import Watching

# What was decided beside holding is in force soon, and looked at again.
_SOON = 2.0
_SLICE = 10.0


class _Watched(ABC):
    """ModelDeployments with some labels, as they change."""

    def __init__(self, cluster: Cluster, *labels: Mapping[str, str]) -> None:
        stores = [Store(Selection(MODEL_DEPLOYMENT, None, each)) for each in labels]
        self._watching = Watching(cluster, stores, self._changed)

    def __enter__(self) -> Self:
        self._watching.start()
        self._watching.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._watching.stop()

    @abstractmethod
    def _changed(self, kind: Kind, before: Object | None, after: Object | None) -> None:
        """Told of each of them that is new, has changed or is gone."""


class Ready(_Watched):
    """Which ones have been ready."""

    def __init__(self, cluster: Cluster, *labels: Mapping[str, str]) -> None:
        super().__init__(cluster, *labels)
        self.keys: set[tuple[str, str]] = set()

    def _changed(self, kind: Kind, before: Object | None, after: Object | None) -> None:
        conditions = (after or {}).get("status", {}).get("conditions", ())
        if after and any(each["type"] == "Ready" and each["status"] == "True" for each in conditions):
            self.keys.add((after["metadata"]["namespace"], after["metadata"]["name"]))


class Decisions(_Watched):
    """When each decision was to be read in the status, and how much later than it was due.

    It is due an interval after the one before, or two seconds after one that changed something; the first one when
    the other version was asked for. What is due and did not come counts until the end.
    """

    def __init__(self, cluster: Cluster, labels: Mapping[str, str]) -> None:
        super().__init__(cluster, labels)
        self._lock = Lock()
        self._due: dict[tuple[str, str], float] = {}
        self._last: dict[tuple[str, str], str] = {}
        self._phases: dict[tuple[str, str], str] = {}
        self._late: list[float] = []
        self._first: list[float] = []
        self._began: float | None = None

    def begin(self) -> None:
        """Count from now on. A deployment counts once another version of it is asked for."""
        with self._lock:
            self._began = time.time()

    def asked(self, key: tuple[str, str]) -> None:
        """Another version is asked for now: the first decision is due."""
        with self._lock:
            self._due[key] = time.time()

    def figures(self) -> dict[str, float]:
        """How many there were, and how late."""
        now = time.time()
        with self._lock:
            late = [*self._late, *(now - due for due in self._due.values() if due < now)]
        return {
            "decisions": len(self._late),
            "decision_lateness_p50_s": round(quantile(late, 0.5), 3),
            "decision_lateness_p99_s": round(quantile(late, 0.99), 3),
            "decision_lateness_max_s": round(max(late), 3),
            "first_decision_p99_s": round(quantile(self._first, 0.99), 3),
        }

    @property
    def phases(self) -> dict[str, int]:
        """How many deployments are in which phase."""
        return dict(Counter(self._phases.values()))

    def _changed(self, kind: Kind, before: Object | None, after: Object | None) -> None:
        arrived = time.time()
        decisions = (after or {}).get("status", {}).get("decisions", ())
        if after is None or not decisions:
            return
        key = (after["metadata"]["namespace"], after["metadata"]["name"])
        newest = decisions[0]
        with self._lock:
            self._phases[key] = after["status"].get("phase", "")
            if self._last.get(key) == newest["at"]:
                return
            known, self._last[key] = key in self._last, newest["at"]
            if self._began is None or not known or key not in self._due:
                return
            late = max(0.0, arrived - self._due[key])
            self._late.append(late)
            if newest["action"] == "start":
                self._first.append(late)
            waits = INTERVAL if newest["action"] == "hold" else _SOON
            self._due[key] = datetime.fromisoformat(newest["at"]).astimezone(UTC).timestamp() + waits


class Process:
    """What a process takes, by /proc."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._folder = Path("/proc") / str(pid)
        self._tick = os.sysconf("SC_CLK_TCK")
        self._last = (time.monotonic(), self._seconds())

    def cores(self) -> float:
        """Processors that it kept busy since this was asked last."""
        before, self._last = self._last, (time.monotonic(), self._seconds())
        return (self._last[1] - before[1]) / max(1e-9, self._last[0] - before[0])

    def watch(self, seconds: float) -> float:
        """Wait, and give the most that it took in ten of the seconds.

        Raises:
            RuntimeError: it has ended.
        """
        until, most = time.monotonic() + seconds, 0.0
        while (left := until - time.monotonic()) > 0:
            began, spent = time.monotonic(), self._seconds()
            if self._ends(min(_SLICE, left)):
                raise RuntimeError(f"process {self._pid} ended while it was measured")
            passed = time.monotonic() - began
            if passed > _SLICE / 2:
                most = max(most, (self._seconds() - spent) / passed)
        return most

    @property
    def peak(self) -> float:
        """The most memory that it has had, in MB."""
        return self._memory("status", "VmHWM")

    @property
    def pss(self) -> float:
        """Its memory, its part of what it shares included, in MB."""
        return self._memory("smaps_rollup", "Pss")

    def _ends(self, seconds: float) -> bool:
        handle = os.pidfd_open(self._pid)
        try:
            return bool(select([handle], [], [], seconds)[0])
        finally:
            os.close(handle)

    def _memory(self, file: str, name: str) -> float:
        lines = (self._folder / file).read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e6

    def _seconds(self) -> float:
        fields = (self._folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / self._tick


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share of them lies."""
    ordered: list[Any] = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(share * len(ordered)))]) if ordered else float("nan")
