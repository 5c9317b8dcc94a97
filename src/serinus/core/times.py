"""Durations and intervals of time, as the spec writes them and the code passes them around."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

DURATION_PATTERN = r"^([0-9]{1,6}d)?([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?([0-9]{1,9}ms)?$"
"""Digits are counted so that whatever the pattern takes fits `timedelta`, and 64 bits of milliseconds on a cluster."""
_LONGEST = 48
_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_PART = re.compile(r"([0-9]+)(ms|[dhms])")
_DURATION_WORDS = "a duration such as 36h, 31d, 1h30m or 500ms"


def parse_duration(text: str) -> timedelta:
    """Read a duration such as `36h`, `31d` or `1h30m` (Kubernetes durations, plus days).

    Raises:
        ValueError: the text is not of that form.
    """
    if not text or not re.fullmatch(DURATION_PATTERN, text):
        raise ValueError(_DURATION_WORDS)
    return timedelta(milliseconds=sum(int(n) * _UNITS[unit] for n, unit in _PART.findall(text)))


def format_duration(value: timedelta) -> str:
    """Write a duration in the form that `parse_duration` reads, largest units first.

    Raises:
        ValueError: the duration is negative; the form has no sign.
    """
    if value < timedelta(0):
        raise ValueError(f"a duration is not negative: {value}")
    left = (value + timedelta(microseconds=500)) // timedelta(milliseconds=1)
    parts = []
    for unit, size in _UNITS.items():
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


class _DurationSchema:
    """Text in YAML and JSON, `timedelta` in Python; `positive` refuses a duration of nothing."""

    def __init__(self, *, positive: bool = False) -> None:
        self._positive = positive

    def _read(self, value: Any) -> timedelta:
        duration = value if isinstance(value, timedelta) else parse_duration(value if isinstance(value, str) else "")
        if duration < timedelta(0) or (self._positive and not duration):
            raise ValueError(f"{_DURATION_WORDS}, longer than nothing" if self._positive else _DURATION_WORDS)
        return duration

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._read, serialization=core_schema.plain_serializer_function_ser_schema(format_duration)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        text: JsonSchemaValue = {"type": "string", "pattern": DURATION_PATTERN, "minLength": 2, "maxLength": _LONGEST}
        # A second pattern needs a place of its own. Not `allOf`: kubectl explain takes a single one for the type.
        return text | ({"anyOf": [{"pattern": "[1-9]"}]} if self._positive else {})


class _MomentSchema:
    """A time with a zone, kept in UTC. Text without a zone would mean another time on another machine."""

    @staticmethod
    def _read(value: Any) -> datetime:
        try:
            moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        except ValueError:
            moment = None
        if not isinstance(moment, datetime) or moment.tzinfo is None:
            raise ValueError("a time with a time zone, such as 2013-01-01T00:00:00Z")
        return moment.astimezone(UTC)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda moment: moment.isoformat().replace("+00:00", "Z"), when_used="json"
            ),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "format": "date-time"}


Duration = Annotated[timedelta, _DurationSchema()]
"""`36h` in YAML; may be `0s`."""
PositiveDuration = Annotated[timedelta, _DurationSchema(positive=True)]
"""`36h` in YAML; `0s` is refused."""
Moment = Annotated[datetime, _MomentSchema()]
"""An ISO 8601 time with a zone in YAML, UTC in Python."""


class Interval(BaseModel):
    """A half-open stretch of time `[since, until)`, in UTC."""

    model_config = ConfigDict(frozen=True)

    since: datetime
    until: datetime

    @model_validator(mode="after")
    def _ordered(self) -> Interval:
        if self.since.tzinfo is None or self.until.tzinfo is None:
            raise ValueError("times need a time zone")
        if self.since >= self.until:
            raise ValueError(f"an interval must end after it starts: {self.since} to {self.until}")
        return self

    def __contains__(self, moment: datetime) -> bool:
        return self.since <= moment < self.until

    def __str__(self) -> str:
        return f"{self.since:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M} UTC"


def utc(value: datetime | str) -> datetime:
    """Read an ISO 8601 time; a time without a zone is taken as UTC."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
