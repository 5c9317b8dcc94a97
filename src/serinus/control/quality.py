"""Evidence on quality: what the canary's and the stable version's predictions were worth on the requests of a rollout.

Each look reads the log's new segments and new outcomes, and nothing twice. What cannot be had is named in `missing`,
which supports no conclusion: a rollout holds then, it does not fail.

Two kinds of comparison are made:

- *Paired*: both versions are scored on every logged row, whoever answered it. All traffic counts even while the canary
  gets 1% of it, and what rows differ in cancels. It supposes that what happens does not depend on what was predicted.
- *Arms*: where it does, a row tells nothing of the version that did not answer it, and each version's own rows are
  compared, as the split assigned them at random. Losses then are those of the answers that were given.

Outcomes that come early are no fair sample where the time they take depends on them: of the flights asked about within
the hour, those that are late are known last. With `whole_cohorts` a row counts once its outcome is due, not before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from serinus.control.log_watch import Lag, LogWatch
from serinus.control.quality_past import Past, calibrations
from serinus.control.quality_rows import ScoredRows
from serinus.control.quality_score import ROLES, SCORED, About, Fetch, PairScorer, Scorer, Segment, pair_folder
from serinus.core.dataset import LABEL_TIMESTAMP
from serinus.core.errors import SerinusError
from serinus.core.evidence import ArmLosses, LossSums, QualityEvidence
from serinus.core.prediction_log import SERVED_AT, LogCounts
from serinus.core.quality import Calibrations, closed_stretches, unseen_since
from serinus.core.spec.log import PredictionLog
from serinus.core.spec.rollout import Quality
from serinus.core.times import Interval
from serinus.engines.prediction_log import OUTCOMES, read_segment, segment_extent, segment_files
from serinus.engines.prediction_store import PredictionStore

if TYPE_CHECKING:
    from serinus.core.version import ModelVersion

log = logging.getLogger(__name__)

_DAY = timedelta(days=1)
_YEAR = timedelta(days=366)
_TIME = pa.timestamp("us", tz="UTC")


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class QualitySettings:
    """What the spec says, and what it leaves open.

    `label_delay` is how long an outcome takes at the latest and `holdout` the length of the held-out period, as in the
    training's windows. Arms are compared in stretches of `stretch` of serving time. Rows of up to `history` before the
    rollout calibrate. A row ought to be at the log's destination `grace` after its segment is due. `tolerated_loss` is
    the share of rows that may be lost. Counters are up to `lag` old where somebody else has gathered them; `clock` then
    tells when files were counted.
    """

    quality: Quality
    log: PredictionLog
    label_delay: timedelta = timedelta(0)
    holdout: timedelta | None = None
    stretch: timedelta = timedelta(hours=1)
    history: timedelta = timedelta(days=14)
    grace: timedelta = timedelta(minutes=1)
    whole_cohorts: bool = False
    tolerated_loss: float = 0.0
    lag: timedelta = timedelta(0)
    clock: Callable[[], datetime] = field(default=_utc_now, compare=False)

    @property
    def settle(self) -> timedelta:
        """How long after a row was served it is read for sure."""
        return self.log.segment_age + self.grace


def counters_file(model: str, since: datetime) -> Path:
    """Where, below its folder, a source keeps what it knows of the log's counters in a rollout."""
    return Path(model) / f"counters-{since:%Y%m%dT%H%M%S%f}.json"


class QualitySource:
    """Where evidence on quality comes from.

    Args:
        store: the prediction log's destination.
        folder: below the platform's state, for what may be made again: scored rows, archives, curves. Only what is
            known of the log's counters at the first look cannot be.
        fetch: brings a version's archive, its digest verified.
        counts: the log's counters of all versions together, as `log_balance.read_counts`.
        settings: what is compared, and when.
    """

    def __init__(
        self,
        store: PredictionStore,
        folder: Path,
        fetch: Fetch,
        counts: Callable[[], LogCounts],
        settings: QualitySettings,
    ) -> None:
        self.store = store
        self.folder = folder
        self.fetch = fetch
        self.counts = counts
        self.settings = settings
        self._rollout: _Rollout | None = None

    def evidence(self, canary: ModelVersion, stable: ModelVersion, since: datetime, now: datetime) -> QualityEvidence:
        """How both versions did on rows served in `[since, now)`, by outcomes known by `now`.

        Ask for the first time when the rollout begins: what the log loses is counted from then on. Raises nothing for
        what cannot be had: the log, the counters, an archive, a column; `missing` says what, and why.
        """
        try:
            if self._rollout is None or self._rollout.key != (canary.digest, stable.digest, since):
                self._rollout = _Rollout(self, canary, stable, since)
            problems = self._rollout.look(now)
            return self._rollout.evidence(now, problems)
        except SerinusError as error:
            log.warning("no evidence on quality: %s", error)
            return QualityEvidence(at=now, metric=self.settings.quality.metric, missing=(str(error),))


