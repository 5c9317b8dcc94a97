"""Features of a whole batch from Feast's online store: distinct keys once a view, values straight into columns.

`FeatureStore.get_online_features` spends most of its time assembling an answer that would be taken apart again here,
and gives values that are past their TTL without a word. So this reads through Feast's `OnlineStore` interface, which
every store implements, and judges each value's age by the rule of Feast's own point-in-time join. On-demand views are
computed from these columns by Feast's own transformation, which is slower.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from serinus.core.errors import InvalidInput
from serinus.core.serving import ServingConfig
from serinus.core.signature import Column, Signature, View
from serinus.serve.fields import RowError, microseconds
from serinus.serve.freshness import ABSENT_TIME, Judge, State
from serinus.serve.reader import Failed, OnlineSource, Read, Reader

if TYPE_CHECKING:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey

    from serinus.engines.feast_on_demand import Transform

log = logging.getLogger(__name__)

# Feast's name of a value type, and the field of its protobuf Value that holds it.
_VALUE_FIELDS = {
    "string": "string_val",
    "int32": "int32_val",
    "int64": "int64_val",
    "float32": "float_val",
    "float": "float_val",
    "float64": "double_val",
    "double": "double_val",
    "bool": "bool_val",
}
_DUMMY_KEY = "__dummy_id"
_KEYS_KEPT = 20_000
_VALUES_KEPT = 4096
_NAN = float("nan")
Key = tuple[Any, ...]


class Row(NamedTuple):
    """One decoded online row: event time in microseconds (`ABSENT_TIME` if there is none), numbers, categories."""

    known_at: int
    numbers: tuple[float, ...]
    categories: tuple[str | None, ...]


@dataclass(slots=True)
class LookedUp:
    """Features of `n` rows.

    `columns` holds one array of length `n` a feature column: float64 with NaN, or objects with None, where missing.
    `known_at` and `states` hold, by view, each row's event time (microseconds, `ABSENT_TIME`) and `State`.
    """

    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    known_at: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    states: dict[str, NDArray[np.int8]] = field(default_factory=dict)
    errors: dict[int, RowError] = field(default_factory=dict)
    stale: dict[int, list[str]] = field(default_factory=dict)
    cache_hits: int = 0
    cache_misses: int = 0
    failed_reads: int = 0


class ViewLookup:
    """How one feature view is read: its keys in Feast's order and types, its columns, its cache."""

    def __init__(self, view: View, columns: Sequence[Column], source: OnlineSource, signature: Signature) -> None:
        self.view = view
        self.name = view.name
        self._complained = False
        self.numbers = [column for column in columns if column.kind == "number"]
        self.categories = [column for column in columns if column.kind == "category"]
        self.number_names = [column.name for column in self.numbers]
        self.features = [column.feature for column in columns]
        self._number_fields = [(column.feature, _value_field(column)) for column in self.numbers]
        self._category_fields = [(column.feature, _value_field(column)) for column in self.categories]
        self.absent = Row(ABSENT_TIME, (_NAN,) * len(self.numbers), (None,) * len(self.categories))
        self.join_keys = list(source.join_keys(view.name))
        self.fields = [source.join_keys(view.name)[key] for key in self.join_keys if key != _DUMMY_KEY]
        unknown = [name for name in self.fields if name not in signature.join_keys]
        if unknown:
            raise InvalidInput(
                f"feature view {view.name} is joined on {', '.join(unknown)}, which the model's requests do not carry",
                hint="the feature store was changed after the model was trained: apply the definitions it came with",
            )
        self._key_fields = [_key_field(name, signature.join_keys[name]) for name in self.fields]
        # What a key is asked by costs more to make than to send, and never changes.
        direct = source.direct
        command = direct.commands(source.views[view.name], self.features) if direct else None
        self.asked = lru_cache(maxsize=_KEYS_KEPT)(
            lambda key: command(self._proto(key)) if command else self._proto(key)
        )
        self.decode: Callable[[Any], Row | None] = self._decode_fields if direct else self._decode
        self._plain_numbers = self._plain(self._number_fields, _NAN)
        self._plain_categories = self._plain(self._category_fields, None)

    def keys(self, columns: Mapping[str, Sequence[Any]], rows: int) -> list[Key]:
        """The entity key of each row; None inside where the request knows no entity."""
        return list(zip(*(columns[name] for name in self.fields), strict=True)) if self.fields else [()] * rows

    def _proto(self, key: Key) -> EntityKey:
        """The key as Feast writes it."""
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        values = [Value(**{name: value}) for name, value in zip(self._key_fields, key, strict=True)]
        return EntityKey(join_keys=self.join_keys, entity_values=values or [Value(string_val="")])

    def _decode(self, answer: tuple[datetime | None, Mapping[str, Any] | None]) -> Row | None:
        """One row of Feast's answer, None if its values have other types than the model takes.

        A naive time is UTC, as everywhere in Feast.
        """
        known_at, values = answer
        if not values or known_at is None:
            return self.absent
        moment = known_at if known_at.tzinfo is not None else known_at.replace(tzinfo=UTC)
        try:
            row = Row(
                microseconds(moment),
                _values(values, self._number_fields, _NAN),
                _values(values, self._category_fields, None),
            )
        except InvalidInput as error:
            self._complain(error)
            return None
        if row.known_at == 0 and not any(proto.WhichOneof("val") for proto in values.values()):
            return self.absent  # what Feast makes of a key that Redis does not have
        return row

    def _decode_fields(self, fields: Sequence[bytes | None]) -> Row | None:
        """The same of what Redis itself has: bytes of each feature in order, then of the event time."""
        *contents, moment = fields
        if not moment and not any(contents):
            return self.absent
        try:
            return Row(
                _moment(moment) if moment else 0,
                tuple([value(fields[at]) for at, value in self._plain_numbers]),
                tuple([value(fields[at]) for at, value in self._plain_categories]),
            )
        except (InvalidInput, DecodeError, ValueError, OverflowError) as error:  # not what Feast writes
            self._complain(error)
            return None

    def _plain(
        self, fields: Sequence[tuple[str, str]], missing: Any
    ) -> list[tuple[int, Callable[[bytes | None], Any]]]:
        """Each feature's place and decoder, which keeps what it has decoded: values repeat."""
        from feast.protos.feast.types.Value_pb2 import Value

        def decoder(feature: str, name: str) -> Callable[[bytes | None], Any]:
            return lru_cache(maxsize=_VALUES_KEPT)(
                lambda content: _value({feature: Value.FromString(content or b"")}, feature, name, missing)
            )

        return [(self.features.index(feature), decoder(feature, name)) for feature, name in fields]

    def _complain(self, error: Exception) -> None:
        """Once, in the log: the row counts as one that the store did not give."""
        if not self._complained:
            log.error("feature view %s: %s", self.name, error)
        self._complained = True


