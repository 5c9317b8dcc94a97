"""What guards say to people: one sentence, with its unit, from figures that may not be there yet."""

from __future__ import annotations

import numpy as np
import pytest

from serinus.core.evidence import Arm
from serinus.core.guards.panel import Panel
from serinus.core.guards.words import beside, count, nothing, percent, plain, points, seconds
from serinus.core.spec.rollout import Rollout
from tests.support_guards import EDGES, interval


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.012, 0.019, "1.2 to 1.9 points above"),
        (-0.02, -0.001, "0.1 to 2 points below"),
        (-0.003, 0.004, "0.3 points below to 0.4 above"),
        (0.0, 0.004, "0 to 0.4 points above"),
        (0.012, None, "at least 1.2 points above"),
        (-0.012, None, "at most 1.2 points below"),
        (None, 0.004, "at most 0.4 points above"),
        (None, -0.004, "at least 0.4 points below"),
        (None, None, "not bounded yet beside"),
    ],
)
def test_where_a_difference_lies(low: float | None, high: float | None, words: str) -> None:
    assert beside(low, high, points, " points") == words


def test_numbers() -> None:
    assert [percent(share) for share in (0, 0.0214, 0.00005, 1, 1e-12)] == ["0 %", "2.14 %", "0.005 %", "100 %", "0 %"]
    assert [plain(value) for value in (1.25, 0.00012345, -3e-9, 99)] == ["1.25", "0.000123", "0", "99"]
    assert [seconds(value) for value in (0.0052, 0.25, 1.5, 12)] == ["5.2 ms", "250 ms", "1.5 s", "12 s"]
    assert count(23400.4) == "23,400"


def test_what_is_missing_is_named() -> None:
    assert nothing("errors", "requests", 3, 4) is None
    assert nothing("errors", "requests", 0, 4) == "errors: no requests counted of the canary yet: undecided"
    assert nothing("slow", "latency", 0, 0) == (
        "slow: no latency counted of the canary and the stable version yet: undecided"
    )


def say(canary: Arm, stable: Arm, weight: float = 0.05, times: int = 1) -> dict[str, str]:
    board = Panel.of(Rollout(), shadow=False, expected=(1.0,) * 21, latency_edges=EDGES)
    states = board.start()
    for _ in range(times):
        states = board.update(states, board.traffic(interval(canary, stable), weight))
    return {reading.guard: reading.text for reading in board.readings(states)}


def even(rows: int) -> tuple[float, ...]:
    return (0.0, *(rows / 20,) * 20)


def test_sentences() -> None:
    quick, slow = (tuple(np.bincount([bucket], minlength=len(EDGES) + 1).tolist()) for bucket in (8, 43))
    canary = Arm(
        requests=1240, errors=50, latency_edges=EDGES, latency=tuple(1240 * each for each in slow),
        rows=1240, problems=3, predictions=even(1240), routed=1240,
    )  # fmt: skip
    stable = Arm(
        requests=23400, errors=117, latency_edges=EDGES, latency=tuple(23400 * each for each in quick),
        rows=23400, problems=60, predictions=even(23400), routed=23400,
    )  # fmt: skip
    said = say(canary, stable)
    assert said["errors"].startswith("errors: 4.03 % of 1,240 requests against 0.5 % of 23,400; ")
    assert said["errors"].endswith(" points above 1.25 times stable's: harm")
    assert said["slow"].startswith("slow (above 106 ms): 100 % of 1,240 answered requests against 0 % of 23,400; ")
    assert said["latency"].startswith(
        "latency: p99 at most 202 ms in 1,240 requests against at most 8.29 ms in 23,400;"
    )
    assert said["latency"].endswith(", 20 % more is tolerated: harm")
    assert said["features"].endswith(" above 1.25 times stable's: safe")
    assert said["predictions"].startswith(
        "predictions: total variation 0 between 1,240 of the canary and 23,400 of stab"
    )
    assert said["predictions"].endswith(" % (5 % is safe): safe")
    assert "total variation 0.0476 between 1,240 predictions and the held-out period's" in said["expected"]
    assert said["sample-ratio"] == (
        "sample-ratio: 5.03 % of 24,640 routed requests went to the canary, 5 % by configuration: no fault found"
    )


def test_a_quantile_above_all_edges_is_named_so() -> None:
    above = tuple([0.0] * len(EDGES) + [500.0])
    arm = Arm(latency_edges=EDGES, latency=above)
    assert say(arm, arm)["latency"] == (
        f"latency: p99 above {seconds(EDGES[-1])} in 500 requests against above {seconds(EDGES[-1])} in 500; "
        f"it is at least {seconds(EDGES[-1])}, 20 % more is tolerated: undecided"
    )


def test_a_fault_of_routing_is_named() -> None:
    said = say(Arm(routed=4000), Arm(routed=6000), weight=0.05)["sample-ratio"]
    assert said.endswith("40 % of 10,000 routed requests went to the canary, 5 % by configuration: routing is at fault")
