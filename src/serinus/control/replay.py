"""Replays the past against a served model: the clock follows the data, and outcomes come when they became known.

Between two moments at which any feature row became known nothing can change, so the replay goes from one such moment
to the next: write what became known, then ask everything that was asked until the following one, concurrently.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serinus.control.log_balance import read_counts, settled
from serinus.control.loop import RunPipeline, begin_schedule, fire, lease, state_path
from serinus.control.refresh import fill
from serinus.control.traffic import Answer, Client
from serinus.core.dataset import EVENT_TIMESTAMP, ID, LABEL, LABEL_TIMESTAMP
from serinus.core.prediction_log import Completeness
from serinus.core.signature import Signature
from serinus.core.times import Interval
from serinus.engines.archive import SIGNATURE, read_archive
from serinus.training.ingest import ingest

if TYPE_CHECKING:
    import pandas as pd

    from serinus.core.platform import Platform
    from serinus.engines.feast import FeatureStore
    from serinus.engines.feast_online import Tick
    from serinus.training.project import LoadedProject

_SETTLE_SECONDS = 10.0


@dataclass
class Replayed:
    """All rows of a replay in the order they were asked, their answers, and the outcomes known by its end.

    `ticks` counts the moments at which features became known, `runs` the pipeline runs that the schedule started,
    `reported` the outcomes that were posted. `log` says how much of what was answered the prediction log has; None
    where there is none.
    """

    interval: Interval
    requests: pd.DataFrame
    answers: list[Answer]
    outcomes: pd.DataFrame
    seconds_asking: float
    ticks: int
    runs: int
    reported: int
    log: Completeness | None


@dataclass(frozen=True)
class World:
    """What a replay moves: the project's past, the feature store that learns it, the endpoint that is asked.

    `archive` is the file that the endpoint's version was loaded from, and `digest` the one it was registered under.
    With `look`, the rollout of another version is looked at as time goes on, and the replay ends when it says that one
    has ended; `others` then brings the archive of a version that answered, and its digest.
    """

    loaded: LoadedProject
    platform: Platform
    store: FeatureStore
    address: str
    archive: Path
    digest: str
    run_pipeline: RunPipeline
    look: Callable[[datetime], bool] | None = None
    others: Callable[[int], tuple[Path, str]] | None = None


@dataclass
class _Tally:
    requests: list[pd.DataFrame] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    outcomes: list[pd.DataFrame] = field(default_factory=list)
    seconds_asking: float = 0.0
    ticks: int = 0
    runs: int = 0
    reported: int = 0
    ended: datetime | None = None

    def replayed(self, interval: Interval, log: Completeness | None) -> Replayed:
        """Everything together."""
        import pandas as pd

        return Replayed(
            interval=Interval(since=interval.since, until=self.ended or interval.until),
            requests=pd.concat(self.requests, ignore_index=True),
            answers=self.answers,
            outcomes=pd.concat(self.outcomes, ignore_index=True),
            seconds_asking=self.seconds_asking,
            ticks=self.ticks,
            runs=self.runs,
            reported=self.reported,
            log=log,
        )


def replay(world: World, interval: Interval, concurrency: int, progress: Callable[[Interval], None]) -> Replayed:
    """Ask everything that was asked in the interval, a day at a time, and collect answers and outcomes.

    The online store first gets what was known at `interval.since`. After each day the schedule is looked at, with the
    data's clock, and `progress` is called with the part that is done.

    Raises:
        Conflict: another loop runs on the same state.
    """
    with lease(world.platform):
        begin_schedule(state_path(world.platform, replaying=True), interval.since)
        fill(world.loaded, world.store, interval.since)
        logged = world.loaded.deployment.spec.log.enabled
        before = read_counts(world.address) if logged else None
        tally = _Tally()
        # Into the tally, not out of the task: asyncio.run ends by writing the task's result out as text, for nothing.
        asyncio.run(_replay(world, interval, (concurrency, progress), tally))
        log = settled(world.address, before, _SETTLE_SECONDS) if before is not None else None
        return tally.replayed(interval, log)


def version_signature(world: World) -> Signature:
    """The signature of the version that is served.

    Raises:
        IntegrityError: its archive is not the one that was registered.
    """
    with read_archive(world.archive, world.digest) as archive:
        return Signature.model_validate_json(archive.read(SIGNATURE))


async def _replay(world: World, interval: Interval, how: tuple[int, Callable[[Interval], None]], tally: _Tally) -> None:
    concurrency, progress = how
    signature = version_signature(world)
    outcomes = world.loaded.project.labels(interval.until)
    async with Client(world.address, signature.model, concurrency, v2_types(signature)) as client:
        for day in days(interval):
            ingest(world.loaded, world.store, day.until)
            asked = world.loaded.project.requests(day.since, day.until)
            await _replay_day(world, (client, signature), world.store.ticks(day), asked, tally)
            until = tally.ended or day.until
            known = _became_known(outcomes, day.since, until)
            tally.outcomes.append(known)
            if world.loaded.deployment.spec.log.enabled:
                tally.reported += await client.report(outcome_rows(known))
            if tally.ended is not None:
                return
            progress(Interval(since=interval.since, until=day.until))
            if fire(world.loaded, state_path(world.platform, replaying=True), world.run_pipeline, day.until):
                tally.runs += 1


async def _replay_day(
    world: World,
    asking: tuple[Client, Signature],
    ticks: Sequence[Tick],
    asked: pd.DataFrame,
    tally: _Tally,
) -> None:
    import numpy as np

    client, signature = asking
    asked = asked.sort_values([EVENT_TIMESTAMP, ID], kind="stable", ignore_index=True)
    rows = request_rows(asked, signature)
    moments = np.array([_naive(tick.moment) for tick in ticks], dtype="datetime64[us]")
    # Position of the first request asked at or after each moment: what became known at T may be used at T.
    cuts = [*np.searchsorted(_instants(asked[EVENT_TIMESTAMP]), moments, side="left").tolist(), len(rows)]
    await _ask(client, rows[: cuts[0]], tally)
    for tick, (since, until) in zip(ticks, pairwise(cuts), strict=True):
        if world.look is not None and world.look(tick.moment):
            tally.ended = tick.moment
            asked = asked[:since]
            break
        world.store.write_tick(tick)
        tally.ticks += 1
        await _ask(client, rows[since:until], tally)
    tally.requests.append(asked)


async def _ask(client: Client, rows: list[dict[str, Any]], tally: _Tally) -> None:
    if rows:
        started = time.perf_counter()
        tally.answers.extend(await client.send(rows))
        tally.seconds_asking += time.perf_counter() - started


def days(interval: Interval) -> Iterator[Interval]:
    """The interval cut at each midnight UTC."""
    since = interval.since
    while since < interval.until:
        midnight = since.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        until = min(midnight, interval.until)
        yield Interval(since=since, until=until)
        since = until


def v2_types(signature: Signature) -> dict[str, str]:
    """Open Inference Protocol datatype of each request field."""
    feast = {**signature.join_keys, **{column.name: column.dtype for column in signature.request_fields}}
    types = {name: _V2_TYPES.get(dtype, "BYTES") for name, dtype in feast.items()}
    return {**types, ID: "BYTES", EVENT_TIMESTAMP: "BYTES"}


_V2_TYPES = {"Int32": "INT32", "Int64": "INT64", "Float32": "FP32", "Float64": "FP64", "Bool": "BOOL"}


def request_rows(asked: pd.DataFrame, signature: Signature) -> list[dict[str, Any]]:
    """What an application would send: a dictionary a row; a join key that is not known is null, other fields without
    a value are left out."""
    names = [*signature.join_keys, *(column.name for column in signature.request_fields)]
    columns = {name: asked[name].tolist() for name in dict.fromkeys(names)}
    columns[ID] = asked[ID].astype(str).tolist()
    columns[EVENT_TIMESTAMP] = [moment.isoformat() for moment in asked[EVENT_TIMESTAMP]]
    return [
        {
            name: value if value is not None and value == value else None
            for name, value in zip(columns, values, strict=True)
            if name in signature.join_keys or (value is not None and value == value)
        }
        for values in zip(*columns.values(), strict=True)
    ]


def outcome_rows(labels: pd.DataFrame) -> list[dict[str, Any]]:
    """What an application would report, under the ids that it asked with."""
    times = (moment.isoformat() for moment in labels[LABEL_TIMESTAMP])
    return [
        {ID: str(name), LABEL: int(label), LABEL_TIMESTAMP: time}
        for name, label, time in zip(labels[ID], labels[LABEL], times, strict=True)
    ]


def _instants(times: pd.Series) -> Any:
    return times.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(dtype="datetime64[us]")


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)


def _became_known(labels: pd.DataFrame, since: datetime, until: datetime) -> pd.DataFrame:
    known = labels[LABEL_TIMESTAMP]
    return labels[(known >= since) & (known < until)]
