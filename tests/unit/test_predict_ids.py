"""Ids of predictions."""

from __future__ import annotations

import os
import uuid

from hypothesis import given
from hypothesis import strategies as st

from serinus.core.prediction import RANDOM_BYTES, prediction_ids


@given(st.integers(0, 2**48 - 1), st.integers(1, 50))
def test_ids_are_uuids_of_version_7(milliseconds: int, count: int) -> None:
    ids = prediction_ids(milliseconds, os.urandom(count * RANDOM_BYTES))
    assert len(set(ids)) == count
    for text in ids:
        found = uuid.UUID(text)
        assert str(found) == text
        assert found.version == 7
        assert found.variant == uuid.RFC_4122
        assert found.int >> 80 == milliseconds


def test_ids_sort_by_time_and_then_by_position() -> None:
    ids = [
        one for moment in (1, 2, 1_700_000_000_000) for one in prediction_ids(moment, os.urandom(100 * RANDOM_BYTES))
    ]
    assert ids == sorted(ids)