class _Rollout:
    """One rollout as far as it was looked at. A look that fails leaves it as it was."""

    def __init__(self, source: QualitySource, canary: ModelVersion, stable: ModelVersion, since: datetime) -> None:
        self.key = (canary.digest, stable.digest, since)
        self._model = canary.name
        self._roles = (canary.version, stable.version)
        self._since = since
        self._store = source.store
        self._settings = settings = source.settings
        home = source.folder / canary.name
        self._folder = pair_folder(home, canary.digest, stable.digest)
        ours, theirs = (Scorer.load(version, source.fetch, home / "archives") for version in (canary, stable))
        self._scorer = PairScorer(ours, theirs, self._store, self._folder / "rows")
        lag = Lag(settings.lag, settings.clock) if settings.lag else None
        counters = source.folder / counters_file(canary.name, since)
        self._watch = LogWatch(counters, source.counts, settings.settle, settings.tolerated_loss, lag)
        unseen = (unseen_since(each.lineage, settings.holdout, settings.label_delay) for each in (canary, stable))
        self._unseen_since = max(unseen)
        self._calibrated = not settings.quality.estimated
        self._rows = ScoredRows(settings.quality.metric)
        self._segments: dict[str, About] = {}
        self._reports: set[str] = set()
        self._pending = OUTCOMES.empty_table()
        self._arms: dict[datetime, ArmLosses] = {}

    def look(self, now: datetime) -> list[str]:
        """Take in what is new; says what is wrong with the log."""
        if not self._calibrated and now >= self._since + self._settings.settle:
            self._rows.calibrate(self._calibrations())
            self._calibrated = True
        new: dict[str, Segment] = {}

        def arrived() -> int:
            days = Interval(since=self._since - _DAY, until=now + _DAY)
            there = segment_files(self._store, "predictions", self._model, days)
            new.update((file, self._read(file)) for file in there if file not in self._segments)
            return sum((new[file].about if file in new else self._segments[file]).rows for file in there)

        problems = self._watch.problems(now, arrived)
        reports, outcomes = self._reported(now)
        known = pc.less_equal(outcomes[LABEL_TIMESTAMP], pa.scalar(now, _TIME))
        self._rows.add([segment.table for segment in new.values()], outcomes.filter(known))
        self._pending = outcomes.filter(pc.invert(known))
        self._reports |= reports
        self._segments |= {file: segment.about for file, segment in new.items()}
        return problems

    def evidence(self, now: datetime, problems: list[str]) -> QualityEvidence:
        """The sums as they stand."""
        quality = self._settings.quality
        paired = not quality.predictions_change_outcomes
        due = now - self._settings.label_delay if self._settings.whole_cohorts else now
        return QualityEvidence(
            at=now,
            metric=quality.metric,
            labelled=self._rows.labelled(due) if paired else LossSums(),
            estimated=self._rows.estimated(now) if paired and quality.estimated else LossSums(),
            arms=tuple(self._stretches(now)),
            missing=(*problems, *(self._unpaired() if paired else ())),
        )

    def _read(self, file: str) -> Segment:
        rows, last = segment_extent(self._store, file)
        if last is not None and last < self._since:
            return Segment(About(rows=rows), SCORED.empty_table())
        found = self._scorer.segment(file)
        return Segment(found.about, found.table.filter(pc.field(SERVED_AT) >= pa.scalar(self._since, _TIME)))

    def _reported(self, now: datetime) -> tuple[set[str], pa.Table]:
        """New segments of outcomes, and the outcomes that were not taken in yet. A table's segment has the day on which
        its last outcome became known, which may be to come."""
        days = Interval(since=self._since - _DAY, until=now + _YEAR)
        files = set(segment_files(self._store, "outcomes", self._model, days)) - self._reports
        tables = [read_segment(self._store, file, OUTCOMES.names).select(OUTCOMES.names) for file in sorted(files)]
        return files, pa.concat_tables([self._pending, *tables])

    def _calibrations(self) -> Calibrations | None:
        until = self._since - self._settings.label_delay
        served = Interval(since=until - self._settings.history, until=until)
        past = Past(model=self._model, served=served, unseen_since=self._unseen_since, known_by=self._since)
        return calibrations(self._scorer, self._store, past, self._folder)

    def _stretches(self, now: datetime) -> Iterator[ArmLosses]:
        settings = self._settings
        delay = settings.label_delay + settings.settle
        for stretch in closed_stretches(self._since, now, settings.stretch, delay):
            if stretch.since not in self._arms:
                known_by = stretch.until + settings.label_delay
                self._arms[stretch.since] = self._rows.arms(stretch, self._roles, known_by)
            yield self._arms[stretch.since]

    def _unpaired(self) -> Iterator[str]:
        """Why rows could not be scored by both versions, or are not what was served."""
        abouts = self._segments.values()
        for role, version in zip(ROLES, self._roles, strict=True):
            absent = sorted({name for about in abouts for name in about.lacking.get(role, ())})
            if absent:
                yield f"the prediction log has rows without {', '.join(absent)}, which version {version} needs"
        strange, unscored = (sum(getattr(about, name) for about in abouts) for name in ("strange", "unscored"))
        if strange:
            yield f"{strange} logged rows were answered otherwise than the same version scores them now"
        if unscored:
            yield f"{unscored} logged rows get no probability from one of the versions"