@lru_cache(maxsize=_VALUES_KEPT)
def _moment(content: bytes) -> int:
    """An event time in microseconds, from the bytes that Feast keeps in Redis, rounded as Feast does."""
    from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]

    moment = Timestamp.FromString(content)
    return microseconds(datetime.fromtimestamp(moment.seconds + moment.nanos / 1_000_000_000.0, tz=UTC))


def _values(values: Mapping[str, Any], fields: Sequence[tuple[str, str]], missing: Any) -> tuple[Any, ...]:
    """Features in order. A value that is not zero or empty is there: only of others need protobuf be asked."""
    return tuple(
        [getattr(values.get(feature), name, None) or _value(values, feature, name, missing) for feature, name in fields]
    )


def _value(values: Mapping[str, Any], feature: str, name: str, missing: Any) -> Any:
    """A feature's value. The field is asked for first: protobuf gives 0 and "" for one that is not there."""
    proto = values.get(feature)
    if proto is None:
        return missing
    if proto.HasField(name):
        return getattr(proto, name)
    other = proto.WhichOneof("val")
    if other is None or other == "null_val":
        return missing
    raise InvalidInput(
        f"the online store holds {feature} as {other}, the model takes {name}",
        hint="materialize the feature view again after its type changed",
    )


def _value_field(column: Column) -> str:
    try:
        return _VALUE_FIELDS[column.dtype.lower()]
    except KeyError:
        raise InvalidInput(f"column {column.name} has the type {column.dtype}, which cannot be served online") from None


