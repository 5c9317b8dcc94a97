"""Sums over sliding windows against the plainest way to count."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.training.project import load_project

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"

moment = st.integers(0, 400)
happenings = st.lists(st.tuples(st.integers(0, 2), moment, st.integers(-50, 500)), max_size=40)


@pytest.fixture(scope="module")
def windows() -> ModuleType:
    return importlib.import_module(f"{load_project(FLIGHTS).package}.windows")


@given(events=happenings, width=st.integers(1, 200), marks=st.lists(moment, min_size=1, max_size=5, unique=True))
def test_windows_hold_what_happened_in_them_and_nothing_at_their_end(
    windows: ModuleType, events: list[tuple[int, int, int]], width: int, marks: list[int]
) -> None:
    entity, time, value = (np.array([event[part] for event in events], dtype=np.int64) for part in range(3))
    grid = windows.Grid.over(3, np.sort(np.array(marks)))
    known = windows.Events(entity, time, {"value": value})
    element, event = known.members(grid, width)
    for position, (who, now) in enumerate(zip(grid.entity, grid.time, strict=True)):
        inside = [v for e, t, v in events if e == who and now - width <= t < now]
        assert known.count(grid, width)[position] == len(inside)
        expected = sum(inside) / len(inside) if inside else np.nan
        np.testing.assert_equal(known.mean("value", grid, width)[position], expected)
        assert sorted(known.values["value"][event[element == position]]) == sorted(inside)


@given(cut=st.integers(0, 1000), since=st.integers(0, 500), length=st.integers(0, 500), step=st.integers(1, 90))
def test_moments_of_adjoining_intervals_add_up(
    windows: ModuleType, cut: int, since: int, length: int, step: int
) -> None:
    until = since + length
    middle = min(max(cut, since), until)
    parts = [*windows.moments(since, middle, step), *windows.moments(middle, until, step)]
    assert parts == [t for t in range(since, until) if t % step == 0]
