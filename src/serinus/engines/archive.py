"""The .mar that TorchServe loads: the same inputs give the same bytes, and nothing is parsed before its digest holds.

torch-model-archiver writes the manifest; its zip is not used, because time stamps, folder order and the compressor's
version would change the bytes of an unchanged model. Members are stored, not compressed (a .pt2 hardly shrinks), which
also leaves no room for an archive that expands when read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from serinus.core.errors import IntegrityError, InvalidInput, NotFound
from serinus.engines.files import replacing, sha256

MODEL = "model.pt2"
SIGNATURE = "signature.json"
PROFILE = "profile.json"
HANDLER = "handler.py"
DIGESTS = "serinus.json"
MANIFEST = "MAR-INF/MANIFEST.json"

PARTS = (MODEL, SIGNATURE, PROFILE, HANDLER)
"""The members a caller gives."""

_MIB = 1 << 20
_LIMITS = {MANIFEST: _MIB, DIGESTS: _MIB, HANDLER: _MIB, SIGNATURE: 64 * _MIB, PROFILE: 64 * _MIB, MODEL: 16384 * _MIB}
_MANIFEST_VERSION = "1.0"  # the registry numbers versions, after packaging
_NO_TIME = (1980, 1, 1, 0, 0, 0)
_ADVICE = "fetch the version again from the registry, or register a newly packaged model"


@dataclass(frozen=True)
class Archive:
    """An opened archive whose digest, layout and members have been verified."""

    name: str
    digest: str
    _zip: zipfile.ZipFile

    def read(self, member: str) -> bytes:
        """The bytes of one member."""
        return self._zip.read(member)

    def extract(self, folder: Path) -> None:
        """Write the parts (model, signature, profile, handler) into a folder, each whole or absent."""
        for member in PARTS:
            with replacing(folder / member) as target, self._zip.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)


def write_archive(path: Path, name: str, parts: Mapping[str, Path]) -> str:
    """Write an archive of the `PARTS`, given as files, and return its digest.

    The same name and file contents give the same bytes on any machine. `path` appears whole or not at all.

    Raises:
        InvalidInput: the name or the set of parts is not allowed.
        NotFound: a part's file does not exist.
        IntegrityError: what was written would not be accepted by `read_archive`, such as a part that is too large.
    """
    _require_parts(parts)
    manifest = _manifest(name)
    digests = {MANIFEST: _hash(manifest)} | {member: sha256(parts[member]) for member in PARTS}
    index = json.dumps({"model": name, "members": digests}, indent=2, sort_keys=True).encode()
    with replacing(path) as part:
        with zipfile.ZipFile(part, "w") as archive:
            archive.writestr(_entry(DIGESTS, len(index)), index)
            archive.writestr(_entry(MANIFEST, len(manifest)), manifest)
            for member in PARTS:
                entry = _entry(member, parts[member].stat().st_size)
                with parts[member].open("rb") as source, archive.open(entry, "w") as target:
                    shutil.copyfileobj(source, target, _MIB)
        digest = sha256(part)
        with read_archive(part, digest):
            pass
    return digest


@contextmanager
def read_archive(path: Path, digest: str) -> Iterator[Archive]:
    """Open an archive that was registered under `digest`.

    The digest of the whole file is compared before anything in it is parsed; then the layout and the digest of every
    member. Bytes are read through one open file, so that a path swapped meanwhile changes nothing.

    Raises:
        NotFound: there is no such file.
        IntegrityError: the file, its layout or a member is not what was registered.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise NotFound(f"there is no model archive at {path}", hint=_ADVICE) from error
    with file:
        found = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise IntegrityError(f"{path}: expected {digest}, found {found}", hint=_ADVICE)
        size = file.seek(0, 2)
        try:
            with zipfile.ZipFile(file) as archive:
                yield Archive(_verify(path, archive, size), digest, archive)
        except zipfile.BadZipFile as error:
            raise IntegrityError(f"{path} is not a sound zip file: {error}", hint=_ADVICE) from error


