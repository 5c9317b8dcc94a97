"""Served batches as Arrow columns: the layout of the prediction log, derived from a model's signature.

Nothing here handles one row at a time: what batches hold is joined column by column and handed to Arrow whole. Numbers
go as buffers, because `pa.array` lets go of Python's lock at every call, and a thread that is busy answering requests
gives it back only some milliseconds later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serinus.core import prediction_log as names
from serinus.core.dataset import EVENT_TIMESTAMP, ID
from serinus.core.errors import InvalidInput
from serinus.core.signature import Column, Signature
from serinus.core.spec.deployment import Features
from serinus.serve.freshness import ABSENT_TIME, State
from serinus.serve.served import Origins, Served

_TIME = pa.timestamp("us", tz="UTC")
_EXPIRED = names.STATES.index("expired")
_INTEGERS = {"int32": pa.int32(), "int64": pa.int64()}


_Make = Callable[[Sequence[Served]], pa.Array]


class LogColumns:
    """How the log of one model version is laid out.

    Raises:
        InvalidInput: a field of the model has the name of one of the log's own columns.
    """

    def __init__(self, signature: Signature, features: Features) -> None:
        own: dict[str, tuple[pa.DataType, _Make]] = {
            names.PREDICTION_ID: (pa.string(), _ids),
            names.SERVED_AT: (_TIME, _served_at),
            names.REQUEST_ID: (pa.string(), _request_ids),
            names.SHADOW: (pa.bool_(), _shadow),
            ID: (pa.string(), _caller_ids),
            EVENT_TIMESTAMP: (_TIME, _moments),
            names.PROBABILITY: (pa.float64(), _probabilities),
        }
        for view in signature.views:
            own[names.KNOWN_AT + view.name] = (_TIME, _known_at(view.name))
            replaced = _EXPIRED if features.policy(view.name).on_stale == "impute" else None
            own[names.STATE + view.name] = (pa.int8(), _states(view.name, replaced))
        given = {column.name: _column(column) for column in signature.columns}
        given |= {name: _key(name, dtype) for name, dtype in signature.join_keys.items() if name not in given}
        taken = sorted(own.keys() & given)
        if taken:
            raise InvalidInput(
                f"{signature.model} has columns named {', '.join(taken)}, as the prediction log has",
                hint="rename them in the project, or turn the log off: spec.log.enabled: false",
            )
        self._columns = own | given
        self.schema = pa.schema(
            [(name, kind) for name, (kind, _) in self._columns.items()],
            metadata={"model": signature.model, "schema_digest": signature.schema_digest},
        )

    def batch(self, served: Sequence[Served]) -> pa.RecordBatch:
        """The rows of several batches, one after another."""
        return pa.record_batch([make(served) for _, make in self._columns.values()], schema=self.schema)


def blank(signature: Signature) -> Served:
    """One row without any value, to warm up with: Arrow imports pandas, of all things, at its first list."""
    none: NDArray[Any] = np.array([None], dtype=object)
    nan = np.array([np.nan])
    zero = np.zeros(1, dtype=np.int64)
    views = [view.name for view in signature.views]
    return Served(
        served_at=0,
        ids=["0" * 36],
        probabilities=nan,
        moments=zero,
        origins=Origins([None], [False]),
        request_rows=[1],
        fields={key: [None] for key in [ID, *signature.join_keys]},
        columns={column.name: nan if column.kind == "number" else none for column in signature.columns},
        known_at=dict.fromkeys(views, zero),
        states=dict.fromkeys(views, np.zeros(1, dtype=np.int8)),
    )


def readable(table: pa.Table) -> pa.Table:
    """A segment's rows as the log shows them: states of views as words."""
    words = pa.array(names.STATES)
    for position, name in enumerate(table.column_names):
        if name.startswith(names.STATE):
            table = table.set_column(position, name, words.take(table[name].combine_chunks()))
    return table


