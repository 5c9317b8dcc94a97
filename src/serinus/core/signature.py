"""What a model takes: named columns with types and categories, and where each value comes from.

The signature is the one place that turns column values into the arrays a model sees, in training and in serving:
there is no second implementation that could differ.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

MISSING = 0
UNKNOWN = 1
FIRST_CATEGORY = 2


class Column(BaseModel):
    """One input column.

    `name` is the request field, or `view__feature` for a value that Feast holds. `dtype` is Feast's name of the value
    type (`Float64`, `Int64`, `String`, ...). A category column knows the values seen in training, in code order.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Literal["number", "category"]
    dtype: str
    view: str | None = None
    categories: tuple[str, ...] = ()

    @property
    def feature(self) -> str:
        """The feature's name inside its view, or the request field's name."""
        return self.name.removeprefix(f"{self.view}__") if self.view else self.name

    @cached_property
    def codes(self) -> dict[str, int]:
        return {value: FIRST_CATEGORY + position for position, value in enumerate(self.categories)}


class View(BaseModel):
    """A feature view that the model reads: its join keys (in Feast's order) and how long a value lives."""

    model_config = ConfigDict(frozen=True)

    name: str
    join_keys: tuple[str, ...]
    ttl_seconds: float | None = None

    @property
    def ttl(self) -> timedelta | None:
        return None if self.ttl_seconds is None else timedelta(seconds=self.ttl_seconds)


class OnDemand(BaseModel):
    """A view whose features are computed from other values while a request is answered.

    `inputs` are what its `code` reads: columns of feature views, and fields of the request (those without a view);
    `outputs` all columns that it can give. The code is the source of one Python function of Feast's `mode`.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    mode: Literal["pandas", "python"]
    singleton: bool = False
    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...]
    code: str


class Signature(BaseModel):
    """A model's inputs, in the order of the arrays that it sees.

    `join_keys` are the request fields that name entities, with their Feast value types. Columns without a view are
    request features. `views` are the feature views that are read, `on_demand` those that are computed from them.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    feature_service: str
    join_keys: dict[str, str]
    views: tuple[View, ...]
    columns: tuple[Column, ...]
    on_demand: tuple[OnDemand, ...] = ()

    @cached_property
    def numbers(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.kind == "number")

    @cached_property
    def categories(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.kind == "category")

    @cached_property
    def request_columns(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.view is None)

    @cached_property
    def request_fields(self) -> tuple[Column, ...]:
        """What a request may carry beside join keys, id and time: the model's own columns, and what code reads."""
        return _once(self.request_columns, *(spec.inputs for spec in self.on_demand), of=lambda view: view is None)

    def read_columns(self, view: str) -> tuple[Column, ...]:
        """What is read of a feature view: the model's own columns, and what code reads."""
        return _once(self.columns, *(spec.inputs for spec in self.on_demand), of=lambda name: name == view)

    @cached_property
    def schema_digest(self) -> str:
        """SHA-256 over what requests and feature stores must agree with (categories are learned, not agreed)."""
        agreed = self.model_dump(mode="json", exclude={"columns": {"__all__": {"categories"}}})
        if not self.on_demand:
            del agreed["on_demand"]  # the digest of signatures from before there were any
        return "sha256:" + hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()

    def encode(
        self, columns: Mapping[str, Sequence[Any] | NDArray[Any]]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Turn named columns of `n` rows into the model's two arrays.

        Returns:
            `numbers` of shape `(n, len(self.numbers))`, NaN where missing, and `categories` of shape
            `(n, len(self.categories))`: 0 missing, 1 unseen in training, 2 and up by position.
        """
        rows = len(next(iter(columns.values()))) if columns else 0
        numbers = np.empty((rows, len(self.numbers)), dtype=np.float32)
        for position, column in enumerate(self.numbers):
            numbers[:, position] = encode_numbers(columns[column.name])
        categories = np.empty((rows, len(self.categories)), dtype=np.int64)
        for position, column in enumerate(self.categories):
            categories[:, position] = encode_categories(columns[column.name], column.codes)
        return numbers, categories


def _once(*groups: Sequence[Column], of: Callable[[str | None], bool]) -> tuple[Column, ...]:
    """Columns of the wanted views, the first of each name."""
    found = {column.name: column for group in reversed(groups) for column in reversed(group) if of(column.view)}
    return tuple(dict(reversed(found.items())).values())


def encode_numbers(values: Sequence[Any] | NDArray[Any]) -> NDArray[np.float32]:
    """Numbers and booleans as float32; None becomes NaN."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        return values.astype(np.float32)
    return np.array([math.nan if value is None else value for value in values], dtype=np.float32)


def encode_categories(values: Sequence[Any] | NDArray[Any], codes: Mapping[str, int]) -> NDArray[np.int64]:
    """Codes of values by their text: 0 for a missing value (None or NaN), 1 for one that training did not see."""
    texts = [value if isinstance(value, str) else category_text(value) for value in values]
    return np.array([MISSING if text is None else codes.get(text, UNKNOWN) for text in texts], dtype=np.int64)


def category_text(value: Any) -> str | None:
    """How a category is written: 5, 5.0 and "5" are one value, so that a column may lack some of its numbers."""
    if value is None or value != value:
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
