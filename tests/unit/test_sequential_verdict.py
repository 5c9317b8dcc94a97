"""The common language of the anytime-valid tests: verdicts, intervals and the division of alpha."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serinus.core.errors import InvalidInput
from serinus.core.sequential import (
    AlphaShare,
    Bounds,
    Prior,
    Verdict,
    decide_by_evidence,
    divide_alpha,
    judge,
    threshold,
)


def test_judge_reads_the_whole_interval() -> None:
    low = np.array([0.0, 1.3, 0.8, -np.inf, np.nan, 1.25])
    high = np.array([1.2, 2.0, 1.6, np.inf, np.nan, 3.0])
    verdicts = judge(Bounds(low, high), harm_above=1.25, safe_below=1.25)
    assert verdicts.tolist() == [Verdict.SAFE, Verdict.HARM, 0, 0, 0, 0]


def test_evidence_rejects_at_its_threshold_and_harm_wins() -> None:
    share = AlphaShare(harm=0.01, safe=0.02)
    harm = np.array([threshold(0.01), 0.0, 9.0, 4.59])
    safe = np.array([0.0, threshold(0.02), 9.0, -np.inf])
    assert decide_by_evidence(harm, safe, share).tolist() == [1, -1, 1, 0]


def test_running_intersection_only_narrows_and_does_not_hide_a_contradiction() -> None:
    first, then = Bounds(np.array([0.0, 3.0]), np.array([2.0, 4.0])), Bounds(np.array([1.0, 1.0]), np.array([5.0, 2.0]))
    both = then.intersect(first)
    assert (both.low.tolist(), both.high.tolist()) == ([1.0, 3.0], [2.0, 2.0])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.floats(0.001, 0.3),
    st.dictionaries(st.text(max_size=3), st.floats(0.1, 5), min_size=1, max_size=6),
    st.integers(1, 9),
)
def test_all_shares_together_spend_alpha(alpha: float, guards: dict[str, float], steps: int) -> None:
    shares = divide_alpha(alpha, guards, steps=steps)
    assert steps * sum(share.harm + share.safe for share in shares.values()) == pytest.approx(alpha)
    jointly = divide_alpha(alpha, guards, steps=steps, all_must_be_safe=True)
    spent = sum(share.harm for share in jointly.values()) + max(share.safe for share in jointly.values())
    assert steps * spent == pytest.approx(alpha)


def test_weights_divide_alpha_in_proportion() -> None:
    shares = divide_alpha(0.05, {"errors": 3, "latency": 1})
    assert shares["errors"].harm == pytest.approx(3 * shares["latency"].harm)


@pytest.mark.parametrize(
    ("alpha", "guards", "steps"), [(0.05, {}, 1), (0.05, {"a": 0}, 1), (0.05, {"a": 1}, 0), (1, {"a": 1}, 1)]
)
def test_nonsense_is_refused(alpha: float, guards: dict[str, float], steps: int) -> None:
    with pytest.raises(InvalidInput):
        divide_alpha(alpha, guards, steps=steps)


@pytest.mark.parametrize(
    ("sizes", "weights"), [((), ()), ((1.0, 0.5), (1, 1)), ((0.0,), (1,)), ((1.0,), (1, 1)), ((1.0,), (0,))]
)
def test_priors_must_make_sense(sizes: tuple[float, ...], weights: tuple[float, ...]) -> None:
    with pytest.raises(InvalidInput):
        Prior(sizes, weights)
