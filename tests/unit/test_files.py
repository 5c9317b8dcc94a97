"""Files appear whole or not at all."""

import stat
from pathlib import Path

import pytest

from serinus.engines.files import replacing, sha256, write_text


def test_replaces_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert [item.name for item in path.parent.iterdir()] == ["file"]


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "a lone surrogate cannot be written: \udc80")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_read_only_file_can_be_made_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for text in ("one", "two"):
        with replacing(path, mode=0o444) as part:
            part.write_text(text)
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444


def test_digest_of_known_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256(path) == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
