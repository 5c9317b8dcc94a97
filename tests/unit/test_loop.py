"""The loop's parts: one at a time, each due time once, failures remembered, an unfinished pass made up for."""

import sys
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from serinus.cli.serving import _loop_lines
from serinus.control import loop
from serinus.control.loop import (
    BackgroundRuns,
    LoopState,
    LoopStatus,
    begin_schedule,
    fire,
    lease,
    run_forever,
    state_path,
)
from serinus.control.refresh import MeasuredRefresher, Refresher
from serinus.core.errors import Conflict, EngineError
from serinus.core.platform import Platform
from serinus.core.spec import ContinuousTrainingSpec
from serinus.core.spec.training import Limits, Schedule, Triggers
from serinus.core.times import Interval
from tests.support import eventually

START = datetime(2013, 8, 2, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def platform(tmp_path):
    return Platform.local(tmp_path)


@pytest.fixture
def loaded():
    spec = ContinuousTrainingSpec.model_construct(
        triggers=Triggers(schedule=Schedule(cron="0 12 * * *")), limits=Limits()
    )
    return SimpleNamespace(training=SimpleNamespace(spec=spec))


def test_the_first_look_only_notes_where_the_schedule_begins(platform, loaded):
    runs = []
    assert fire(loaded, state_path(platform), runs.append, START) is None
    assert fire(loaded, state_path(platform), runs.append, START + DAY / 2) is None
    assert fire(loaded, state_path(platform), runs.append, START + DAY).scheduled_for == START + DAY
    assert fire(loaded, state_path(platform), runs.append, START + DAY) is None
    assert runs == [START + DAY]


def test_a_run_that_fails_is_remembered_and_not_repeated(platform, loaded):
    begin_schedule(state_path(platform), START)

    def fail(as_of):
        assert LoopState.read(state_path(platform)).triggers.handled_until == as_of, "marked before it starts"
        raise EngineError("no room")

    with pytest.raises(EngineError):
        fire(loaded, state_path(platform), fail, START + DAY)
    assert LoopState.read(state_path(platform)).last_failure == "no room"
    assert fire(loaded, state_path(platform), pytest.fail, START + DAY) is None


def test_status_tells_the_last_failure_and_the_next_run(platform, loaded):
    path, spec = state_path(platform), loaded.training.spec
    assert LoopStatus.read(path, spec) is None
    begin_schedule(path, START)
    assert LoopStatus.read(path, spec) == LoopStatus(last_run=None, last_failure=None, next_run=START + DAY)
    with pytest.raises(ZeroDivisionError):
        fire(loaded, path, lambda as_of: 1 // 0, START + 1.5 * DAY)
    failed = LoopStatus.read(path, spec)
    assert (failed.last_run, failed.next_run) == (START + 1.5 * DAY, START + 2 * DAY)
    assert "division" in failed.last_failure
    slow = spec.model_copy(update={"limits": Limits(minimum_interval=3 * DAY)})
    assert LoopStatus.read(path, slow).next_run == START + 4.5 * DAY
    assert LoopStatus.read(path, None) == failed.model_copy(update={"next_run": None})
    unscheduled = spec.model_copy(update={"triggers": Triggers()})
    assert LoopStatus.read(path, unscheduled).next_run is None


def test_status_says_so_in_words():
    loop = LoopStatus(last_run=START, last_failure="no room", next_run=START + DAY)
    assert list(_loop_lines(loop)) == [
        "the last run of the pipeline, started 2013-08-02 12:00 UTC, failed: no room",
        "next run of the pipeline: 2013-08-03 12:00 UTC",
    ]
    assert list(_loop_lines(loop.model_copy(update={"last_failure": None, "next_run": None}))) == []


def test_a_restarted_schedule_runs_the_same_times_again(platform, loaded):
    runs = []
    for _ in range(2):
        begin_schedule(state_path(platform), START)
        fire(loaded, state_path(platform), runs.append, START + DAY)
    assert runs == [START + DAY] * 2


def test_only_one_loop_holds_the_lease(platform):
    with lease(platform), pytest.raises(Conflict, match="another loop"), lease(platform):
        pass
    with lease(platform):
        pass


def test_a_tick_that_fails_is_logged_and_does_not_end_the_loop(monkeypatch):
    stop, ticks, logged = threading.Event(), [], []
    monkeypatch.setattr(loop.log, "error", lambda text, *values: logged.append(text % values))

    def tick():
        ticks.append(len(ticks))
        if len(ticks) == 1:
            raise EngineError("store is away")
        stop.set()

    run_forever(tick, every_seconds=0.001, stop=stop)
    assert ticks == [0, 1]
    assert logged == ["store is away"]


@pytest.mark.parametrize(("code", "failure"), [(0, None), (1, None), (6, "the pipeline run ended with exit code 6")])
def test_runs_in_the_background_end_with_an_answer_or_a_failure(platform, code, failure):
    begin_schedule(state_path(platform), START)
    runs = BackgroundRuns(lambda as_of: (sys.executable, "-c", f"raise SystemExit({code})"), platform)
    assert not runs.busy()
    runs.start(START)
    assert eventually(lambda: not runs.busy(), timeout=30)
    assert LoopState.read(state_path(platform)).last_failure == failure


def test_ending_the_loop_ends_its_run(platform):
    runs = BackgroundRuns(lambda as_of: (sys.executable, "-c", "import signal; signal.pause()"), platform)
    runs.start(START)
    assert runs.busy()
    runs.end()
    assert not runs.busy()


class Store:
    """Stands for a feature store whose writes can be made to fail: a real one cannot be told when to."""

    def __init__(self):
        self.calls = []
        self.broken = False

    def materialize(self, until):
        self.calls.append("fill")
        return 0

    def sources(self):
        return ()

    def write_online(self, frames):
        self.calls.append("write")
        if self.broken:
            raise EngineError("gone")


def test_after_a_failed_pass_the_online_store_is_filled_as_a_whole(monkeypatch):
    import serinus.training.ingest as ingestion

    monkeypatch.setattr(ingestion, "ingest", lambda loaded, store, now: SimpleNamespace(since=now - DAY, until=now))
    store = Store()
    refresh = Refresher(SimpleNamespace(), store)
    refresh(START)
    refresh(START + DAY)
    store.broken = True
    with pytest.raises(EngineError):
        refresh(START + 2 * DAY)
    store.broken = False
    refresh(START + 3 * DAY)
    refresh(START + 4 * DAY)
    assert store.calls == ["fill", "write", "write", "fill", "write"]


def test_what_somebody_else_ingested_goes_online_too(monkeypatch):
    import serinus.training.ingest as ingestion
    from serinus.control import refresh as refreshing

    ingested = []  # by a run of the pipeline: the pass itself finds nothing new
    monkeypatch.setattr(ingestion, "ingest", lambda loaded, store, now: SimpleNamespace(since=now, until=now))
    monkeypatch.setattr(refreshing, "known_in", lambda store, interval: ingested.append(interval) or {})
    refresh = Refresher(SimpleNamespace(), Store())
    for moment in (START, START + DAY, START + 3 * DAY):
        refresh(moment)
    assert ingested == [
        Interval(since=START, until=START + DAY),
        Interval(since=START + DAY, until=START + 3 * DAY),
    ]


def test_the_lag_is_the_time_since_the_last_pass_that_succeeded():
    now = [START]
    broken = [False]

    def refresh(moment):
        if broken[0]:
            raise EngineError("gone")
        return 3

    measured = MeasuredRefresher(refresh, "tiny", lambda: now[0], DAY)

    def value(name):
        return measured.registry.get_sample_value(name, {"model": "tiny"})

    measured.tick()
    assert (value("serinus_features_lag_seconds"), value("serinus_features_rows_total")) == (0, 3)
    now[0] += DAY
    broken[0] = True
    with pytest.raises(EngineError):
        measured.tick()
    assert value("serinus_features_lag_seconds") == DAY.total_seconds() == value("serinus_features_interval_seconds")
    assert value("serinus_features_failures_total") == 1
    broken[0] = False
    measured.tick()
    assert value("serinus_features_lag_seconds") == 0
