"""The guard on the split where the pods of two versions are scraped at different moments: what is routed between two
scrapes is no fault, and a fault is found all the same."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serinus.core.evidence import Arm, Snapshot, between
from serinus.core.guards.panel import Panel
from serinus.core.spec.rollout import Rollout
from tests.support_guards import panel
from tests.support_rollout import START, World

ROLLOUT = Rollout()
LOOKS = 60


class Scraped:
    """Requests by second, split by weights exactly, as a Prometheus shows them that scrapes each version each `apart`
    seconds, at a moment of its own."""

    def __init__(self, routed: np.ndarray, weights: np.ndarray, apart: int, phases: tuple[int, int]) -> None:
        self._totals = (np.cumsum(routed * weights), np.cumsum(routed * (1 - weights)))
        self._apart = apart
        self._phases = phases
        self.told = timedelta(seconds=apart)

    def at(self, second: int) -> Snapshot:
        """What was scraped by then."""
        arms = []
        for total, phase in zip(self._totals, self._phases, strict=True):
            scraped = (second - phase) // self._apart * self._apart + phase
            arms.append(Arm(routed=float(total[max(scraped, 0)])))
        at = START + timedelta(seconds=second)
        return Snapshot(at=at, source="prometheus", apart=self.told, live={2: arms[0], 1: arms[1]})


def verdicts(scraped: Scraped, board: Panel, weight: float, looks: range) -> list[int]:
    """What the guard says at each look."""
    at, states, found = board.names.index("sample-ratio"), board.start(), []
    for before, after in pairwise(looks):
        interval = between(scraped.at(before), scraped.at(after), (2, 1), shadow=False)
        states = board.update(states, board.traffic(interval, weight))
        found.append(int(board.codes(states)[at]))
    return found


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_what_is_routed_between_two_scrapes_is_no_fault(data: st.DataObject) -> None:
    """Whatever the traffic does, and though the stage before had another weight."""
    apart = data.draw(st.integers(1, 15), "seconds between two scrapes")
    pause = data.draw(st.integers(1, 2 * apart), "seconds between two looks")
    begin = 2 * apart
    length = begin + pause * LOOKS + 1
    busy = data.draw(st.lists(st.integers(0, 2000), min_size=1, max_size=40), "requests a second")
    before, weight = data.draw(st.tuples(*[st.sampled_from([0.0, 0.01, 0.05, 0.2, 0.5, 0.9])] * 2), "weights")
    weights = np.where(np.arange(length) <= begin, before, weight)
    phases = data.draw(st.tuples(*[st.integers(0, apart - 1)] * 2), "moments of scrapes")
    scraped = Scraped(np.resize(busy, length), weights, apart, phases)
    looks = range(begin, length, pause)
    assert 1 not in verdicts(scraped, panel(ROLLOUT), weight, looks)


def test_a_healthy_split_was_called_a_fault_where_scrapes_are_rare() -> None:
    """As it was on a cluster with a scrape each five seconds: without `apart` the guard pauses."""
    weights = np.where(np.arange(200) <= 10, 0.2, 0.5)
    scraped = Scraped(np.full(200, 200), weights, 5, (0, 4))
    looks = range(10, 130, 2)
    assert 1 not in verdicts(scraped, panel(ROLLOUT), 0.5, looks)
    scraped.told = timedelta(0)
    assert 1 in verdicts(scraped, panel(ROLLOUT), 0.5, looks)


def test_a_wrong_split_is_found_within_twenty_scrapes() -> None:
    for configured, actual in ((0.5, 0.25), (0.05, 0.5), (0.5, 0.0), (0.2, 0.4)):
        scraped = Scraped(np.full(400, 100), np.full(400, actual), 15, (3, 11))
        found = verdicts(scraped, panel(ROLLOUT), configured, range(15, 15 + 20 * 15, 5))
        assert 1 in found, (configured, actual)


def test_tests_that_an_earlier_release_kept_otherwise_begin_anew_and_it_is_said() -> None:
    world = World(ROLLOUT)
    world.until("advance")
    for _ in range(3):
        world.minute()
    tests = dict(world.state.tests or {})
    tests["sample-ratio"] = {key: tests["sample-ratio"][key] for key in ("test", "canary", "stable", "due")}
    world.state = world.state.model_copy(update={"tests": tests})
    decision = world.minute()
    assert any("begin anew: the state of sample-ratio lacks" in each for each in decision.reasons)
    assert decision.action == "hold"
    assert not any("begin anew" in each for each in world.minute().reasons)
