"""Bins are fixed at training and counts add up, whatever the values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from serinus.core.profile import (
    Histogram,
    Profile,
    bin_numbers,
    build_profile,
    number_edges,
    profile_predictions,
)
from tests.support_dataset import signature

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(arrays(np.float32, st.integers(0, 60), elements=FLOATS), st.integers(2, 12))
def test_edges_rise_and_every_value_has_a_bin(values: np.ndarray, bins: int) -> None:
    finite = np.where(np.isinf(values), 0, values)
    edges = number_edges(finite, bins)
    assert list(edges) == sorted(set(edges))
    assert len(edges) < bins
    found = bin_numbers(values, np.array(edges))
    assert ((found == 0) == np.isnan(values)).all()
    assert found.max(initial=0) <= len(edges) + 1


@given(arrays(np.float32, st.integers(0, 40), elements=st.floats(-10, 10, width=32)), st.integers(0, 40))
def test_counts_of_parts_add_up_to_the_whole(values: np.ndarray, at: int) -> None:
    edges = np.array([-2.0, 0.0, 3.0])
    parts = (values, values[:at], values[at:])
    whole, first, second = (np.bincount(bin_numbers(part, edges), minlength=5) for part in parts)
    assert (whole == first + second).all()


def test_a_value_on_an_edge_counts_above_it() -> None:
    assert bin_numbers(np.array([np.nan, -1.0, 0.0, 0.5, 1.0]), np.array([0.0, 1.0])).tolist() == [0, 1, 2, 2, 3]


def test_profile_counts_every_row_once_in_each_column() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(500, 3)).astype(np.float32)
    numbers[::7, 1] = np.nan
    categories = rng.integers(0, 5, (500, 1))
    profile = build_profile(signature(), numbers, categories, bins=4)
    assert [histogram.name for histogram in profile.columns] == ["hour", "carrier", "load__mean", "load__count"]
    assert all(sum(histogram.counts) == 500 for histogram in profile.columns)
    assert profile.columns[2].counts[0] == len(range(0, 500, 7))
    assert profile.columns[1].counts[:2] == (int((categories == 0).sum()), int((categories == 1).sum()))
    assert Profile.model_validate_json(profile.model_dump_json()) == profile


def test_rare_categories_count_as_other() -> None:
    many = signature(tuple(f"c{position:02}" for position in range(20)))
    codes = np.repeat(np.arange(22), np.arange(22))[:, None]
    numbers = np.zeros((len(codes), 3), np.float32)
    carrier = build_profile(many, numbers, codes, bins=2).columns[1]
    assert carrier.categories == tuple(f"c{position:02}" for position in range(19, 11, -1))
    assert carrier.counts[1] == sum(range(1, 14))
    assert len(carrier.labels) == len(carrier.counts)


def test_predictions_are_counted_in_twenty_even_bins() -> None:
    profile = Profile(rows=3, columns=())
    prediction = profile_predictions(profile, np.array([0.0, 0.049, 0.05, 0.999, 1.0])).prediction
    assert prediction is not None
    assert prediction.counts[1:3] == (2, 1)
    assert prediction.counts[-1] == 2
    assert sum(prediction.counts) == 5


@pytest.mark.parametrize(
    ("edges", "counts"), [((1.0,), (1, 2)), ((2.0, 1.0), (0, 0, 0, 0)), ((1.0, 1.0), (0, 0, 0, 0))]
)
def test_an_inconsistent_histogram_is_refused(edges: tuple[float, ...], counts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="x: "):
        Histogram(name="x", kind="number", edges=edges, counts=counts)
