"""What a request row may carry, and the check that turns its values into typed columns.

A whole batch is checked at once, column by column; only a value that is wrong costs more than a glance, and it fails
its own row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import NoneType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serinus.core.dataset import EVENT_TIMESTAMP, ID
from serinus.core.errors import InvalidInput, Problem
from serinus.core.signature import Signature
from serinus.core.times import utc

Accepts = Literal["string", "integer", "number", "boolean", "time", "id"]

_DTYPES: dict[str, Accepts] = {
    "string": "string",
    "int32": "integer",
    "int64": "integer",
    "float32": "number",
    "float64": "number",
    "float": "number",
    "double": "number",
    "bool": "boolean",
}
_INTEGERS = frozenset({"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"})
_DATATYPES: dict[Accepts, frozenset[str]] = {
    "string": frozenset({"BYTES"}),
    "integer": _INTEGERS,
    "number": _INTEGERS | {"FP16", "FP32", "FP64"},
    "boolean": frozenset({"BOOL"}),
    "time": frozenset({"BYTES"}),
    "id": _INTEGERS | {"BYTES"},
}
_TYPES: dict[Accepts, frozenset[type]] = {
    "string": frozenset({str}),
    "integer": frozenset({int}),
    "number": frozenset({float, int}),
    "boolean": frozenset({bool}),
    "time": frozenset({str}),
    "id": frozenset({str, int}),
}
_ALLOWED: dict[Accepts, str] = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "time": "a time in ISO 8601 such as 2013-08-01T12:00:00Z",
    "id": "a string or an integer",
}
# Anything from here on rounds to infinity as a 32-bit float, which is what the model sees.
FLOAT32_LIMIT = (2.0 - 2.0**-24) * 2.0**127
_EXACT = 2.0**53
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class RowError:
    """Why one row has no answer; `status` is what the whole request answers when every row failed."""

    message: str
    status: int = 422


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a request row.

    A required field must be there; only where it is `nullable` may it be null. A join key may: the entity is unknown,
    and so are its features, as in the point-in-time join. `bits` bounds integers.
    """

    name: str
    accepts: Accepts
    required: bool = False
    nullable: bool = True
    bits: int = 64

    @property
    def datatypes(self) -> frozenset[str]:
        """The Open Inference Protocol's tensor types that may carry it."""
        return _DATATYPES[self.accepts]

    @property
    def allowed(self) -> str:
        return _ALLOWED[self.accepts]


@dataclass(frozen=True, slots=True)
class Checked:
    """Typed columns of a batch, and the rows that are wrong.

    `columns` holds a list a field, None where a row has no value or a wrong one; `moments` the rows' `event_timestamp`
    in microseconds since 1970 (0 where not given).
    """

    columns: dict[str, list[Any]]
    moments: NDArray[np.int64]
    errors: dict[int, RowError]


