"""Rows as a person writes them become tensors of the Open Inference Protocol."""

from __future__ import annotations

from typing import Any

import pytest

from serinus.control.ask import convert, parse_pairs, tensors
from serinus.core.errors import InvalidInput

INPUTS = [
    {"name": "origin", "datatype": "BYTES"},
    {"name": "flight", "datatype": "INT64"},
    {"name": "distance", "datatype": "FP64"},
    {"name": "night", "datatype": "BOOL"},
]


def test_pairs_are_split_at_the_first_equals_sign() -> None:
    assert parse_pairs(["origin=JFK", "note=a=b", "empty="]) == {"origin": "JFK", "note": "a=b", "empty": ""}


@pytest.mark.parametrize("words", [["origin"], ["=JFK"], ["a=1", "a=2"]])
def test_what_is_no_pair_is_said(words: list[str]) -> None:
    with pytest.raises(InvalidInput):
        parse_pairs(words)


@pytest.mark.parametrize(
    ("value", "datatype", "expected"),
    [
        ("12", "INT64", 12),
        ("12", "FP64", 12.0),
        ("12", "BYTES", "12"),
        ("True", "BOOL", True),
        ("0", "BOOL", False),
        ("", "FP64", None),
        ("", "BYTES", ""),
        (None, "INT64", None),
        (7, "INT64", 7),
    ],
)
def test_text_is_read_as_the_column_wants_it(value: Any, datatype: str, expected: Any) -> None:
    found = convert(value, datatype, "x")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(("value", "datatype"), [("1.5", "INT64"), ("far", "FP64"), ("maybe", "BOOL")])
def test_text_that_cannot_be_read_so_is_said(value: str, datatype: str) -> None:
    with pytest.raises(InvalidInput, match=f"distance: found '{value}', allowed: a value of type {datatype}"):
        convert(value, datatype, "distance")


def test_a_column_that_some_rows_lack_is_null_there() -> None:
    found = tensors([{"origin": "JFK", "distance": "10"}, {"origin": "LGA"}], INPUTS)
    assert found == [
        {"name": "origin", "datatype": "BYTES", "shape": [2], "data": ["JFK", "LGA"]},
        {"name": "distance", "datatype": "FP64", "shape": [2], "data": [10.0, None]},
    ]


def test_an_unknown_column_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidInput, match=r"takes no color \(it takes: origin, flight, distance, night\)"):
        tensors([{"color": "red"}], INPUTS)


def test_no_rows_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no rows"):
        tensors([], INPUTS)
