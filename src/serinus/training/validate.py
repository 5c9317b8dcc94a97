"""Second step: may what was ingested since the last accepted data be trained on?

Each check says what it found and what it allows. What was accepted last is kept as a few numbers a column, and what
comes next is held against it. Data that fail stop the run, and go on doing so until they are mended: only accepted
data move the mark.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from serinus.core.errors import InvalidData
from serinus.core.times import Interval
from serinus.engines.files import write_text

if TYPE_CHECKING:
    from serinus.core.signature import View
    from serinus.engines.feast import FeatureStore

VOLUME = 3.0  # rows a day may rise or fall by this factor
MISSING = 0.25  # a column's share of missing values may rise by this much
SPREAD = 3.0  # values may lie this many widths of the accepted range outside it

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)  # the first run takes whatever was known before, however old

_TIMES = ("happened_at", "known_at")

log = logging.getLogger(__name__)


class Check(BaseModel):
    """One question to one source: what was found, what is allowed."""

    model_config = ConfigDict(frozen=True)

    source: str
    name: str
    passed: bool
    found: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.source}: {self.name}: found {self.found}, allowed: {self.allowed}"


class ColumnSummary(BaseModel):
    """One column of accepted rows; `least` and `greatest` are None where it is text or all missing."""

    model_config = ConfigDict(frozen=True)

    missing: float
    least: float | None = None
    greatest: float | None = None


class SourceSummary(BaseModel):
    """Accepted rows of one source: how many, over how many days, and their columns."""

    model_config = ConfigDict(frozen=True)

    rows: int
    days: float
    columns: dict[str, ColumnSummary]


class ValidationReport(BaseModel):
    """All checks of what became known in `[since, until)`, and summaries of the sources."""

    model_config = ConfigDict(frozen=True)

    since: datetime
    until: datetime
    checks: tuple[Check, ...]
    summaries: dict[str, SourceSummary]

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)


def accepted_path(store: FeatureStore) -> Path:
    """Where the report of the data accepted last is kept: beside them."""
    return store.offline / "accepted.json"


def validate(store: FeatureStore, until: datetime) -> ValidationReport:
    """Check what became known from where acceptance ended to `until`.

    Returns:
        The report; without checks where everything until then has been accepted before.

    Raises:
        InvalidData: at least one check failed; the message lists all that did.
    """
    path = accepted_path(store)
    accepted = ValidationReport.model_validate_json(path.read_bytes()) if path.exists() else None
    start = accepted.until if accepted else BEGINNING
    if start >= until:
        log.info("validated: nothing new until %s", until.isoformat())
        return ValidationReport(
            since=until, until=until, checks=(), summaries=accepted.summaries if accepted is not None else {}
        )
    report = examine(store, Interval(since=start, until=until), accepted.summaries if accepted else {})
    if report.failed:
        lines = "\n".join(f"  - {check}" for check in report.failed)
        raise InvalidData(
            f"data known from {start.isoformat()} to {until.isoformat()} fail {len(report.failed)} checks:\n{lines}",
            hint="mend the data and run again; nothing was trained",
        )
    write_text(path, report.model_dump_json(indent=1))
    log.info("validated: %d checks passed until %s", len(report.checks), until.isoformat())
    return report


def examine(store: FeatureStore, interval: Interval, accepted: dict[str, SourceSummary]) -> ValidationReport:
    """Every check of every source, without consequence."""
    checks: list[Check] = []
    summaries = {}
    for source in store.sources():
        table = store.read_offline(source, interval)
        view = store.view(source)
        before = accepted.get(source)
        checks += _schema(source, table, store.schema(source))
        if checks[-1].passed:
            checks += [*_rows(source, table, view), *_bounds(source, table, store.bounds(source))]
            checks += _arrival(source, table, view, interval, before)
            checks += _against(source, table, before)
        summaries[source] = _summary(table, view, interval, before)
    return ValidationReport(since=interval.since, until=interval.until, checks=tuple(checks), summaries=summaries)


def _schema(source: str, table: pa.Table, wanted: pa.Schema) -> Iterator[Check]:
    found = [f"{field.name} {field.type}" for field in table.schema]
    allowed = [f"{field.name} {field.type}" for field in wanted]
    odd = sorted(set(found) ^ set(allowed))
    yield Check(
        source=source,
        name="schema",
        passed=not odd,
        found=f"differences in {', '.join(odd)}" if odd else f"{len(found)} columns",
        allowed="the columns and types of the feature view",
    )


def _rows(source: str, table: pa.Table, view: View) -> Iterator[Check]:
    """What each row must keep: its times and keys are there and in order, and no other row has them."""
    needed = (*view.join_keys, *_TIMES)
    nulls = {name: table[name].null_count for name in needed if table[name].null_count}
    yield _none(source, "times and keys", sum(nulls.values()), f"missing in {', '.join(nulls)}")
    early = pc.sum(pc.greater(table["happened_at"], table["known_at"])).as_py() or 0
    yield _none(source, "order of times", early, "rows known before they happened")
    distinct = table.group_by([*view.join_keys, "known_at"]).aggregate([]).num_rows
    yield _none(source, "duplicates", table.num_rows - distinct, "rows with the key and known_at of another")


def _bounds(source: str, table: pa.Table, bounds: dict[str, tuple[float | None, float | None]]) -> Iterator[Check]:
    """Values keep the bounds that the definitions declare, and are finite."""
    for name, (least, greatest) in bounds.items():
        if not _is_number(table.schema.field(name).type):
            continue
        values = table[name].cast(pa.float64())
        low, high = -math.inf if least is None else least, math.inf if greatest is None else greatest
        outside = pc.or_(pc.or_(pc.less(values, low), pc.greater(values, high)), pc.is_inf(values))
        count = pc.sum(outside).as_py() or 0
        if count or least is not None or greatest is not None:
            extremes = pc.min_max(values).as_py()
            yield Check(
                source=source,
                name=f"range of {name}",
                passed=count == 0,
                found=f"{count} outside" if count else f"{extremes['min']} to {extremes['max']}",
                allowed=f"{low:g} to {high:g}",
            )


def _arrival(
    source: str, table: pa.Table, view: View, interval: Interval, before: SourceSummary | None
) -> Iterator[Check]:
    """A source with a TTL goes on arriving, about as much as before. One without may be silent."""
    if view.ttl is None:
        return
    newest = pc.max(table["known_at"]).as_py()
    yield Check(
        source=source,
        name="freshness",
        passed=newest is not None and interval.until - newest <= view.ttl,
        found="no rows" if newest is None else f"newest row known at {newest.isoformat()}",
        allowed=f"at most {view.ttl} before {interval.until.isoformat()}",
    )
    days = (interval.until - interval.since).total_seconds() / 86_400
    if before is not None and before.rows and days >= 0.5:
        usual, rate = before.rows / before.days, table.num_rows / days
        yield Check(
            source=source,
            name="volume",
            passed=usual / VOLUME <= rate <= usual * VOLUME,
            found=f"{rate:.0f} rows a day",
            allowed=f"{usual / VOLUME:.0f} to {usual * VOLUME:.0f}",
        )


def _against(source: str, table: pa.Table, before: SourceSummary | None) -> Iterator[Check]:
    """Missing values and ranges stay near what was accepted."""
    if before is None or not table.num_rows:
        return
    for name, old in before.columns.items():
        new = _column(table[name])
        yield Check(
            source=source,
            name=f"missing {name}",
            passed=new.missing <= old.missing + MISSING,
            found=f"{new.missing:.1%}",
            allowed=f"at most {min(1.0, old.missing + MISSING):.1%}",
        )
        if None not in (old.least, old.greatest, new.least, new.greatest):
            width = SPREAD * max(old.greatest - old.least, abs(old.greatest), abs(old.least))  # type: ignore[operator, arg-type]
            low, high = old.least - width, old.greatest + width  # type: ignore[operator]
            yield Check(
                source=source,
                name=f"values of {name}",
                passed=low <= new.least and new.greatest <= high,  # type: ignore[operator]
                found=f"{new.least:g} to {new.greatest:g}",
                allowed=f"{low:g} to {high:g}",
            )


def _summary(table: pa.Table, view: View, interval: Interval, before: SourceSummary | None) -> SourceSummary:
    """The new rows' summary, joined with what was accepted before, so that a short period does not narrow it."""
    names = [name for name in table.schema.names if name not in (*view.join_keys, *_TIMES)]
    oldest = pc.min(table["known_at"]).as_py()
    since = max(interval.since, oldest) if oldest else interval.since
    days = (interval.until - since).total_seconds() / 86_400
    columns = {name: _column(table[name]) for name in names}
    if before is None:
        return SourceSummary(rows=table.num_rows, days=max(days, 1 / 24), columns=columns)
    total = before.rows + table.num_rows
    share = table.num_rows / total if total else 0.0
    merged = {name: _merged(before.columns.get(name, new), new, share) for name, new in columns.items()}
    return SourceSummary(rows=total, days=before.days + days, columns=merged)


def _column(values: pa.ChunkedArray) -> ColumnSummary:
    missing = values.null_count / len(values) if len(values) else 0.0
    if not _is_number(values.type):
        return ColumnSummary(missing=missing)
    extremes = pc.min_max(values.cast(pa.float64())).as_py()
    return ColumnSummary(missing=missing, least=extremes["min"], greatest=extremes["max"])


def _merged(old: ColumnSummary, new: ColumnSummary, share: float) -> ColumnSummary:
    least = [value for value in (old.least, new.least) if value is not None]
    greatest = [value for value in (old.greatest, new.greatest) if value is not None]
    return ColumnSummary(
        missing=old.missing * (1 - share) + new.missing * share,
        least=min(least, default=None),
        greatest=max(greatest, default=None),
    )


def _none(source: str, name: str, count: int, what: str) -> Check:
    found = f"{count} {what}" if count else "none"
    return Check(source=source, name=name, passed=count == 0, found=found, allowed="none")


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
