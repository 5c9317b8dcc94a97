"""The worker's side of the prediction log: what is logged, when files are closed, and what happens when it cannot."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from serinus.core.errors import InvalidInput
from serinus.core.signature import Column, Signature
from serinus.core.spec.deployment import FeaturePolicy, Features
from serinus.serve import log as log_module
from serinus.serve.log import LogWriter, epoch
from serinus.serve.log_columns import LogColumns, readable
from serinus.serve.log_segment import closed_rows, read_label, read_segment
from serinus.serve.lookup import LookedUp
from serinus.serve.served import Origins, Served, Tried
from tests.support import eventually
from tests.support_log import DAY, NOON, SIGNATURE, Counted, served, settings


def writer(folder: Path, log: dict[str, Any] | None = None) -> tuple[LogWriter, Counted]:
    counts = Counted()
    config = settings(folder, log)
    return LogWriter(config, SIGNATURE, folder / "spool", counts), counts


def closed(folder: Path) -> list[Path]:
    return sorted((folder / "spool" / "predictions").glob("*.arrows"), key=lambda path: path.stat().st_mtime_ns)


def rows(folder: Path) -> pa.Table:
    return pa.concat_tables(readable(read_segment(path)) for path in closed(folder))


def test_every_value_of_every_row_is_in_the_log(tmp_path: Path) -> None:
    log, counts = writer(tmp_path)
    batches = [served(5, seed=1), served(9, seed=2)]
    for each in batches:
        log.add(each)
    log.close()
    assert (counts["rows_total"], counts["appended"], counts["segments_total"]) == (14, 14, 1)
    found = rows(tmp_path)
    assert found.num_rows == 14
    assert found["prediction_id"].to_pylist() == [*batches[0].ids, *batches[1].ids]
    assert found["probability"].to_pylist() == [*batches[0].probabilities, *batches[1].probabilities]
    assert found["request_id"].to_pylist()[:3] == ["r0", "r1", "r2"]
    assert found["id"].to_pylist()[:3] == [None, "c1-1", "c1-2"]
    assert set(found["served_at"].to_pylist()) == {datetime(2024, 5, 1, 12, tzinfo=UTC)}
    assert found["plane"].to_pylist()[:3] == [None, 1, 2]
    assert found["planes__maker"].to_pylist()[:3] == [None, "AIRBUS", "AIRBUS"]
    delays = found["hourly__delay"].to_pylist()
    assert delays[0] is None
    assert delays[1] == batches[0].columns["hourly__delay"][1]
    assert found["known_at__hourly"].to_pylist()[:2] == [None, datetime(2024, 5, 1, 11, 59, 59, tzinfo=UTC)]
    assert found["state__hourly"].to_pylist()[:2] == ["absent", "present"]
    assert found.schema.names[:6] == [
        "prediction_id",
        "served_at",
        "request_id",
        "shadow",
        "id",
        "event_timestamp",
    ]
    label = read_label(closed(tmp_path)[0])
    assert (label.model, label.version, label.day) == ("delays", "3", "2024-05-01")
    assert label.schema_digest == SIGNATURE.schema_digest
    assert label.epoch == epoch(tmp_path / "metrics")


def test_logged_rows_are_encoded_as_served_ones_were(tmp_path: Path) -> None:
    log, _ = writer(tmp_path)
    batch = served(40, seed=3)
    log.add(batch)
    log.close()
    table = rows(tmp_path)
    columns = {column.name: table[column.name].to_pylist() for column in SIGNATURE.columns}
    for logged, expected in zip(SIGNATURE.encode(columns), SIGNATURE.encode(batch.columns), strict=True):
        np.testing.assert_array_equal(logged, expected)


def test_segments_are_closed_by_rows_bytes_and_day(tmp_path: Path) -> None:
    by_rows, counts = writer(tmp_path / "rows", {"segmentRows": 20})
    for seed in range(4):
        by_rows.add(served(16, seed))
        eventually(lambda seed=seed: counts["appended"] == 16 * (seed + 1))
    by_rows.close()
    assert [closed_rows(path) for path in closed(tmp_path / "rows")] == [32, 32]
    assert counts["segments_total"] == 2

    by_bytes, counts = writer(tmp_path / "bytes", {"segmentBytes": 4096})
    for seed in range(3):
        by_bytes.add(served(64, seed))
        eventually(lambda seed=seed: counts["appended"] == 64 * (seed + 1))
    by_bytes.close()
    assert [closed_rows(path) for path in closed(tmp_path / "bytes")] == [64, 64, 64]

    by_day, _ = writer(tmp_path / "day")
    for seed, at in enumerate((NOON, NOON + DAY // 2 - 1, NOON + DAY // 2, NOON + DAY)):
        by_day.add(served(3, seed, at))
    by_day.close()
    found = {read_label(path).day: closed_rows(path) for path in closed(tmp_path / "day")}
    assert found == {"2024-05-01": 6, "2024-05-02": 6}


def test_an_open_segment_is_closed_when_it_is_old_enough_without_new_rows(tmp_path: Path) -> None:
    log, counts = writer(tmp_path, {"segmentAge": "300ms"})
    log.add(served(3))
    eventually(lambda: [closed_rows(path) for path in closed(tmp_path)] == [3])
    eventually(lambda: counts["segments_total"] == 1)
    log.close()


def test_rows_that_find_the_queue_full_are_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_QUEUE_ROWS", 100)
    log, counts = writer(tmp_path)
    slow = threading.Event()
    append = log._segments.append

    def hang(batch: pa.RecordBatch, day: str, *, durable: bool = False) -> int:
        slow.wait(10)
        return append(batch, day, durable=durable)

    monkeypatch.setattr(log._segments, "append", hang)
    for seed in range(10):
        log.add(served(30, seed))
    assert counts["dropped", "queue_full"] == 210
    slow.set()
    log.close()
    assert counts["rows_total"] == 300
    assert counts["appended"] == 90 == rows(tmp_path).num_rows


def test_a_sample_leaves_out_rows_and_says_how_many(tmp_path: Path) -> None:
    log, counts = writer(tmp_path, {"sample": 0.25})
    for seed in range(20):
        log.add(served(200, seed))
    log.close()
    kept = rows(tmp_path).num_rows
    assert counts["dropped", "sampled"] + kept == 4000
    assert 850 < kept < 1150


def test_a_batch_that_arrow_refuses_ends_no_log(tmp_path: Path) -> None:
    log, counts = writer(tmp_path)
    poison = served(4)
    poison.columns["terminal"][2] = 7.5  # type: ignore[index]
    log.add(poison)
    eventually(lambda: counts["dropped", "invalid"] == 4)
    log.add(served(4, seed=1))
    log.close()
    assert rows(tmp_path).num_rows == 4


def test_beyond_the_spools_limit_a_writer_without_shipper_stops(tmp_path: Path) -> None:
    log, counts = writer(tmp_path, {"segmentBytes": 4096, "bufferLimit": 40_000})
    for seed in range(40):
        log.add(served(64, seed))
        eventually(lambda seed=seed: counts["appended"] + counts["dropped", "disk_full"] == 64 * (seed + 1))
    log.close()
    assert counts["dropped", "disk_full"] > 0
    size = sum(path.stat().st_size for path in closed(tmp_path))
    assert 40_000 < size < 75_000
    assert rows(tmp_path).num_rows == counts["appended"]


def test_stale_values_are_told_apart_from_expired_ones() -> None:
    batch = served(3)
    batch.states["hourly"][:] = [0, 4, 1]
    for handling, expected in (("flag", "stale"), ("impute", "expired")):
        features = Features(views={"hourly": FeaturePolicy(on_stale=handling)})  # type: ignore[arg-type]
        table = readable(pa.Table.from_batches([LogColumns(SIGNATURE, features).batch([batch])]))
        assert table["state__hourly"].to_pylist() == ["present", expected, "absent"]


def test_a_column_named_as_one_of_the_logs_is_refused() -> None:
    wrong = Signature(
        model="m",
        feature_service="s",
        join_keys={},
        views=(),
        columns=(Column(name="probability", kind="number", dtype="Float64"),),
    )
    with pytest.raises(InvalidInput, match="columns named probability"):
        LogColumns(wrong, Features())


def tried(size: int) -> Tried:
    batch = served(size)
    looked = LookedUp(known_at=dict(batch.known_at), states=dict(batch.states))
    return Tried(
        list(range(size)), {name: list(values) for name, values in batch.fields.items()}, batch.moments, looked,
        batch.columns, list(batch.ids), batch.probabilities,
    )  # fmt: skip


def logged(parts: Sequence[Served]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = LogColumns(SIGNATURE, Features()).batch(parts).to_pydict()
    found.pop("served_at")
    return found


def test_failed_rows_are_left_out_and_requests_keep_their_rows() -> None:
    origins = Origins(["a", None, "b"], [False, True, False])
    whole = logged([tried(6).served(origins, [0, 3, 4, 6], ())])
    assert whole["request_id"] == ["a", "a", "a", None, "b", "b"]
    assert whole["shadow"] == [False, False, False, True, False, False]
    some = logged([tried(6).served(origins, [0, 3, 4, 6], {1, 4})])
    for name, values in some.items():
        expected = [whole[name][row] for row in (0, 2, 3, 5)]
        assert all(
            one == other or (one is not None and other is not None and math.isnan(one) and math.isnan(other))
            for one, other in zip(values, expected, strict=True)
        ), name


def test_integers_are_callers_ids_too() -> None:
    batch = served(3)
    assert isinstance(batch.fields, dict)
    batch.fields["id"] = [7, None, "x"]
    assert logged([batch])["id"] == ["7", None, "x"]


def test_the_age_of_a_segment_is_measured_from_its_first_row(tmp_path: Path) -> None:
    config = settings(tmp_path, {"segmentAge": "5m"})
    assert config.deployment.log.segment_age == timedelta(minutes=5)
    log, _ = writer(tmp_path, {"segmentAge": "5m"})
    assert log._segments.seconds_left() is None
    log.add(served(1))
    left = eventually(log._segments.seconds_left)
    assert 290 < left <= 300
    log.close()
