"""Archives: the same inputs give the same bytes, and nothing that was changed or smuggled in is accepted."""

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.core.errors import IntegrityError, InvalidInput, NotFound
from serinus.engines.archive import DIGESTS, HANDLER, MANIFEST, MODEL, PARTS, read_archive, write_archive
from serinus.engines.files import sha256
from tests.support_registry import archive, part_files

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file .*model_archiver.version.txt:ResourceWarning")

Entries = list[tuple[zipfile.ZipInfo, bytes]]


def rebuild(path: Path, change: Callable[[Entries], Iterable[tuple[zipfile.ZipInfo, bytes]]]) -> str:
    """Write the archive again with changed entries, as somebody who can register anything might, and its new digest."""
    with zipfile.ZipFile(path) as source:
        entries = [(info, source.read(info)) for info in source.infolist()]
    with zipfile.ZipFile(path, "w") as target:
        for info, data in change(entries):
            target.writestr(info, data)
    return sha256(path)


def refuse(path: Path, digest: str, match: str) -> None:
    with pytest.raises(IntegrityError, match=match), read_archive(path, digest):
        pytest.fail("an unsound archive was opened")


def test_round_trip(tmp_path: Path) -> None:
    path, digest = archive(tmp_path / "in", b"\x00weights")
    with read_archive(path, digest) as opened:
        assert (opened.name, opened.digest) == ("flights", digest)
        assert opened.read(MODEL) == b"\x00weights"
        opened.extract(tmp_path / "out")
    assert sorted(item.name for item in (tmp_path / "out").iterdir()) == sorted(PARTS)
    for member in PARTS:
        assert (tmp_path / "out" / member).read_bytes() == (tmp_path / "in" / member).read_bytes()


def test_same_inputs_same_bytes_whatever_the_files_times_modes_and_order(tmp_path: Path) -> None:
    first, digest = archive(tmp_path / "a")
    parts = part_files(tmp_path / "b")
    for position, file in enumerate(parts.values()):
        os.utime(file, (position, position))
        file.chmod(0o600)
    second = tmp_path / "b" / "other.mar"
    assert write_archive(second, "flights", dict(reversed(parts.items()))) == digest
    assert first.read_bytes() == second.read_bytes()
    assert archive(tmp_path / "c", b"other weights")[1] != digest
    assert archive(tmp_path / "d", name="retail")[1] != digest


def test_manifest_is_what_torchserve_reads(tmp_path: Path) -> None:
    path, _ = archive(tmp_path)
    with zipfile.ZipFile(path) as opened:
        manifest = json.loads(opened.read(MANIFEST))
    assert manifest["runtime"] == "python"
    assert manifest["model"] == {
        "modelName": "flights",
        "serializedFile": "model.pt2",
        "handler": "handler.py",
        "modelVersion": "1.0",
    }


@given(position=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=255))
def test_any_changed_byte_is_found(tmp_path_factory: pytest.TempPathFactory, position: int, flip: int) -> None:
    path, digest = archive(tmp_path_factory.mktemp("changed"))
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= flip
    path.write_bytes(data)
    refuse(path, digest, "expected sha256:.* found sha256:")


def test_a_file_cut_short_is_found(tmp_path: Path) -> None:
    path, digest = archive(tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    refuse(path, digest, "expected")
    refuse(path, sha256(path), "not a sound zip file")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no model archive"), read_archive(tmp_path / "none.mar", "sha256:0"):
        pytest.fail("opened")


def test_a_member_swapped_under_a_new_digest_of_the_file(tmp_path: Path) -> None:
    path, _ = archive(tmp_path)
    digest = rebuild(path, lambda entries: [(i, b"evil = 1" if i.filename == HANDLER else d) for i, d in entries])
    refuse(path, digest, f"member {HANDLER}: expected sha256")


def test_a_member_swapped_together_with_its_digest_but_not_the_manifests_claims(tmp_path: Path) -> None:
    """A manifest that asks for a requirements file would make TorchServe install packages."""
    path, _ = archive(tmp_path)

    def change(entries: Entries) -> Entries:
        contents = {info.filename: data for info, data in entries}
        manifest = json.loads(contents[MANIFEST])
        manifest["model"]["requirementsFile"] = "requirements.txt"
        contents[MANIFEST] = json.dumps(manifest).encode()
        index = json.loads(contents[DIGESTS])
        index["members"][MANIFEST] = "sha256:" + hashlib.sha256(contents[MANIFEST]).hexdigest()
        contents[DIGESTS] = json.dumps(index).encode()
        return [(info, contents[info.filename]) for info, _ in entries]

    refuse(path, rebuild(path, change), "requirementsFile")


@pytest.mark.parametrize("name", ["../escape.py", "/etc/passwd", "extra.py", "MAR-INF/", "a\\b", "model.pt2/x"])
def test_unknown_members_and_paths_that_lead_out(tmp_path: Path, name: str) -> None:
    path, _ = archive(tmp_path)
    digest = rebuild(path, lambda entries: [*entries, (zipfile.ZipInfo(name), b"")])
    refuse(path, digest, "members that do not belong")


def test_a_missing_member(tmp_path: Path) -> None:
    path, _ = archive(tmp_path)
    digest = rebuild(path, lambda entries: [entry for entry in entries if entry[0].filename != MODEL])
    refuse(path, digest, f"lacks {MODEL}")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_member_twice(tmp_path: Path) -> None:
    path, _ = archive(tmp_path)
    digest = rebuild(path, lambda entries: [*entries, entries[-1]])
    refuse(path, digest, "twice")


def test_a_link(tmp_path: Path) -> None:
    path, _ = archive(tmp_path)

    def change(entries: Entries) -> Entries:
        for info, _ in entries:
            if info.filename == MODEL:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
        return entries

    refuse(path, rebuild(path, change), "not a regular file")


def test_a_member_that_expands(tmp_path: Path) -> None:
    path, _ = archive(tmp_path)

    def change(entries: Entries) -> Entries:
        for info, _ in entries:
            info.compress_type = zipfile.ZIP_DEFLATED
        return [(info, bytes(50_000_000) if info.filename == MODEL else data) for info, data in entries]

    refuse(path, rebuild(path, change), "compressed or encrypted")


def test_a_part_that_is_too_large_is_not_written(tmp_path: Path) -> None:
    parts = part_files(tmp_path)
    parts[HANDLER].write_bytes(b"#" * (1 << 21))
    with pytest.raises(IntegrityError, match="allowed"):
        write_archive(tmp_path / "x.mar", "flights", parts)
    assert not (tmp_path / "x.mar").exists()


def test_a_bad_name_a_missing_part_and_a_missing_file(tmp_path: Path) -> None:
    parts = part_files(tmp_path)
    with pytest.raises(InvalidInput, match="cannot name a model"):
        write_archive(tmp_path / "x.mar", "../x", parts)
    with pytest.raises(InvalidInput, match="needs exactly"):
        write_archive(tmp_path / "x.mar", "flights", {MODEL: parts[MODEL]})
    parts[MODEL].unlink()
    with pytest.raises(NotFound, match=r"model\.pt2"):
        write_archive(tmp_path / "x.mar", "flights", parts)
    assert not (tmp_path / "x.mar").exists()