def _key_field(name: str, dtype: str) -> str:
    found = _VALUE_FIELDS.get(dtype.lower())
    if found not in ("string_val", "int32_val", "int64_val"):
        raise InvalidInput(f"join key {name} has the type {dtype}", hint="Feast keys are String, Int32 or Int64")
    return found


class Cache:
    """Decoded rows of one view for a bounded time. Ages are judged anew for every request, so TTLs hold."""

    def __init__(self, seconds: float, rows: int) -> None:
        self._seconds = seconds
        self._limit = rows
        self._rows: dict[Key, tuple[float, Row]] = {}

    def get(self, key: Key, now: float) -> Row | None:
        entry = self._rows.get(key)
        return entry[1] if entry is not None and entry[0] > now else None

    def put(self, rows: Mapping[Key, Row], now: float) -> None:
        """Keep rows until `now` plus the age limit; the oldest make room, whatever their use."""
        for key, row in rows.items():
            self._rows.pop(key, None)
            self._rows[key] = (now + self._seconds, row)
        excess = len(self._rows) - self._limit
        if excess > 0:
            for key in list(islice(self._rows, excess)):
                del self._rows[key]


class Lookup:
    """Reads every view of a signature for a batch of rows."""

    def __init__(self, signature: Signature, config: ServingConfig, open_source: Callable[[], OnlineSource]) -> None:
        """Raises InvalidInput where the feature store does not have what the model takes."""
        source = open_source()
        self._views = [
            ViewLookup(view, signature.read_columns(view.name), source, signature) for view in signature.views
        ]
        self._judges = {
            view.name: Judge(view, config.deployment.features.policy(view.name)) for view in signature.views
        }
        seconds = config.cache_age.total_seconds()
        self._caches = (
            {view.name: Cache(seconds, config.cache_rows) for view in signature.views} if config.cached else {}
        )
        self._reader = Reader(source, open_source, config.lookup_timeout.total_seconds())
        self._complaint = ""
        self._transforms: list[Transform] = []
        if signature.on_demand:
            from serinus.engines.feast_on_demand import Transform

            self._transforms = [Transform(each) for each in signature.on_demand]

    def close(self) -> None:
        """End the reading thread."""
        self._reader.close()

    def read(
        self, columns: Mapping[str, Sequence[Any]], moments: NDArray[np.int64], patience: float = math.inf
    ) -> LookedUp:
        """Features of rows whose join keys are in `columns`, as of `moments` (microseconds).

        Args:
            columns: the request's fields.
            moments: one a row.
            patience: seconds to wait for the store at most, where that is less than the lookup's own limit.
        """
        found = LookedUp()
        wanted = [self._wanted(view, view.keys(columns, len(moments)), found) for view in self._views]
        reads = [
            Read(wish.view.name, [wish.view.asked(key) for key in wish.missing], wish.view.features)
            for wish in wanted
            if wish.missing
        ]
        answers = iter(self._reader.read(reads, patience) if reads else [])
        for wish in wanted:
            available = self._take(wish, next(answers) if wish.missing else [], found)
            self._fill(wish, available, moments, found)
        for transform in self._transforms:
            self._compute(transform, columns, len(moments), found)
        return found

    def _compute(self, transform: Transform, given: Mapping[str, Sequence[Any]], rows: int, found: LookedUp) -> None:
        """Features of an on-demand view, from what was read and what the request gave."""
        spec = transform.spec
        inputs = {
            each.name: found.columns[each.name] if each.view else _given(given[each.name], each) for each in spec.inputs
        }
        values, errors = transform.apply(inputs, rows)
        found.columns.update(values)
        for row, reason in errors.items():
            if self._complaint != reason:
                log.error("on-demand feature view %s: %s", spec.name, reason)
            self._complaint = reason
            found.errors.setdefault(row, RowError(f"feature view {spec.name} cannot be computed for this row", 500))

    def _wanted(self, view: ViewLookup, keys: list[Key], found: LookedUp) -> _Wanted:
        index: dict[Key, int] = {}
        inverse = [index.setdefault(key, len(index)) for key in keys]
        cache = self._caches.get(view.name)
        now = time.monotonic()
        rows = [None if cache is None else cache.get(key, now) for key in index]
        hits = len(rows) - rows.count(None)
        if hits < len(rows):  # a key of an unknown entity is never read, and so never in the cache
            rows = [view.absent if row is None and None in key else row for key, row in zip(index, rows, strict=True)]
        missing = [key for key, row in zip(index, rows, strict=True) if row is None] if None in rows else []
        if cache is not None:
            found.cache_hits += hits
            found.cache_misses += len(missing)
        return _Wanted(view, keys, np.array(inverse, dtype=np.intp), rows, missing)

    def _take(self, wish: _Wanted, answer: list[Any] | Failed, found: LookedUp) -> NDArray[np.bool_]:
        """Put what was read into the wish; gives which distinct keys have an answer."""
        if isinstance(answer, Failed):
            found.failed_reads += 1
            fresh: list[Row | None] = [None] * len(wish.missing)
        else:
            fresh = [wish.view.decode(row) for row in answer]
        cache = self._caches.get(wish.view.name)
        if cache is not None and fresh:
            cache.put({key: row for key, row in zip(wish.missing, fresh, strict=True) if row}, time.monotonic())
        remaining = iter(fresh)
        if fresh:
            wish.rows = [next(remaining) if row is None else row for row in wish.rows]
        return np.array([row is not None for row in wish.rows], dtype=np.bool_)

    def _fill(self, wish: _Wanted, available: NDArray[np.bool_], moments: NDArray[np.int64], found: LookedUp) -> None:
        view, inverse = wish.view, wish.inverse
        rows = [view.absent if row is None else row for row in wish.rows]
        known_at = np.array([row.known_at for row in rows], dtype=np.int64)[inverse]
        judge = self._judges[view.name]
        judged = judge.judge(known_at, available[inverse], moments)
        hidden = judged.hidden.any()
        if view.numbers:
            numbers = np.array([row.numbers for row in rows], dtype=np.float64)[inverse]
            if hidden:
                numbers[judged.hidden] = _NAN
            found.columns.update(zip(view.number_names, numbers.T, strict=True))
        for at, column in enumerate(view.categories):
            values = np.array([row.categories[at] for row in rows], dtype=object)[inverse]
            if hidden:
                values[judged.hidden] = None
            found.columns[column.name] = values
        found.known_at[view.name] = known_at
        found.states[view.name] = judged.states
        for row in judged.rejected:
            keys = dict(zip(view.fields, wish.keys[row], strict=True))
            error = judge.reason(State(judged.states[row]), keys, int(known_at[row]), int(moments[row]))
            found.errors.setdefault(row, error)
        for row in judged.flagged:
            found.stale.setdefault(row, []).append(view.name)


def _given(values: Sequence[Any], column: Column) -> NDArray[Any]:
    """A request's field as code reads it: numbers with NaN, texts with None, where missing."""
    return np.array(values, dtype=np.float64 if column.kind == "number" else object)


@dataclass(slots=True)
class _Wanted:
    """What a batch needs of one view: each row's key, its place among the distinct ones, and what is still to read."""

    view: ViewLookup
    keys: list[Key]
    inverse: NDArray[np.intp]
    rows: list[Row | None]
    missing: list[Key]
