"""The shipper: exactly once whatever happens, and the numbers that say so."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from serinus.core.errors import Conflict, EngineError, InvalidInput
from serinus.core.platform import Platform
from serinus.core.spec.log import PredictionLog
from serinus.engines.prediction_store import PredictionStore
from serinus.serve import ship
from serinus.serve.log_segment import Label, OpenSegment, closed_rows
from serinus.serve.ship import Key, Shipper, Totals

SCHEMA = pa.schema([("prediction_id", pa.string()), ("state__v", pa.int8())])
KEY: Key = ("predictions", "delays", "3")
EPOCH = "e1"


def segment(folder: Path, sequence: int, rows: int, *, stream: Any = "predictions", epoch: str = EPOCH) -> OpenSegment:
    version = "3" if stream == "predictions" else ""
    label = Label(stream, "delays", version, epoch, "9-w", "2024-05-01", "sha256:s", sequence)
    opened = OpenSegment(folder / "spool" / stream, label, SCHEMA)
    ids = [f"p{sequence}-{row}" for row in range(rows)]
    opened.append(pa.record_batch([ids, pa.array([0] * rows, pa.int8())], schema=SCHEMA))
    return opened


def closed(folder: Path, sequence: int, rows: int, **kind: Any) -> Path:
    path = segment(folder, sequence, rows, **kind).close()
    assert path is not None
    os.utime(path, ns=(sequence * 10**9, sequence * 10**9))
    return path


class Site:
    """A spool, a destination and a shipper that can be killed."""

    def __init__(self, folder: Path, limit: int = 10**9) -> None:
        self.folder = folder
        self.limit = limit
        (folder / "state").mkdir(exist_ok=True)
        self.shipper = self._new()

    def _new(self) -> Shipper:
        store = PredictionStore(str(self.folder / "store"))
        return Shipper(self.folder / "spool", store, self.limit, self.folder / "state", EPOCH)

    def restart(self) -> None:
        """Another process takes over; what the dead one held in memory is gone."""
        self.shipper.close()
        self.shipper = self._new()

    def shipped(self) -> list[str]:
        return sorted(
            value
            for path in (self.folder / "store").rglob("*.parquet")
            for value in pq.read_table(path, partitioning=None)["prediction_id"].to_pylist()
        )

    @property
    def totals(self) -> Totals:
        return self.shipper.totals().get(KEY, Totals())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def ids(*segments: tuple[int, int]) -> list[str]:
    return sorted(f"p{sequence}-{row}" for sequence, rows in segments for row in range(rows))


def test_closed_segments_become_parquet_and_leave(site: Site) -> None:
    closed(site.folder, 1, 3)
    closed(site.folder, 2, 4)
    waiting = site.shipper.waiting()[KEY]
    assert waiting.rows == 7
    assert waiting.bytes > 0
    assert site.shipper.step()
    assert site.shipped() == ids((1, 3), (2, 4))
    assert (site.totals.rows, site.totals.segments) == (7, 2)
    assert site.shipper.waiting() == {}
    (first, _) = sorted((site.folder / "store").rglob("*.parquet"))
    assert str(first.relative_to(site.folder / "store")).startswith(
        "predictions/date=2024-05-01/model=delays/version=3/9-w-000001-"
    )
    assert pq.read_table(first, partitioning=None)["state__v"].to_pylist() == ["present"] * 3
    assert pq.read_metadata(first).metadata[b"serinus.schema_digest"] == b"sha256:s"


def test_rows_of_open_segments_count_as_waiting_until_their_writer_is_dead(site: Site) -> None:
    opened = segment(site.folder, 1, 5)
    assert site.shipper.step()
    assert site.shipper.waiting()[KEY].rows == 5
    opened.append(pa.record_batch([["more"], pa.array([0], pa.int8())], schema=SCHEMA))
    assert site.shipper.waiting()[KEY].rows == 6
    os.close(opened._file)  # as the kernel does for a killed process
    assert site.shipper.step()
    assert site.shipped() == sorted([*ids((1, 5)), "more"])
    assert site.totals.rows == 6


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("where", ["before the upload", "after the upload", "after the ledger", "while it removes"])
def test_killed_anywhere_nothing_is_lost_or_counted_twice(
    site: Site, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    closed(site.folder, 1, 3)
    closed(site.folder, 2, 4)
    put, write, unlink = PredictionStore.put, Shipper._write, Path.unlink

    def dies(before: Callable[..., Any] | None) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> None:
            if before is not None:
                before(*arguments, **named)
            raise Killed

        return run

    with monkeypatch.context() as patch:
        if where == "before the upload":
            patch.setattr(PredictionStore, "put", dies(None))
        elif where == "after the upload":
            patch.setattr(PredictionStore, "put", dies(put))
        elif where == "after the ledger":
            patch.setattr(Shipper, "_write", dies(write))
        else:
            patch.setattr(Path, "unlink", dies(unlink))
        with pytest.raises(Killed):
            site.shipper.step()
    site.restart()
    balance = site.shipper.balance()[KEY]
    assert balance[0].rows + balance[1].rows == 7, "in one of the two, never in both"
    assert site.shipper.step()
    assert site.shipped() == ids((1, 3), (2, 4))
    assert (site.totals.rows, site.totals.segments) == (7, 2)
    assert site.shipper.waiting() == {}


def test_an_unreachable_destination_is_tried_again_until_it_is_back(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ship.log, "disabled", False)  # import-linter, in another test, turns off all that it finds
    caplog.set_level("INFO", logger="serinus")
    (site.folder / "store").write_text("a file where a folder should be")
    closed(site.folder, 1, 3)
    assert [site.shipper.step() for _ in range(3)] == [False] * 3
    assert site.totals.failures == 3
    assert site.shipper.waiting()[KEY].rows == 3
    assert sum("will try again" in record.message for record in caplog.records) == 1
    (site.folder / "store").unlink()
    assert site.shipper.step()
    assert site.shipped() == ids((1, 3))
    assert "can be reached again" in caplog.records[-1].message


def test_over_the_limit_the_oldest_predictions_go_and_outcomes_stay(tmp_path: Path) -> None:
    site = Site(tmp_path)
    outcomes = closed(tmp_path, 1, 100, stream="outcomes")
    paths = [closed(tmp_path, sequence, 100) for sequence in range(2, 7)]
    size = paths[0].stat().st_size
    site.limit = outcomes.stat().st_size + 2 * size + size // 2
    (tmp_path / "store").write_text("unreachable")
    site.restart()
    assert not site.shipper.step()
    assert sorted(path.name for path in paths if path.exists()) == ["9-w-000005-100.arrows", "9-w-000006-100.arrows"]
    assert outcomes.exists()
    assert site.totals.discarded == 300
    totals, waiting = site.shipper.balance()[KEY]
    assert totals.rows + totals.discarded + waiting.rows == 500
    (tmp_path / "store").unlink()
    site.restart()
    assert site.shipper.step()
    assert site.shipped() == ids((1, 100), (5, 100), (6, 100))


def test_rows_of_an_earlier_period_are_shipped_and_not_counted(site: Site) -> None:
    closed(site.folder, 1, 3, epoch="e0")
    closed(site.folder, 2, 4)
    assert site.shipper.waiting()[KEY].rows == 4
    assert site.shipper.step()
    assert site.shipped() == ids((1, 3), (2, 4))
    assert site.totals.rows == 4


def test_what_cannot_be_read_is_set_aside(site: Site) -> None:
    path = closed(site.folder, 1, 300)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    closed(site.folder, 2, 4)
    torn = site.folder / "spool" / "predictions" / "9-w-000003.open"
    torn.write_bytes(content[:50])
    assert site.shipper.step()
    assert site.shipped() == ids((2, 4))
    assert sorted(each.name for each in (site.folder / "spool" / "damaged").iterdir()) == [path.name, torn.name]
    assert site.totals.damaged == 1
    assert site.shipper.waiting() == {}


def test_there_is_one_shipper_a_spool(site: Site) -> None:
    with pytest.raises(Conflict, match="another sidecar"):
        site._new()


def test_a_damaged_ledger_does_not_stop_shipping(site: Site) -> None:
    closed(site.folder, 1, 3)
    (site.folder / "state" / ship.LEDGER).write_text("{")
    site.restart()
    assert site.shipper.step()
    assert site.shipped() == ids((1, 3))


def test_shipping_twice_leaves_one_object(site: Site) -> None:
    path = closed(site.folder, 1, 3)
    content = path.read_bytes()
    assert site.shipper.step()
    (site.folder / "state" / ship.LEDGER).unlink()
    path.write_bytes(content)
    site.restart()
    assert site.shipper.step()
    assert len(list((site.folder / "store").rglob("*.parquet"))) == 1
    assert site.shipped() == ids((1, 3))
    assert closed_rows(path) == 3


def test_any_fsspec_store_will_do() -> None:
    store = PredictionStore("memory://bucket/log")
    store.put("predictions/date=2024-05-01/a.parquet", b"one")
    store.put("predictions/date=2024-05-01/a.parquet", b"two")
    assert store.folders("predictions") == ["date=2024-05-01"]
    (name,) = store.files("predictions")
    assert name.startswith(store.root)
    with store.filesystem.open_input_file(name) as file:
        assert file.read() == b"two"
    assert store.folders("nowhere") == store.files("nowhere") == []


def test_an_unknown_scheme_and_a_refusing_store_are_errors_in_words(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nothing://x cannot be used"):
        PredictionStore("nothing://x")
    (tmp_path / "store").write_text("in the way")
    with pytest.raises(EngineError, match="cannot write"):
        PredictionStore(str(tmp_path / "store")).put("a/b.parquet", b"")


def test_credentials_are_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "TOPSECRET123")
    with pytest.raises(InvalidInput) as caught:
        PredictionStore("nothing://user:TOPSECRET123@host/log?sig=TOPSECRET123")
    assert str(caught.value).startswith("the destination nothing://host/log cannot be used")
    store = PredictionStore("memory://log")
    error = store._failed("write", "x", OSError("refused for TOPSECRET123"))
    assert "TOPSECRET123" not in str(error)
    assert "AWS_SECRET_ACCESS_KEY" in str(error)
    store = PredictionStore("memory://log", {"key": "serinus", "client_kwargs": {"aws_session_token": "ANOTHERSECRET"}})
    error = store._failed("write", "x", OSError("refused serinus for ANOTHERSECRET"))
    assert str(error) == "cannot write memory://log/x: refused serinus for <aws_session_token>"


@pytest.mark.parametrize(
    ("sources", "destination", "told"),
    [
        ("s3://bucket/features", "s3://other/log", True),
        ("s3://bucket/features", "gs://other/log", False),
        ("s3://bucket/features", "/var/log", False),
        ("/mnt/features", "s3://other/log", True),
        ("/mnt/features", "/var/log", False),
    ],
)
def test_storage_options_are_for_one_kind_of_store(sources: str, destination: str, told: bool, tmp_path: Path) -> None:
    options = {"key": "serinus"}
    update = {"offline_uri": sources, "storage_options": options}
    platform = Platform.local(tmp_path).model_copy(update=update)
    assert platform.options_for(destination) == (options if told else {})


@pytest.mark.parametrize(
    ("destination", "allowed"),
    [
        ("s3://bucket/folder", True),
        ("gs://bucket", True),
        ("/var/log/predictions", True),
        ("memory:///x", True),
        ("s3://bucket/by@hand/x", True),
        ("sftp://user:password@host/x", False),
        ("https://host/x?sig=abc", False),
        ("s3://", False),
        ("relative", False),
    ],
)
def test_a_destination_says_where_and_not_who(destination: str, allowed: bool) -> None:
    if allowed:
        assert PredictionLog(destination=destination).place(Path("/state")) == destination
    else:
        with pytest.raises(ValidationError):
            PredictionLog(destination=destination)
