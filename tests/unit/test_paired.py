"""What pairing saves, as documentation says."""

from __future__ import annotations

from benchmarks.paired import measure


def test_pairs_need_a_twentieth_of_the_requests_that_arms_need() -> None:
    found = measure(seed=1, rollouts=9)
    assert 0.005 < found.difference < 0.02
    assert found.difference_spread < found.loss_spread / 3
    assert 500 < found.paired < found.arms
    assert found.paired_over_arms < 0.05
