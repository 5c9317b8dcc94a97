"""Looks at a source of evidence, one after another, and what they tell."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from serinus.control.evidence import EvidenceSource
from serinus.control.prometheus_evidence import PrometheusSource
from serinus.core.evidence import Interval, Snapshot, between
from serinus.core.spec.rollout import QueryGuard
from serinus.engines.prometheus import Connection, Prometheus
from tests.support import eventually
from tests.support_metrics import MODEL, Server

VERSIONS = (3, 4)
ROLES = (4, 3)
# Four times as long as between two scrapes: on a busy machine a sample can be seen late, and one that comes after the
# look at its moment is no growth any more.
INTERVAL = timedelta(seconds=2)


class Looks:
    """Looks at one source, each knowing the last one."""

    def __init__(self, source: EvidenceSource, server: Server | None = None) -> None:
        self.source = source
        self.server = server
        self.last: Snapshot | None = None

    def look(self) -> Snapshot:
        self.last = self.source.snapshot(VERSIONS, self.last, datetime.now(UTC))
        return self.last

    def until(self, condition: Callable[[Snapshot], bool]) -> Snapshot:
        def looked() -> Snapshot | None:
            found = self.look()
            return found if condition(found) else None

        found = eventually(looked, 60)
        assert found is not None
        return found

    def complete(self) -> Snapshot:
        """A look that misses nothing, at a time from which on everything is counted."""
        return self.until(lambda found: not found.missing and counts(found))

    def settled(self) -> Snapshot:
        """A complete look at a moment after everything so far was scraped, however late that is."""
        if self.server is not None:
            server, asked = self.server, datetime.now(UTC)
            eventually(lambda: server.scraped_all_since(asked), 60)
        moment = datetime.now(UTC)
        return self.until(lambda found: not found.missing and counts(found) and found.at > moment)


def counts(found: Snapshot) -> bool:
    """Whether a source counts already: one of Prometheus lets two scrapes pass at the beginning of an epoch."""
    return found.source != "prometheus" or found.at >= datetime.fromisoformat(found.epoch) + 2 * INTERVAL


def of(before: Snapshot, after: Snapshot, *, shadow: bool = False) -> Interval:
    """What came between two looks, which can be compared."""
    found = between(before, after, ROLES, shadow=shadow)
    assert isinstance(found, Interval), found
    return found


def source_of(server: Server, *queries: QueryGuard) -> PrometheusSource:
    """The evidence that a Prometheus has."""
    return PrometheusSource(Prometheus(Connection(server.url)), MODEL, queries, interval=INTERVAL)


def looks_of(server: Server, *queries: QueryGuard) -> Looks:
    """Looks at it."""
    return Looks(source_of(server, *queries), server)
