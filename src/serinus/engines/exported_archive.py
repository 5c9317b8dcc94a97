"""What a model file may hold, checked before anything in it is used.

A .pt2 archive as torch defines it may carry pickles (example inputs, odd tensors, custom objects), Python source
(guards, symbolic sizes), names of functions to call and shared libraries. A model here needs none of that, so anything
but plain tensors and arithmetic is refused; refused and not ignored, as others may hand the same file to
`torch.export.load`.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serinus.core.errors import IntegrityError, NotFound

ROOT = "model/"
GRAPH = "models/model.json"
EXAMPLES = "data/sample_inputs/model.pt"
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
MAXIMUM_BYTES = 2 << 30

_MARKS = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"}
_VERSION = ".data/version"
_TENSOR = re.compile(r"data/(weights/weight_\d+|constants/tensor_\d+)")
_DROPPED = re.compile(r"\.data/serialization_id")
_TREES = (
    "",
    '[1, {"type": "builtins.tuple", "context": "null", "children_spec": [{"type": "builtins.tuple", "context": "null", '
    '"children_spec": [{"type": null, "context": null, "children_spec": []}, {"type": null, "context": null, '
    '"children_spec": []}]}, {"type": "builtins.dict", "context": "[]", "children_spec": []}]}]',
    '[1, {"type": null, "context": null, "children_spec": []}]',
)
_OPERATORS = re.compile(
    r"torch\.ops\.aten\.(?!(?:from_file|save)\.)(?:(?!__)\w+|__(?:and|or|xor|lshift|rshift)__)\.(?!_)\w+"
    r"|_operator\.(?:getitem|add|sub|mul|floordiv|mod|neg|eq|ne|lt|le|gt|ge)"
)
_GRAMMAR = {
    "target": _OPERATORS,
    "expr_str": re.compile(
        r"(?=.{1,300}$)(?:Symbol\('[su]\d+'(?:, (?:positive|integer|nonnegative)=True)*\)"
        r"|Integer\(-?\d{1,19}\)|(?:Add|Mul)\(|\)|, )+"
    ),
    "as_string": re.compile(r"[A-Za-z0-9_,.>\- ]*"),
}
_NAME = re.compile(r"[A-Za-z0-9_.+]*")
_CODE = ("metadata", "guards_code")


def read_members(path: Path) -> dict[str, bytes]:
    """Read and check a model file; its members by name.

    Raises:
        NotFound: there is no such file.
        IntegrityError: the file is damaged, or holds something other than plain tensors and arithmetic.
    """
    try:
        members = _members(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        raise NotFound(f"there is no model at {path}", hint="train one: serinus train") from error
    check(members, str(path))
    return members


def without_code(archive: bytes) -> dict[str, bytes]:
    """Members of the archive that `torch.export.save` wrote, without source code and paths of who made it.

    Packed, equal programs give equal bytes: no times, no serialisation id.
    """
    members = _members(archive, "the exported program")
    graph = json.loads(members[GRAPH])
    graph["guards_code"] = []
    for holder in _dictionaries(graph):
        if "metadata" in holder:
            holder["metadata"] = {}
    members[GRAPH] = json.dumps(graph, separators=(",", ":")).encode()
    check(members, "the exported program")
    return members


def pack(members: Mapping[str, bytes]) -> bytes:
    """A zip archive of the members, uncompressed, in order of name and without times."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(ROOT + name), members[name])
    return buffer.getvalue()


def check(members: Mapping[str, bytes], origin: str) -> None:
    """Refuse an archive with anything but a graph of tensor arithmetic and its tensors.

    Raises:
        IntegrityError: naming the first thing that is not allowed.
    """
    missing = {GRAPH, EXAMPLES, *CONFIGS, *_MARKS, _VERSION} - members.keys()
    if missing:
        raise _refused(origin, f"it has no {min(missing)}")
    for name, content in members.items():
        _check_member(name, content, origin)
    for name in CONFIGS:
        _check_config(_parse(members[name], name, origin), members, f"{origin}: {name}")
    _check_strings(_parse(members[GRAPH], GRAPH, origin), "", f"{origin}: {GRAPH}")


def _check_member(name: str, content: bytes, origin: str) -> None:
    if name == EXAMPLES:
        if content:
            raise _refused(origin, f"{name} holds example inputs, which are a pickle")
    elif name in _MARKS:
        if content != _MARKS[name]:
            raise _refused(origin, f"{name} is {content[:20]!r} instead of {_MARKS[name]!r}")
    elif name == _VERSION:
        if not re.fullmatch(rb"\d{1,3}\n?", content):
            raise _refused(origin, f"{name} is not a number")
    elif name != GRAPH and name not in CONFIGS and not _TENSOR.fullmatch(name):
        raise _refused(origin, f"a model has no member {name!r}")


def _check_config(config: Any, members: Mapping[str, bytes], origin: str) -> None:
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise _refused(origin, "it has no table of tensors")
    for name, entry in entries.items():
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            raise _refused(origin, f"tensor {name!r} is pickled")
        path = entry.get("path_name")
        if not isinstance(path, str) or not {f"data/weights/{path}", f"data/constants/{path}"} & members.keys():
            raise _refused(origin, f"tensor {name!r} has no bytes")
    _check_strings(config, "", origin)


def _check_strings(value: Any, key: str, origin: str) -> None:
    """Hold every text of a parsed JSON value against the grammar of its key."""
    if isinstance(value, dict):
        for name, item in value.items():
            if not _NAME.fullmatch(name):
                raise _refused(origin, f"{name[:80]!r} is not a name")
            if name in _CODE and item:
                raise _refused(origin, f"{name} may hold source code and must be empty")
            _check_strings(item, name, origin)
    elif isinstance(value, list):
        for item in value:
            _check_strings(item, key, origin)
    elif isinstance(value, str):
        allowed = value in _TREES if key in ("in_spec", "out_spec") else _GRAMMAR.get(key, _NAME).fullmatch(value)
        if not allowed:
            raise _refused(origin, f"{value[:80]!r} is not allowed as {key or 'a value'}")


def _members(archive: bytes, origin: str) -> dict[str, bytes]:
    """Members by name without the root folder; each stored once, uncompressed and with a right checksum."""
    members: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            for info in file.infolist():
                name = info.filename.partition("/")[2]
                if info.compress_type != zipfile.ZIP_STORED or info.file_size > MAXIMUM_BYTES or name in members:
                    raise _refused(origin, f"member {info.filename!r} is compressed, too large or there twice")
                if not _DROPPED.fullmatch(name):
                    members[name] = file.read(info)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise _refused(origin, "it is not a whole zip archive") from error
    return members


def _parse(content: bytes, name: str, origin: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _refused(origin, f"{name} is not JSON") from error


def _dictionaries(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value, *(found for item in value.values() for found in _dictionaries(item))]
    return [found for item in value for found in _dictionaries(item)] if isinstance(value, list) else []


def _refused(origin: str, reason: str) -> IntegrityError:
    return IntegrityError(f"{origin} is not a model that may be loaded: {reason}", hint="fetch or train it again")
