"""Takes outcomes from a table, as applications report them one by one: for labels that come by the day, in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serinus.core.errors import InvalidInput, NotFound
from serinus.core.outcomes import parse_outcome
from serinus.core.prediction import Outcome
from serinus.core.prediction_log import MODEL, object_name

if TYPE_CHECKING:
    import pyarrow as pa

    from serinus.engines.prediction_store import PredictionStore

_DIGITS = 16


@dataclass(frozen=True)
class Loaded:
    """What became of a table's rows: how many were kept, and why others were not, by row."""

    kept: int
    errors: dict[int, str]


def load_outcomes(path: Path, store: PredictionStore, model: str, now: datetime) -> Loaded:
    """Bring a table's valid outcomes to the prediction log's destination; loading it again changes nothing.

    Args:
        path: Parquet, CSV or JSON lines, with the columns `prediction_id` or `id`, `label` and `label_timestamp`.
        store: the log's destination.
        model: name of the served model.
        now: when they are received; outcomes without a `label_timestamp` became known then.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it is not such a table.
        EngineError: the destination refuses.
    """
    from serinus.engines.prediction_log import outcome_file

    outcomes, errors = _read(_table(path).to_pylist(), now)
    if outcomes:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS]
        day = max(each.known_at for each in outcomes).astimezone(UTC).date()
        store.put(object_name("outcomes", day, {MODEL: model}, f"table-{digest}"), outcome_file(outcomes, now))
    return Loaded(len(outcomes), errors)


def _read(rows: Sequence[dict[str, Any]], now: datetime) -> tuple[list[Outcome], dict[int, str]]:
    outcomes = []
    errors = {}
    for position, row in enumerate(rows):
        try:
            outcomes.append(parse_outcome(row, f"row {position}", now))
        except InvalidInput as error:
            errors[position] = str(error)
    return outcomes, errors


def _table(path: Path) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv, json, parquet

    readers = {
        ".parquet": parquet.read_table, ".csv": csv.read_csv, ".jsonl": json.read_json, ".ndjson": json.read_json
    }  # fmt: skip
    read = readers.get(path.suffix.lower())
    if read is None:
        raise InvalidInput(f"{path} is no table that can be read", hint=f"use one of {', '.join(readers)}")
    try:
        return read(str(path))
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error
