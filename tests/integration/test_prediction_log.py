"""The prediction log with real processes: killed, out of disk, cut off from its destination; the counters say what is
lost, and nothing else is."""

from __future__ import annotations

import resource
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from serinus.core.times import Interval
from serinus.engines.prediction_log import read_predictions
from serinus.engines.prediction_store import PredictionStore
from tests.support import eventually
from tests.support_log import MODEL
from tests.support_workers import EVER, site


def test_a_worker_that_ends_in_order_loses_nothing(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        worker = here.worker(batches=150)
        assert worker.wait(60) == 0
        found = here.settled()
        assert (found.answered, found.kept, found.lost) == (2400, 2400, 0)
        assert found.complete
        table = here.predictions()
        assert table.num_rows == 2400
        assert len(set(table["prediction_id"].to_pylist())) == 2400
        assert set(table["version"].to_pylist()) == {3}
        assert table["served_at"].to_pylist() == sorted(table["served_at"].to_pylist())


def test_workers_killed_under_load_lose_what_the_counters_say(tmp_path: Path) -> None:
    """Three workers, each killed with SIGKILL while it logs some 5,000 rows a second."""
    with site(tmp_path) as here:
        for share in (1000, 2500, 4500):
            worker = here.worker()
            eventually(lambda share=share: here.balance().kept >= share, timeout=60)
            worker.send_signal(signal.SIGKILL)
            worker.wait()
        found = here.settled()
        assert found.kept >= 4500
        assert found.dropped == 0
        # What was in memory: at most what came while one round was gathered and written.
        assert 0 <= found.gap <= 3 * 2000
        table = here.predictions()
        assert table.num_rows == found.kept == here.counts().logged - found.gap
        assert max(Counter(table["prediction_id"].to_pylist()).values()) == 1
        # Of each worker every row up to the last one that was written: nothing is missing in between.
        for file_rows in _by_writer(here.files()).values():
            numbers = sorted(int(name[1:].split("-")[0]) for name in file_rows if name)
            assert set(numbers) == set(range(max(numbers) + 1))


def _by_writer(files: list[Path]) -> dict[str, list[str]]:
    import pyarrow.parquet as pq

    found: dict[str, list[str]] = {}
    for path in files:
        writer = path.name.rsplit("-", 2)[0]
        found.setdefault(writer, []).extend(pq.read_table(path, partitioning=None)["id"].to_pylist())
    return found


def test_a_sidecar_killed_under_load_loses_nothing_and_ships_nothing_twice(tmp_path: Path) -> None:
    with site(tmp_path, {"segmentRows": 200}) as here:
        worker = here.worker(pause=0.01, batches=400)
        for share in (600, 1800, 3000):
            eventually(lambda share=share: here.counts().shipped >= share, timeout=60)
            here.kill()
            here.start()
        assert worker.wait(60) == 0
        found = here.settled()
        assert (found.kept, found.lost) == (6400, 0)
        table = here.predictions()
        assert table.num_rows == 6400
        rows = sum(_parquet_rows(path) for path in here.files())
        assert rows == 6400, "no row is in two files"


def _parquet_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def test_a_full_disk_costs_counted_rows_and_no_request(tmp_path: Path) -> None:
    """The kernel refuses every write of the worker for a while; it goes on answering and counting."""
    with site(tmp_path) as here:
        worker = here.worker()
        eventually(lambda: here.counts().shipped >= 500, timeout=60)
        usual = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (0, usual[1]))
        eventually(lambda: here.counts().dropped.get("disk_full", 0) >= 1000, timeout=60)
        before = here.counts().shipped
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, usual)
        eventually(lambda: here.counts().shipped > before, timeout=60)
        here.end(worker)
        found = here.settled()
        assert found.dropped >= 1000
        assert (found.gap, found.unlogged) == (0, 0)
        assert here.predictions().num_rows == found.kept == found.answered - found.dropped


def test_a_destination_that_goes_away_costs_nothing_while_there_is_room(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        store = Path(here.config.log_destination)
        worker = here.worker(pause=0.01, batches=300)
        eventually(lambda: here.counts().shipped >= 300, timeout=60)
        store.rename(tmp_path / "away")
        store.write_text("no folder")
        eventually(lambda: here.number("serinus_log_upload_failures_total") >= 2, timeout=60)
        assert here.number("serinus_log_spool_age_seconds", stream="predictions") > 0
        store.unlink()
        (tmp_path / "away").rename(store)
        assert worker.wait(60) == 0
        eventually(lambda: here.counts().spooled == 0, timeout=90)
        found = here.settled()
        assert (found.kept, found.lost) == (4800, 0)
        assert here.predictions().num_rows == 4800


def test_beyond_the_buffer_the_oldest_rows_go_and_are_counted(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("no folder")
    with site(tmp_path, {"segmentBytes": 10_000, "bufferLimit": 200_000}) as here:
        worker = here.worker(pause=0.01, batches=250)
        assert worker.wait(60) == 0
        eventually(lambda: here.counts().dropped["spool_full"] > 0, timeout=30)
        eventually(lambda: here.number("serinus_log_spool_bytes") <= 200_000, timeout=90)
        found = here.balance()
        assert (found.answered, found.gap) == (4000, 0)
        assert found.dropped > 0
        (tmp_path / "store").unlink()
        here.stop()
        here.start()
        settled = here.settled()
        assert here.predictions().num_rows == settled.kept == 4000 - settled.dropped > 0


@pytest.mark.parametrize("by", ["served_at", "event_timestamp"])
def test_a_stretch_of_time_is_read_exactly(tmp_path: Path, by: Any) -> None:
    with site(tmp_path) as here:
        assert here.worker(batches=40).wait(60) == 0
        here.settled()
        everything = here.predictions()
        times = sorted(everything[by].to_pylist())
        since, until = times[100], times[400]
        expected = sum(since <= time < until for time in times)
        store = PredictionStore(here.config.log_destination)
        if since < until:
            found = read_predictions(store, MODEL, Interval(since=since, until=until), 3, by)
            assert found.num_rows == expected
        assert read_predictions(store, MODEL, EVER, version=4).num_rows == 0
        assert read_predictions(store, "other", EVER).num_rows == 0