def _ids(batches: Sequence[Served]) -> pa.Array:
    """Prediction ids all have one length, so their text can be handed over as a whole."""
    texts = list(chain.from_iterable(each.ids for each in batches))
    content = "".join(texts).encode()
    width = len(texts[0])
    ends = np.arange(0, width * len(texts) + 1, width, dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), len(texts), [None, pa.py_buffer(ends), pa.py_buffer(content)])


def _array(values: NDArray[Any], kind: pa.DataType, missing: NDArray[np.bool_] | None = None) -> pa.Array:
    """Numbers as they lie in memory, null where missing."""
    valid = None if missing is None or not missing.any() else pa.py_buffer(np.packbits(~missing, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [valid, pa.py_buffer(np.ascontiguousarray(values))])


def _served_at(batches: Sequence[Served]) -> pa.Array:
    times = [each.served_at for each in batches]
    return _array(np.repeat(np.array(times, dtype=np.int64), [each.rows for each in batches]), _TIME)


def _moments(batches: Sequence[Served]) -> pa.Array:
    return _array(np.concatenate([each.moments for each in batches]), _TIME)


def _request_ids(batches: Sequence[Served]) -> pa.Array:
    return pa.array(list(chain.from_iterable(_repeated(each.origins.ids, each) for each in batches)), pa.string())


def _shadow(batches: Sequence[Served]) -> pa.Array:
    if not any(map(any, (each.origins.shadow for each in batches))):
        return pa.array(np.zeros(sum(each.rows for each in batches), dtype=np.bool_))
    return pa.array(list(chain.from_iterable(_repeated(each.origins.shadow, each) for each in batches)), pa.bool_())


def _repeated(values: Sequence[Any], batch: Served) -> Sequence[Any]:
    """Each request's value for each of its rows."""
    if len(values) == batch.rows:
        return values
    return [value for value, rows in zip(values, batch.request_rows, strict=True) for _ in range(rows)]


def _caller_ids(batches: Sequence[Served]) -> pa.Array:
    values = list(chain.from_iterable(each.fields[ID] for each in batches))
    try:
        return pa.array(values, pa.string())
    except pa.ArrowTypeError:  # callers may use integers
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def _probabilities(batches: Sequence[Served]) -> pa.Array:
    return _array(np.concatenate([each.probabilities for each in batches]), pa.float64())


def _known_at(view: str) -> _Make:
    def make(batches: Sequence[Served]) -> pa.Array:
        times = np.concatenate([each.known_at[view] for each in batches])
        return _array(times, _TIME, times == ABSENT_TIME)

    return make


def _states(view: str, stale: int | None) -> _Make:
    def make(batches: Sequence[Served]) -> pa.Array:
        states = np.concatenate([each.states[view] for each in batches])
        if stale is not None:
            states = np.where(states == State.STALE, np.int8(stale), states)
        return _array(states.astype(np.int8, copy=False), pa.int8())

    return make


def _column(column: Column) -> tuple[pa.DataType, _Make]:
    """Numbers as the lookup has them, null where missing; categories in their own type."""
    name = column.name
    if column.kind == "number":
        return pa.float64(), lambda batches: _numbers([each.columns[name] for each in batches])
    kind = _kind(column.dtype)
    return kind, lambda batches: pa.array(np.concatenate([each.columns[name] for each in batches]), kind)


def _numbers(arrays: Sequence[NDArray[Any]]) -> pa.Array:
    values = np.concatenate(arrays).astype(np.float64, copy=False)
    return _array(values, pa.float64(), np.isnan(values))


def _key(name: str, dtype: str) -> tuple[pa.DataType, _Make]:
    kind = _kind(dtype)
    return kind, lambda batches: pa.array(list(chain.from_iterable(each.fields[name] for each in batches)), kind)


def _kind(dtype: str) -> pa.DataType:
    """The Arrow type of a Feast type that may be a key or a category."""
    lower = dtype.lower()
    if lower in ("float32", "float64", "float", "double"):
        return pa.float64()
    return pa.bool_() if lower == "bool" else _INTEGERS.get(lower, pa.string())