class Schema:
    """The fields of one model's request rows."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = {field.name: field for field in fields}
        self.names = frozenset(self.fields)
        self.required = frozenset(field.name for field in fields if field.required)
        self.listing = ", ".join(self.fields)

    @classmethod
    def of(cls, signature: Signature, clock: Literal["wall", "request"]) -> Schema:
        """Join keys (required), request features, `id` and `event_timestamp` (required where it is the clock).

        Raises:
            InvalidInput: a field has a type that requests cannot carry.
        """
        fields = [_field(name, dtype, required=True) for name, dtype in signature.join_keys.items()]
        features = [column for column in signature.request_fields if column.name not in signature.join_keys]
        fields += [_field(column.name, column.dtype, required=False) for column in features]
        timed = clock == "request"
        fields.append(Field(EVENT_TIMESTAMP, "time", required=timed, nullable=not timed))
        fields.append(Field(ID, "id"))
        return cls(fields)

    def absent(self, given: Collection[str], place: Callable[[str], str]) -> RowError | None:
        """What is wrong with a row that carries only the fields `given`, if a required one is not among them."""
        for name in self.fields:
            if name in self.required and name not in given:
                allowed = f"{self.fields[name].allowed}{', or null' if self.fields[name].nullable else ''}"
                return RowError(str(Problem(path=place(name), found="nothing", allowed=allowed)))
        return None

    def check(self, columns: Mapping[str, list[Any]], rows: int, place: Callable[[int, str], str]) -> Checked:
        """Check the columns of `rows` rows; a column that is absent counts as null.

        Args:
            columns: values by field, None where a row lacks one.
            rows: length of every column.
            place: how to name a field of a row in an error.
        """
        errors: dict[int, RowError] = {}
        checked: dict[str, list[Any]] = {}
        moments = np.zeros(rows, dtype=np.int64)
        for name, field in self.fields.items():
            values = columns.get(name) or [None] * rows
            for row, problem in _problems(field, values).items():
                path = place(row, name)
                errors.setdefault(row, RowError(str(Problem(path=path, found=problem, allowed=field.allowed))))
                values[row] = None
            if field.accepts == "time":
                moments = _moments(field, values, errors, place)
            checked[name] = values
        return Checked(checked, moments, errors)


def _field(name: str, dtype: str, required: bool) -> Field:
    accepts = _DTYPES.get(dtype.lower())
    if accepts is None:
        raise InvalidInput(
            f"request field {name} has the type {dtype}, which requests cannot carry",
            hint=f"use one of {', '.join(sorted(_DTYPES))}",
        )
    return Field(name, accepts, required, bits=32 if dtype.lower() == "int32" else 64)


def _problems(field: Field, values: list[Any]) -> dict[int, str]:
    """What was found, for each row whose value does not fit; whole numbers become integers where those are wanted."""
    kinds = set(map(type, values))
    expected = _TYPES[field.accepts]
    found: dict[int, str] = {}
    if not kinds <= expected and not kinds <= expected | {NoneType}:
        for row, value in enumerate(values):
            if value is None or type(value) in expected:
                continue
            if _is_whole(field, value):
                values[row] = int(value)
            else:
                found[row] = describe(value)
        kinds = set(map(type, values))
    if not field.nullable and NoneType in kinds:
        found |= {row: "nothing" for row, value in enumerate(values) if value is None}
    if kinds & expected:
        found |= {row: f"{values[row]:g}, out of range" for row in _out_of_range(field, values) if row not in found}
    return found


def _is_whole(field: Field, value: Any) -> bool:
    """Whether a float is an integer to JSON, as 5.0 is; not where it may have been another one before it was read."""
    return field.accepts in ("integer", "id") and type(value) is float and value.is_integer() and abs(value) < _EXACT


def _out_of_range(field: Field, values: list[Any]) -> list[int]:
    """Rows whose number is not finite, or too large for what reads it."""
    if field.accepts not in ("integer", "number"):
        return []
    limit = 2.0 ** (field.bits - 1) if field.accepts == "integer" else FLOAT32_LIMIT
    expected = _TYPES[field.accepts]
    present = [value for value in values if type(value) in expected]
    if -limit <= min(present) and max(present) < limit:  # a NaN in front makes this false too
        return []
    return [row for row, value in enumerate(values) if type(value) in expected and not -limit <= value < limit]


def describe(value: Any) -> str:
    """A value in an error message, cut to a bearable length; never a nested value's content."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970 of an aware time."""
    return (moment - _EPOCH) // _MICROSECOND


def _moments(
    field: Field, values: list[Any], errors: dict[int, RowError], place: Callable[[int, str], str]
) -> NDArray[np.int64]:
    moments = np.zeros(len(values), dtype=np.int64)
    for row, value in enumerate(values):
        if value is None:
            continue
        try:
            moments[row] = microseconds(utc(value))
        except (ValueError, OverflowError):
            problem = Problem(path=place(row, field.name), found=describe(value), allowed=field.allowed)
            errors.setdefault(row, RowError(str(problem)))
    return moments
