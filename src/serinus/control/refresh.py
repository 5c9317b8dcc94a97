"""Keeps the online store up to date: what became known is ingested offline, and its newest rows go online."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serinus.core.times import Interval

if TYPE_CHECKING:
    import pandas as pd

    from serinus.engines.feast import FeatureStore
    from serinus.training.project import LoadedProject


def fill(loaded: LoadedProject, store: FeatureStore, now: datetime) -> int:
    """Make the online store hold exactly what was known at `now`; returns the number of rows written.

    For a start: it does not matter what the store held before, even the future.
    """
    from serinus.training.ingest import ingest

    ingest(loaded, store, now)
    return store.materialize(now)


class Refresher:
    """Brings offline and online store up to date, a pass at a time.

    The first pass, and the one after a pass that failed, fills the online store as a whole: what a dead process left
    does not matter. Later ones write what became known since the one before, whoever ingested it: a run of the pipeline
    does so too.
    """

    def __init__(self, loaded: LoadedProject, store: FeatureStore) -> None:
        self._loaded = loaded
        self._store = store
        self._until: datetime | None = None

    def __call__(self, now: datetime) -> int:
        """Make everything that was known at `now` available; returns the number of rows written online."""
        from serinus.training.ingest import ingest

        since, self._until = self._until, None
        if since is None or now < since:
            written = fill(self._loaded, self._store, now)
        else:
            since = min(since, ingest(self._loaded, self._store, now).since)
            news = Interval(since=since, until=now) if since < now else None
            written = self._store.write_online(known_in(self._store, news)) if news is not None else 0
        self._until = now
        return written


class MeasuredRefresher:
    """A Refresher by a clock, which counts what it does in a registry of its own.

    Args:
        refresh: what is measured.
        model: whose features they are.
        clock: tells the time.
        interval: how often a pass is to begin, so that one can tell a lag from what is usual.
    """

    def __init__(
        self, refresh: Callable[[datetime], int], model: str, clock: Callable[[], datetime], interval: timedelta
    ) -> None:
        self._refresh = refresh
        self._clock = clock
        self._fresh_at = clock()  # before the first pass the features are as old as this process, at least
        own = self.registry = CollectorRegistry()
        lag = Gauge(
            "serinus_features_lag_seconds",
            "How long ago everything that was known was in the online store.",
            ["model"],
            registry=own,
        )
        lag.labels(model).set_function(lambda: (clock() - self._fresh_at).total_seconds())
        usual = Gauge("serinus_features_interval_seconds", "How often a pass begins.", ["model"], registry=own)
        usual.labels(model).set(interval.total_seconds())
        self._rows = Counter(
            "serinus_features_rows", "Rows written to the online store.", ["model"], registry=own
        ).labels(model)
        failed = Counter("serinus_features_failures", "Passes that failed.", ["model"], registry=own)
        self._failed = failed.labels(model)
        self._seconds = Histogram(
            "serinus_features_pass_seconds",
            "Time of one pass.",
            ["model"],
            buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
            registry=own,
        ).labels(model)

    def tick(self) -> None:
        """One pass.

        Raises:
            SerinusError: it failed, and is counted.
        """
        now = self._clock()
        with self._failed.count_exceptions(), self._seconds.time():
            self._rows.inc(self._refresh(now))
        self._fresh_at = now


def known_in(store: FeatureStore, interval: Interval) -> Mapping[str, pd.DataFrame]:
    """Rows of every source that became known in the interval, by source."""
    return {source: store.read_offline(source, interval).to_pandas() for source in store.sources()}
