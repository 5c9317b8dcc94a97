"""Encoding is the only way from values to arrays, so what is missing, unseen or mistyped must come out one way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.core.signature import Column, OnDemand, Signature, View, category_text, encode_categories, encode_numbers


def _signature(**changes: object) -> Signature:
    values: dict[str, object] = {
        "model": "m",
        "feature_service": "s",
        "join_keys": {"place": "String"},
        "views": (View(name="load", join_keys=("place",), ttl_seconds=60),),
        "columns": (
            Column(name="kind", kind="category", dtype="String", categories=("a", "b")),
            Column(name="load__mean", kind="number", dtype="Float64", view="load"),
            Column(name="hour", kind="number", dtype="Int64"),
        ),
    }
    return Signature.model_validate(values | changes)


def test_encode_orders_columns_as_the_signature_does() -> None:
    numbers, categories = _signature().encode(
        {"hour": [5, None], "kind": ["b", "new"], "load__mean": [None, 2.5], "unused": [0, 0]}
    )
    np.testing.assert_array_equal(numbers, np.array([[math.nan, 5], [2.5, math.nan]], dtype=np.float32))
    assert categories.tolist() == [[3], [1]]
    assert (numbers.dtype, categories.dtype) == (np.float32, np.int64)


def test_encode_of_no_rows_keeps_the_widths() -> None:
    numbers, categories = _signature().encode({"hour": [], "kind": [], "load__mean": []})
    assert (numbers.shape, categories.shape) == ((0, 2), (0, 1))


@given(st.lists(st.one_of(st.none(), st.floats(width=32, allow_nan=False), st.booleans(), st.integers(-1000, 1000))))
def test_numbers_are_nan_exactly_where_none(values: list[float | None]) -> None:
    encoded = encode_numbers(values)
    assert np.isnan(encoded).tolist() == [value is None for value in values]
    assert [found for found, value in zip(encoded, values, strict=True) if value is not None] == [
        value for value in values if value is not None
    ]


@pytest.mark.parametrize(
    ("value", "code"), [("x", 2), ("y", 3), ("z", 1), ("", 1), (None, 0), (math.nan, 0), (7, 4), (7.0, 4), ("7", 4)]
)
def test_category_codes(value: object, code: int) -> None:
    assert encode_categories([value], {"x": 2, "y": 3, "7": 4}).tolist() == [code]
    assert encode_categories(np.array([value], dtype=object), {"x": 2, "y": 3, "7": 4}).tolist() == [code]


@given(st.integers(-(2**53), 2**53))
def test_a_whole_number_has_one_text(value: int) -> None:
    assert category_text(value) == category_text(float(value)) == category_text(np.int64(value)) == str(value)


def test_schema_digest_ignores_categories_and_notices_types() -> None:
    base = _signature()
    kind, mean, hour = base.columns
    grown = _signature(columns=(kind.model_copy(update={"categories": ("a", "b", "c")}), mean, hour))
    retyped = _signature(columns=(kind, mean.model_copy(update={"dtype": "Int64"}), hour))
    assert base.schema_digest == grown.schema_digest
    assert base.schema_digest != retyped.schema_digest


def test_the_digest_of_a_signature_from_before_on_demand_views_is_what_it_was() -> None:
    old = Signature(
        model="m",
        feature_service="f",
        join_keys={"a": "String"},
        views=(View(name="v", join_keys=("a",), ttl_seconds=60),),
        columns=(
            Column(name="v__x", kind="number", dtype="Float64", view="v"),
            Column(name="c", kind="category", dtype="String", categories=("p",)),
        ),
    )
    assert old.schema_digest == "sha256:865ed1dff4b1a9b49a44e50c149ba3f8a8464c60499aee0d8135a64acb5fba90"


def test_code_reads_columns_beside_the_models_own() -> None:
    kind, mean, hour = _signature().columns
    own = _signature(columns=(mean,))
    other = Column(name="n__sum", kind="number", dtype="Int64", view="n")
    spec = OnDemand(name="s", mode="python", inputs=(other, mean, hour), outputs=(), code="def f(x): return x")
    wider = Signature.model_validate(own.model_dump() | {"on_demand": [spec]})
    assert wider.request_columns == ()
    assert wider.request_fields == (hour,)
    assert mean.view is not None
    assert wider.read_columns(mean.view) == (mean,)
    assert wider.read_columns("n") == (other,)
    assert wider.schema_digest != own.schema_digest
    assert kind not in wider.request_fields


def test_signature_survives_json() -> None:
    base = _signature()
    assert Signature.model_validate_json(base.model_dump_json()) == base
    assert base.columns[1].feature == "mean"
