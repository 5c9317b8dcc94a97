"""Durations and intervals of time, as the spec writes them and the code passes them around."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

DURATION_PATTERN = r"^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$"
_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_PART = re.compile(r"([0-9]+)(ms|[dhms])")


def parse_duration(text: str) -> timedelta:
    """Read a duration such as `36h`, `31d` or `1h30m` (Kubernetes durations, plus days).

    Raises:
        ValueError: the text is not of that form.
    """
    if not text or not re.fullmatch(DURATION_PATTERN, text):
        raise ValueError("a duration such as 36h, 31d, 1h30m or 500ms")
    return timedelta(milliseconds=sum(int(n) * _UNITS[unit] for n, unit in _PART.findall(text)))


def format_duration(value: timedelta) -> str:
    """Write a duration in the form that `parse_duration` reads, largest units first."""
    left = round(value.total_seconds() * 1000)
    parts = []
    for unit, size in _UNITS.items():
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


class _DurationSchema:
    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: Any) -> timedelta:
            return value if isinstance(value, timedelta) else parse_duration(value if isinstance(value, str) else "")

        return core_schema.no_info_plain_validator_function(
            read, serialization=core_schema.plain_serializer_function_ser_schema(format_duration)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": DURATION_PATTERN, "minLength": 2}


Duration = Annotated[timedelta, _DurationSchema]


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