def _verify(path: Path, archive: zipfile.ZipFile, size: int) -> str:
    entries = archive.infolist()
    _require_layout(path, entries, size)
    index = _document(path, archive, DIGESTS)
    name, members = index.get("model"), index.get("members")
    if not isinstance(name, str) or not isinstance(members, dict) or set(members) != set(_LIMITS) - {DIGESTS}:
        raise IntegrityError(f"{path}: {DIGESTS} does not give the model's name and every member's digest")
    for member, expected in members.items():
        with archive.open(member) as stream:
            found = _hash_stream(stream)
        if found != expected:
            raise IntegrityError(f"{path}, member {member}: expected {expected}, found {found}", hint=_ADVICE)
    model = {"modelName": name, "handler": HANDLER, "serializedFile": MODEL, "modelVersion": _MANIFEST_VERSION}
    found_model = _document(path, archive, MANIFEST).get("model")
    if found_model != model:  # anything more, such as a requirements file, would make TorchServe run something else
        raise IntegrityError(f"{path}: {MANIFEST} asks TorchServe to load {found_model}, expected {model}")
    return name


def _require_layout(path: Path, entries: list[zipfile.ZipInfo], size: int) -> None:
    names = [entry.filename for entry in entries]
    strange = sorted(set(names) - set(_LIMITS))
    if strange:
        raise IntegrityError(f"{path} has members that do not belong in it: {', '.join(map(repr, strange))}")
    if sorted(names) != sorted(_LIMITS):
        missing = sorted(set(_LIMITS) - set(names))
        raise IntegrityError(f"{path} lacks {', '.join(missing)}" if missing else f"{path} has a member twice")
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise IntegrityError(f"{path}, member {entry.filename}: not a regular file")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise IntegrityError(f"{path}, member {entry.filename}: compressed or encrypted, expected stored bytes")
        if entry.file_size > _LIMITS[entry.filename]:
            raise IntegrityError(
                f"{path}, member {entry.filename}: {entry.file_size} bytes, allowed {_LIMITS[entry.filename]}"
            )
    if sum(entry.file_size for entry in entries) > size:
        raise IntegrityError(f"{path}: members overlap, they claim more bytes than the file has")


def _document(path: Path, archive: zipfile.ZipFile, member: str) -> dict[str, Any]:
    try:
        document = json.loads(archive.read(member))
    except ValueError as error:
        raise IntegrityError(f"{path}: {member} is not JSON: {error}", hint=_ADVICE) from error
    if not isinstance(document, dict):
        raise IntegrityError(f"{path}: {member} is not a JSON object", hint=_ADVICE)
    return document


def _manifest(name: str) -> bytes:
    """The manifest as torch-model-archiver writes it, less the time of day."""
    from model_archiver.model_archiver_config import ModelArchiverConfig
    from model_archiver.model_archiver_error import ModelArchiverError
    from model_archiver.model_packaging_utils import ModelExportUtils

    try:
        ModelExportUtils.check_model_name_regex_or_exit(name)
    except ModelArchiverError as error:
        raise InvalidInput(f"{name!r} cannot name a model: {error}") from error
    config = ModelArchiverConfig(model_name=name, handler=HANDLER, serialized_file=MODEL, version=_MANIFEST_VERSION)
    manifest = json.loads(ModelExportUtils.generate_manifest_json(config))
    manifest["createdOn"] = "01/01/1980 00:00:00"
    return json.dumps(manifest, indent=2).encode()


def _require_parts(parts: Mapping[str, Path]) -> None:
    if set(parts) != set(PARTS):
        raise InvalidInput(f"an archive needs exactly {', '.join(PARTS)}; given were {', '.join(sorted(parts))}")
    for member, file in parts.items():
        if not file.is_file():
            raise NotFound(f"there is no file {file} to package as {member}", hint="run the steps before it again")


def _entry(member: str, size: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(member, _NO_TIME)
    entry.create_system = 3  # Unix, whatever the machine: it decides how the next field is read
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    entry.compress_type = zipfile.ZIP_STORED
    entry.file_size = size
    return entry


def _hash(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _hash_stream(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(_MIB):
        digest.update(chunk)
    return "sha256:" + digest.hexdigest()
