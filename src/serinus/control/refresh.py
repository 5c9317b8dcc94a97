"""Keeps the online store up to date: what became known is ingested offline, and its newest rows go online."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

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
    does not matter.
    """

    def __init__(self, loaded: LoadedProject, store: FeatureStore) -> None:
        self._loaded = loaded
        self._store = store
        self._complete = False

    def __call__(self, now: datetime) -> None:
        """Make everything that was known at `now` available."""
        from serinus.training.ingest import ingest

        if not self._complete:
            fill(self._loaded, self._store, now)
            self._complete = True
            return
        self._complete = False
        report = ingest(self._loaded, self._store, now)
        if report.since < report.until:
            self._store.write_online(known_in(self._store, Interval(since=report.since, until=report.until)))
        self._complete = True


def known_in(store: FeatureStore, interval: Interval) -> Mapping[str, pd.DataFrame]:
    """Rows of every source that became known in the interval, by source."""
    return {source: store.read_offline(source, interval).to_pandas() for source in store.sources()}
