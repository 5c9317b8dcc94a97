"""Intervals repeat from a seed, follow the data, and hold the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from serinus.training import bootstrap
from serinus.training.bootstrap import expanded_tail, paired_bootstrap


def _days(rng: np.random.Generator, days: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Differences with mean zero whose rows share their day's luck."""
    blocks = np.repeat(np.arange(days), rows)
    return rng.normal(size=days)[blocks] * 0.5 + rng.normal(size=days * rows), blocks


def test_same_seed_same_interval() -> None:
    values, blocks = _days(np.random.default_rng(0), 20, 50)
    first = paired_bootstrap(values, blocks, 0.95, 500, seed=3)
    assert first == paired_bootstrap(values, blocks, 0.95, 500, seed=3)
    assert first != paired_bootstrap(values, blocks, 0.95, 500, seed=4)
    assert first.value == pytest.approx(values.mean())
    assert first.blocks == 20


def test_chunks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    values, blocks = _days(np.random.default_rng(0), 20, 50)
    whole = paired_bootstrap(values, blocks, 0.95, 500, seed=3)
    monkeypatch.setattr(bootstrap, "_WEIGHTS_AT_ONCE", 70)
    found = paired_bootstrap(values, blocks, 0.95, 500, seed=3)
    assert (found.low, found.high) == pytest.approx((whole.low, whole.high))


@given(
    arrays(np.float64, 40, elements=st.floats(-5, 5)), st.floats(-3, 3), st.permutations(range(40)), st.integers(0, 5)
)
def test_order_does_not_matter_and_a_shift_shifts(
    values: np.ndarray, shift: float, order: list[int], seed: int
) -> None:
    blocks = np.arange(40) // 5
    base = paired_bootstrap(values, blocks, 0.9, 100, seed)
    mixed = paired_bootstrap(values[order], blocks[order], 0.9, 100, seed)
    moved = paired_bootstrap(values + shift, blocks, 0.9, 100, seed)
    assert (mixed.low, mixed.high) == pytest.approx((base.low, base.high), abs=1e-9)
    assert (moved.low, moved.high) == pytest.approx((base.low + shift, base.high + shift), abs=1e-9)
    assert base.low <= base.high


@pytest.mark.parametrize("days", [7, 31])
def test_intervals_hold_the_truth_as_often_as_they_say(days: int) -> None:
    rng = np.random.default_rng(5)
    held = rows_held = 0
    for seed in range(200):
        values, blocks = _days(rng, days, 30)
        found = paired_bootstrap(values, blocks, 0.9, 400, seed)
        held += found.low <= 0 <= found.high
        by_row = paired_bootstrap(values, np.arange(len(values)), 0.9, 100, seed)
        rows_held += by_row.low <= 0 <= by_row.high
    assert 0.85 <= held / 200 <= 0.96
    assert rows_held / 200 < 0.7  # what resampling single rows would have claimed at 90%


def test_tail_moves_out_for_few_blocks() -> None:
    assert expanded_tail(0.025, 5) < expanded_tail(0.025, 31) < 0.025
    assert expanded_tail(0.025, 100_000) == pytest.approx(0.025, abs=1e-4)


def test_too_few_days_are_refused() -> None:
    with pytest.raises(ValueError, match="4 blocks are too few"):
        paired_bootstrap(np.ones(40), np.arange(40) % 4, 0.95, 100, 0)
