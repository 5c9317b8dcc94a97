"""First step: bring the offline store up to a time, with what became known since the last run.

A mark beside the store says until when it is filled, and by which code from which data. It is written last, so that a
run that dies is simply done again. When code or past data have changed, everything is ingested again.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from serinus.core.errors import InvalidData
from serinus.core.times import Interval
from serinus.engines.files import write_text
from serinus.training.validate import BEGINNING, accepted_path

if TYPE_CHECKING:
    from serinus.engines.feast import FeatureStore
    from serinus.training.project import LoadedProject

log = logging.getLogger(__name__)


class IngestReport(BaseModel):
    """What one ingestion wrote: `sources` has the new rows by source, `digest` stands for all data before `until`."""

    model_config = ConfigDict(frozen=True)

    sources: dict[str, int]
    since: datetime
    until: datetime
    digest: str

    @property
    def rows(self) -> int:
        return sum(self.sources.values())


class IngestMark(BaseModel):
    """Until when the offline store is filled, by which code, and the fingerprint of the raw data until then."""

    model_config = ConfigDict(frozen=True)

    until: datetime
    code: str
    fingerprint: str


def mark_path(store: FeatureStore) -> Path:
    """Where the mark is kept: beside what it is about."""
    return store.offline / "ingested.json"


def ingest(loaded: LoadedProject, store: FeatureStore, until: datetime) -> IngestReport:
    """Ingest what became known from the last mark to `until`, and register the feature definitions.

    Where the store is already filled beyond `until`, nothing is done: rows known later are never joined earlier.

    Raises:
        InvalidData: the project gives rows that its views do not take, or raw data are damaged.
    """
    store.apply(loaded.features)
    counts = dict.fromkeys(store.sources(), 0)
    with store.ingesting():
        since = _since(loaded, store)
        if since < until:
            counts |= _ingest(loaded, store, Interval(since=since, until=until))
    report = IngestReport(sources=counts, since=min(since, until), until=until, digest=_digest(loaded, until))
    log.info("ingested %d rows from %d sources until %s", report.rows, len(counts), until.isoformat())
    return report


def _ingest(loaded: LoadedProject, store: FeatureStore, interval: Interval) -> dict[str, int]:
    frames = loaded.project.ingest(interval.since, interval.until)
    absent = sorted(set(store.sources()) - set(frames))
    if absent:
        raise InvalidData(f"ingest gave no rows for {', '.join(absent)}", hint="give an empty frame where none are new")
    counts = {source: store.write_offline(source, frame, interval) for source, frame in frames.items()}
    fingerprint = loaded.project.fingerprint(interval.until)
    mark = IngestMark(until=interval.until, code=loaded.code_digest, fingerprint=fingerprint)
    write_text(mark_path(store), mark.model_dump_json())
    return counts


def _since(loaded: LoadedProject, store: FeatureStore) -> datetime:
    """Where to go on from; the beginning where there is no mark or what it stands for has changed."""
    path = mark_path(store)
    if not path.exists():
        return BEGINNING
    mark = IngestMark.model_validate_json(path.read_bytes())
    if mark.code == loaded.code_digest and mark.fingerprint == loaded.project.fingerprint(mark.until):
        return mark.until
    log.info("the project's code or past data changed: ingesting from the beginning")
    for each in (path, accepted_path(store)):  # what was accepted was made by other code, from other data
        each.unlink(missing_ok=True)
    store.clear_offline()
    return BEGINNING


def _digest(loaded: LoadedProject, until: datetime) -> str:
    """Stands for the offline data before `until`: they follow from raw data and code alone."""
    text = f"{loaded.project.fingerprint(until)} {loaded.code_digest} {until.isoformat()}"
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
