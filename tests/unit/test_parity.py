"""Row-by-row comparison of served and point-in-time values."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.core.parity import compare


def test_counts_and_examples():
    served = {"a": np.array([1.0, math.nan, 3.0]), "b": np.array(["x", None, "z"], dtype=object)}
    expected = {"a": np.array([1.0, math.nan, 4.0]), "b": np.array(["x", "y", "z"], dtype=object)}
    parity = compare(served, expected)
    assert (parity.rows, parity.rows_different, parity.equal, parity.different) == (3, 2, 4, 2)
    assert parity.columns[0].examples == ((2, "3.0", "4.0"),)
    assert parity.columns[1].examples == ((1, "None", "y"),)


@pytest.mark.parametrize(
    ("left", "right"), [(math.nan, 0.0), (0.0, math.nan), (1.0, math.nextafter(1.0, 2.0)), (-1.0, 1.0)]
)
def test_the_smallest_difference_counts(left, right):
    assert compare({"a": np.array([left])}, {"a": np.array([right])}).different == 1


def test_mismatched_input_is_refused():
    with pytest.raises(ValueError, match="columns differ"):
        compare({"a": np.array([1.0])}, {"b": np.array([1.0])})
    with pytest.raises(ValueError, match="different lengths"):
        compare({"a": np.array([1.0])}, {"a": np.array([1.0, 2.0])})


values = st.one_of(st.none(), st.floats(allow_nan=True), st.text(max_size=3))


@given(st.lists(st.tuples(values, values)))
def test_equal_plus_different_is_all_and_order_does_not_matter(pairs):
    left = np.array([pair[0] for pair in pairs] + [None], dtype=object)[:-1]
    right = np.array([pair[1] for pair in pairs] + [None], dtype=object)[:-1]
    there, back = compare({"a": left}, {"a": right}), compare({"a": right}, {"a": left})
    assert there.equal + there.different == len(pairs)
    assert (there.equal, there.rows_different) == (back.equal, back.rows_different)
    assert compare({"a": left}, {"a": left}).different == 0
