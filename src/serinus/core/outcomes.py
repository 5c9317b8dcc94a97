"""Reads one reported outcome, strictly: an outcome under a wrong id or label would be believed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from serinus.core.dataset import ID, LABEL, LABEL_TIMESTAMP
from serinus.core.errors import InvalidInput, Problem
from serinus.core.prediction import Outcome
from serinus.core.prediction_log import PREDICTION_ID
from serinus.core.times import utc

OUTCOME_FIELDS = (PREDICTION_ID, ID, LABEL, LABEL_TIMESTAMP)
_LONGEST_ID = 512


def parse_outcome(row: Any, path: str, received: datetime) -> Outcome:
    """Read `{prediction_id or id, label, label_timestamp}`; without a `label_timestamp` it became known when received.

    Args:
        row: what was sent.
        path: how an error names the row.
        received: an aware time.

    Raises:
        InvalidInput: saying what was found and what is allowed.
    """
    if not isinstance(row, Mapping):
        raise _bad(path, row, f"an object with {', '.join(OUTCOME_FIELDS)}")
    unknown = [name for name in row if name not in OUTCOME_FIELDS]
    if unknown:
        raise InvalidInput(
            str(Problem(f"{path}.{str(unknown[0])[:60]}", "an unknown field", ", ".join(OUTCOME_FIELDS)))
        )
    given = [name for name in (PREDICTION_ID, ID) if row.get(name) is not None]
    if len(given) != 1:
        found = "both" if given else "neither"
        raise InvalidInput(str(Problem(path, f"{found} of {PREDICTION_ID} and {ID}", "one of them")))
    name = given[0]
    label = row.get(LABEL)
    if not isinstance(label, int) or label not in (0, 1):  # true and false are integers in Python
        raise _bad(f"{path}.{LABEL}", label, "0 or 1")
    known_at = _time(row.get(LABEL_TIMESTAMP), f"{path}.{LABEL_TIMESTAMP}", received)
    return Outcome(**{name: _id(row[name], f"{path}.{name}")}, label=int(label), known_at=known_at)


def _id(value: Any, path: str) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not 1 <= len(text) <= _LONGEST_ID:
        raise _bad(path, value, f"a string of 1 to {_LONGEST_ID} characters")
    return text


def _time(value: Any, path: str, received: datetime) -> datetime:
    if value is None:
        return received
    try:
        if isinstance(value, str | datetime):
            return utc(value)
    except (ValueError, OverflowError):
        pass
    raise _bad(path, value, "a time in ISO 8601 such as 2013-08-01T12:00:00Z")


def _bad(path: str, value: Any, allowed: str) -> InvalidInput:
    found = "nothing" if value is None else "a list" if isinstance(value, list) else repr(value)[:60]
    return InvalidInput(str(Problem(path=path, found=found, allowed=allowed)))
