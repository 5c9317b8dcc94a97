"""What the front door has counted since the workers' counters began, though it counts from nought when it is restarted.

It is asked every second, and what its counts grew by is added to totals in a file beside the workers' own, so that no
counter falls whichever process is restarted. What the door counted in the last second before it died is lost.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import BaseModel, ConfigDict, ValidationError

from serinus.core.errors import Conflict, EngineError
from serinus.core.prediction import Traffic
from serinus.engines.envoy_counts import RESULTS, Attempts, DoorTotals, Result, read_totals
from serinus.engines.files import write_text
from serinus.serve.telemetry import METRICS

if TYPE_CHECKING:
    from prometheus_client import Metric

log = logging.getLogger(__name__)

FILE = "door.json"
COUNTING = "serinus_counting_info"
UPSTREAM, ROUTED, UP = "serinus_upstream_requests_total", "serinus_routed_requests_total", "serinus_door_up"
_EVERY_SECONDS = 1.0
_LABELS = ("model", "version")


class Kept(BaseModel):
    """Totals, and what the door's own counters were when they were last read. `process` names the door's process."""

    model_config = ConfigDict(frozen=True)

    process: str = ""
    attempts: tuple[tuple[int, Traffic, Result, int, int], ...] = ()
    """Version, traffic, result; the door's counter, and the total."""
    routed: tuple[tuple[int, int, int], ...] = ()
    """Version; the door's counter, and the total."""

    @property
    def totals(self) -> DoorTotals:
        """Since the file was begun."""
        attempts = Counter({Attempts(version, traffic, result): n for version, traffic, result, _, n in self.attempts})
        return DoorTotals(attempts, Counter({version: total for version, _, total in self.routed}))

    def grown(self, found: DoorTotals, process: str) -> Kept:
        """With what the door has counted by now: a counter below its last value began anew."""
        same = process == self.process
        last = {Attempts(*each[:3]): each[3] for each in self.attempts if same}
        routed_last = {version: value for version, value, _ in self.routed if same}
        totals = self.totals
        attempts = {
            key: (found.attempts[key], totals.attempts[key] + _growth(last.get(key, 0), found.attempts[key]))
            for key in sorted({*totals.attempts, *found.attempts})
        }
        routed = {
            version: (n, totals.routed[version] + _growth(routed_last.get(version, 0), n))
            for version, n in ((each, found.routed[each]) for each in sorted({*totals.routed, *found.routed}))
        }
        return Kept(
            process=process,
            attempts=tuple((*key, *values) for key, values in attempts.items()),
            routed=tuple((version, *values) for version, values in routed.items()),
        )


def _growth(before: int, now: int) -> int:
    return now - before if now >= before else now


class Counting(Collector):
    """Names the period over which the counters of one folder run."""

    def __init__(self, model: str, epoch: str) -> None:
        self._values = [model, "", epoch]

    def collect(self) -> Iterator[Metric]:
        """One gauge."""
        metric = METRICS[COUNTING]
        gauge = GaugeMetricFamily(metric.name, metric.help, labels=[*_LABELS, *metric.labels])
        gauge.add_metric(self._values, 1)
        yield gauge


class DoorCounts(Collector):
    """The counts of one front door.

    Args:
        admin: the path of its admin socket.
        model: whose versions it is the door of.
        folder: that of the workers' metrics.

    Raises:
        Conflict: the file of an earlier sidecar is damaged.
    """

    def __init__(self, admin: Path, model: str, folder: Path) -> None:
        self._admin = admin
        self._model = model
        self._file = folder / FILE
        self._lock = threading.Lock()
        self._kept = _read(self._file)

    def update(self) -> bool:
        """Ask the door, and write down what has changed; False when it does not answer."""
        with self._lock:
            try:
                before = _process(self._admin)
                found = read_totals(self._admin, self._model)
                if _process(self._admin) != before:
                    return False  # it was restarted meanwhile
            except (OSError, EngineError):
                return False
            kept = self._kept.grown(found, before)
            if kept != self._kept:
                write_text(self._file, kept.model_dump_json())
                self._kept = kept
            return True

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is depends on the versions that were asked."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families of the front door in `METRICS`, asked now."""
        up = self.update()
        totals = self._kept.totals
        gauge = GaugeMetricFamily(UP, METRICS[UP].help, labels=_LABELS)
        gauge.add_metric([self._model, ""], float(up))
        yield gauge
        upstream = CounterMetricFamily(UPSTREAM, METRICS[UPSTREAM].help, labels=[*_LABELS, *METRICS[UPSTREAM].labels])
        for version, traffic in sorted({(each.version, each.traffic) for each in totals.attempts}):
            for result in RESULTS:
                count = totals.attempts[Attempts(version, traffic, result)]
                upstream.add_metric([self._model, str(version), traffic, result], count)
        yield upstream
        routed = CounterMetricFamily(ROUTED, METRICS[ROUTED].help, labels=_LABELS)
        for version, count in sorted(totals.routed.items()):
            routed.add_metric([self._model, str(version)], count)
        yield routed

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Ask the door again and again, on a thread of its own."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(_EVERY_SECONDS):
                try:
                    self.update()
                except OSError as error:
                    log.error("cannot write down what the front door counted: %s", error)

        thread = threading.Thread(target=watch, name="door-counts", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _process(admin: Path) -> str:
    """Which process listens on a Unix socket: each one makes the file anew."""
    found = admin.stat()
    return f"{found.st_ino}-{found.st_ctime_ns}"


def _read(path: Path) -> Kept:
    try:
        return Kept.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Kept()
    except ValidationError as error:
        raise Conflict(
            f"{path} is damaged or of another version of Serinus",
            hint="end the stack with `serinus down`; the next `serinus up` counts anew",
        ) from error
