"""Request bodies of a small made-up model, for what reads them and for what is answered to them."""

from __future__ import annotations

import json
import struct
from typing import Any

from serinus.core.signature import Column, Signature
from serinus.serve.codec import Request, parse
from serinus.serve.fields import Schema

SIGNATURE = Signature(
    model="toy",
    feature_service="toy",
    join_keys={"place": "String", "plane": "Int32"},
    views=(),
    columns=(
        Column(name="distance", kind="number", dtype="Float64"),
        Column(name="hour", kind="number", dtype="Int64"),
        Column(name="night", kind="number", dtype="Bool"),
        Column(name="kind", kind="category", dtype="String", categories=("a",)),
    ),
)
SCHEMA = Schema.of(SIGNATURE, "wall")


def read(content: Any, protocol: str = "v2", **headers: str) -> Request:
    """What the codec makes of a body, of at most four rows."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return parse({"x-serinus-protocol": protocol, **headers}, body, SCHEMA, 4)


def tensor(name: str, datatype: str, data: Any, shape: list[int] | None = None, **more: Any) -> dict[str, Any]:
    """One of the Open Inference Protocol, as JSON; a flat one where no shape is told."""
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data, **more}


def packed(*values: bytes) -> bytes:
    """Strings as binary tensors hold them: each after its length."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)
