"""The rollout's loop in a world in which anything fails at any line: what must hold, holds under every seed.

`SERINUS_SEEDS=5000 pytest tests/unit/test_rollout_faults.py` tries more worlds; a failing one is named by its seed.
"""

from __future__ import annotations

import os

import pytest

from serinus.core.ledger import Broken, chain, line_of
from serinus.core.rollout import Shares, shares
from tests.support_faults import Universe

SEEDS = int(os.environ.get("SERINUS_SEEDS", "2000"))
BLOCKS = 8
STORMY_MINUTES = 30
CALM_MINUTES = 60


def decided(universe: Universe) -> list[Shares]:
    return [entry.shares for entry in universe.disk.entries]


def live(seed: int) -> Universe:
    """A stormy half hour and a calm hour; what must hold at every minute is looked at in every minute."""
    universe = Universe(seed)
    for _ in range(STORMY_MINUTES):
        already = len(universe.roads.moved)
        universe.minute()
        for moved in universe.roads.moved[already:]:
            # Traffic moves only to what stands in the ledger.
            assert moved in decided(universe), f"seed {seed}: {moved} was put in force, and nothing says so"
        assert universe.roads.shares.stable in universe.roads.up, f"seed {seed}: the stable version is not up"
    universe.calm()
    for _ in range(CALM_MINUTES):
        universe.minute()
    return universe


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("block", range(BLOCKS))
def test_what_must_hold_holds_under_every_seed(block: int) -> None:
    for seed in range(block, SEEDS, BLOCKS):
        universe = live(seed)
        said = list(chain(map(line_of, universe.disk.entries)))
        assert not any(isinstance(each, Broken) for each in said), f"seed {seed}: the ledger is broken"
        head = universe.disk.head()
        state = head.state
        assert state is not None
        # Once faults stop, what is in force is what was decided, and the rollout comes to an end.
        assert universe.roads.shares == shares(universe.policy, state), f"seed {seed}: not put in force"
        if state.stable in universe.bad:
            # Somebody gave it everything by hand; beside so sick a version nothing proves itself within the hour.
            assert promoted_by_hand(universe, state.stable), f"seed {seed}: a bad version earned its traffic"
            continue
        assert state.canary is None, f"seed {seed}: no end: {universe.disk.entries[-1].reasons}"
        wanted = universe.shelf.wanted
        if wanted not in universe.bad and state.refusal(wanted) is None:
            assert state.stable == wanted, f"seed {seed}: {wanted} was asked for, {state.stable} is stable"
        assert universe.shelf.champion == state.stable, f"seed {seed}: the registry disagrees"


def promoted_by_hand(universe: Universe, version: int) -> bool:
    """Whether a person gave everything to a version without waiting for evidence."""
    return any(
        entry.who == "ada" and entry.action in ("promote", "confirm") and entry.shares.stable == version
        for entry in universe.disk.entries
    )


def test_no_step_forward_without_evidence() -> None:
    for seed in range(40):
        universe = live(seed)
        weight = 0.0
        for entry in universe.disk.entries:
            forward = entry.who == "serinus" and entry.action in ("advance", "promote") and entry.shares.weight > 10
            if forward and entry.shares.weight > weight:
                assert entry.situation.traffic is not None
                assert entry.situation.traffic.missing == ()
                assert entry.situation.applied
            weight = entry.shares.weight


def test_a_seed_makes_the_same_world_again() -> None:
    first, second = live(7), live(7)
    assert [entry.digest for entry in first.disk.entries] == [entry.digest for entry in second.disk.entries]
    assert first.deaths == second.deaths


def test_the_storm_is_one() -> None:
    worlds = [live(seed) for seed in range(60)]
    assert sum(each.deaths for each in worlds) > 50
    assert {entry.action for each in worlds for entry in each.disk.entries} >= {
        "adopt", "start", "advance", "promote", "rollback", "supersede", "pause", "resume", "hold"
    }  # fmt: skip
