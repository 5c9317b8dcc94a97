"""Segments: whatever kills a writer, the rows of whole batches are there, once."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serinus.core.errors import IntegrityError
from serinus.serve.log_segment import (
    CLOSED,
    OPEN,
    Label,
    OpenSegment,
    closed_rows,
    read_segment,
    recover,
    scan_header,
    scan_on,
    segment_digest,
)

SCHEMA = pa.schema([("id", pa.string()), ("value", pa.float64()), ("flag", pa.int8())])
LABEL = Label("predictions", "delays", "3", "epoch", "77-abc", "2024-05-01", "sha256:s", sequence=5)


def batch(rows: int, start: int = 0) -> pa.RecordBatch:
    numbers = range(start, start + rows)
    values = [None if number % 3 == 0 else float(number) for number in numbers]
    return pa.record_batch(
        [[f"p{number}" for number in numbers], values, pa.array([1] * rows, pa.int8())], schema=SCHEMA
    )


def killed(folder: Path, sizes: list[int]) -> tuple[Path, list[int]]:
    """An open segment without a writer, and where each batch ends in it."""
    segment = OpenSegment(folder, LABEL, SCHEMA)
    ends = [segment.size]
    for position, rows in enumerate(sizes):
        segment.append(batch(rows, start=sum(sizes[:position])))
        ends.append(segment.size)
    os.close(segment._file)
    return folder / f"{LABEL.leaf}{OPEN}", ends


def test_a_closed_segment_reads_back_with_its_label(tmp_path: Path) -> None:
    segment = OpenSegment(tmp_path, LABEL, SCHEMA)
    segment.append(batch(3))
    segment.append(batch(4, start=3), durable=True)
    path = segment.close()
    assert path is not None
    assert path.name == "77-abc-000005-7.arrows"
    assert closed_rows(path) == 7
    assert read_segment(path).to_pydict() == pa.Table.from_batches([batch(7)]).to_pydict()
    assert scan_header(path).label == LABEL
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_segment_without_rows_leaves_no_file(tmp_path: Path) -> None:
    assert OpenSegment(tmp_path, LABEL, SCHEMA).close() is None
    assert list(tmp_path.iterdir()) == []


def test_cut_at_every_byte_the_whole_batches_are_recovered(tmp_path: Path) -> None:
    path, ends = killed(tmp_path / "whole", [2, 1, 3])
    content = path.read_bytes()
    counts = [0, 2, 3, 6]
    for size in range(ends[0], len(content) + 1):
        cut = tmp_path / str(size) / path.name
        cut.parent.mkdir()
        cut.write_bytes(content[:size])
        expected = counts[max(at for at, end in enumerate(ends) if end <= size)]
        found = recover(cut)
        if expected == 0:
            assert found is None
            assert list(cut.parent.iterdir()) == []
        else:
            assert found is not None
            assert closed_rows(found) == expected
            assert read_segment(found).column("id").to_pylist() == [f"p{row}" for row in range(expected)]


def test_cut_inside_the_header_it_is_said_to_be_damaged(tmp_path: Path) -> None:
    path, ends = killed(tmp_path, [2])
    content = path.read_bytes()
    for size in range(ends[0]):
        path.write_bytes(content[:size])
        with pytest.raises(IntegrityError, match="no readable header"):
            recover(path)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5), junk=st.binary(min_size=1, max_size=64))
def test_junk_after_the_last_batch_is_cut_off(tmp_path: Path, sizes: list[int], junk: bytes) -> None:
    """Blocks that a file system had given to the file and not yet filled hold zeros, or anything."""
    for tail in (junk, bytes(len(junk))):
        path, _ = killed(tmp_path / "junk", sizes)
        with path.open("ab") as file:
            file.write(tail)
        found = recover(path)
        assert found is not None
        assert read_segment(found).num_rows == sum(sizes)
        found.unlink()


def test_recovery_leaves_a_living_writer_alone(tmp_path: Path) -> None:
    segment = OpenSegment(tmp_path, LABEL, SCHEMA)
    segment.append(batch(2))
    path = tmp_path / f"{LABEL.leaf}{OPEN}"
    assert recover(path) is None
    assert path.exists()
    segment.append(batch(2, start=2))
    assert segment.close() is not None
    assert recover(path) is None, "it is closed by now"


def test_a_scan_goes_on_where_it_stopped(tmp_path: Path) -> None:
    segment = OpenSegment(tmp_path, LABEL, SCHEMA)
    path = tmp_path / f"{LABEL.leaf}{OPEN}"
    scan = scan_header(path)
    for rows in (3, 5):
        segment.append(batch(rows))
        scan = scan_on(path, scan)
    assert (scan.rows, scan.end) == (8, segment.size)
    segment.close()


def test_a_damaged_closed_segment_is_refused(tmp_path: Path) -> None:
    segment = OpenSegment(tmp_path, LABEL, SCHEMA)
    segment.append(batch(64))
    path = segment.close()
    assert path is not None
    digest = segment_digest(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 40])
    assert segment_digest(path) != digest
    with pytest.raises(IntegrityError, match="damaged"):
        read_segment(path)
    renamed = path.rename(tmp_path / f"{LABEL.leaf}-65{CLOSED}")
    renamed.write_bytes(content)
    with pytest.raises(IntegrityError, match="its name says 65"):
        read_segment(renamed)


_FULL_DISK = """
import resource, sys
from pathlib import Path
from tests.unit.test_log_segment import LABEL, SCHEMA, batch
from serinus.serve.log_segment import OpenSegment
segment = OpenSegment(Path(sys.argv[1]), LABEL, SCHEMA)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
kept = 0
for start in range(0, 5000, 50):
    try:
        segment.append(batch(50, start=start))
        kept += 50
    except OSError as error:
        print(error.errno)
        break
print(kept, segment.rows, segment.close().name)
"""


def test_a_write_that_the_disk_cuts_short_is_taken_back(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    number, summary = done.stdout.splitlines()
    assert int(number) == errno.EFBIG
    kept, rows, name = summary.split()
    assert int(kept) == int(rows) > 0
    assert read_segment(tmp_path / name).num_rows == int(rows)
