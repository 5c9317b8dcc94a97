"""What the panel promises over a whole rollout with a look at every interval, by simulation with fixed seeds.

A promise "at most p" is held against the observed share of rollouts with three standard errors of allowance. Alpha is
set high where that makes errors frequent enough to be counted.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serinus.core.guards.budget import shares
from serinus.core.guards.panel import Panel
from serinus.core.guards.rates import OwnRateComparison
from serinus.core.guards.sample_ratio import SplitCheck
from serinus.core.sequential import AlphaShare
from serinus.core.spec.rollout import Rollout
from tests.support_guards import EDGES, PREDICTIONS, STABLE, Service, World, latencies, more_slow, panel, peek

QUERY = {"name": "refunds", "numerator": 'bad{v="$version"}', "denominator": 'all{v="$version"}'}
SLOW = next(step for step, edge in enumerate(EDGES) if edge >= 0.06) + 1
WEIGHTS = (0.05, 0.2, 0.5)


def spec(alpha: float) -> Rollout:
    """A rollout whose slow requests lie below the quantile, so that both can be at their border at once."""
    return Rollout.model_validate({"alpha": alpha, "guards": {"queries": [QUERY], "slow": {"threshold": "60ms"}}})


def moved(*shifts: tuple[int, float]) -> tuple[float, ...]:
    """The predictions' distribution with some bins' shares changed."""
    shares = list(PREDICTIONS)
    for position, shift in shifts:
        shares[position] += shift
    return tuple(shares)


# As bad as is tolerated in everything at once: 1.25 times the rates, a total variation of 0.1.
TOLERATED = Service(
    errors=1.25 * STABLE.errors,
    latency=more_slow(STABLE.latency, SLOW, 1.25),
    problems=1.25 * STABLE.problems,
    predictions=moved((1, -0.05), (2, -0.05), (19, 0.05), (20, 0.05)),
    query=1.25 * STABLE.query,
)


def only(guard: str, rollout: Rollout) -> Panel:
    """The panel with one of its guards, at the share that it has among all."""
    board = panel(rollout)
    at = board.names.index(guard)
    return replace(board, guards=(board.guards[at],), shares=(board.shares[at],))


def allowed(promise: float, rollouts: int) -> float:
    return promise + 3 * float(np.sqrt(promise * (1 - promise) / rollouts))


def harmed(
    rollout: Rollout, world: World, looks: int, rollouts: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Whether any guard ever said harm in any of three stages, [R]."""
    rng, board = np.random.default_rng(17), panel(rollout)
    ever = [peek(board, world.at(weight), looks, rng, rollouts)[0].any(axis=-1) for weight in WEIGHTS]
    return np.any(ever, axis=0)


def test_a_canary_at_the_border_of_every_tolerance_is_rarely_taken_back() -> None:
    alpha, rollouts = 0.5, 500
    wrong = float(harmed(spec(alpha), World(canary=TOLERATED), 40, rollouts).mean())
    assert 0 < wrong <= allowed(alpha / 2, rollouts)


def test_a_healthy_canary_is_practically_never_taken_back() -> None:
    rollouts = 400
    assert float(harmed(spec(0.05), World(), 30, rollouts).mean()) <= allowed(0.001, rollouts)


def test_an_incident_on_both_versions_is_nobodys_harm() -> None:
    rng, board = np.random.default_rng(3), panel(spec(0.05))
    states, harm = board.start((300,)), np.zeros(300, bool)
    for look in range(40):
        now = Service(errors=0.3, latency=latencies(1.3), problems=0.2) if 15 <= look < 22 else STABLE
        states = board.update(states, World(now, now).traffic(rng, 300, board.slow_above))
        harm |= (board.codes(states)[:, [name != "latency" for name in board.names]] == 1).any(axis=-1)
    assert float(harm.mean()) <= allowed(0.001, 300)


BEYOND = {
    "errors": Service(errors=1.25 * STABLE.errors + 0.005),
    "slow": Service(latency=more_slow(STABLE.latency, SLOW, 1.25 + 0.01 / sum(STABLE.latency[SLOW:]))),
    "features": Service(problems=1.25 * STABLE.problems + 0.01),
    "predictions": Service(predictions=moved((1, -0.05), (20, 0.05))),
    "refunds": Service(query=1.25 * STABLE.query + 0.005),
    "latency": Service(latency=latencies(1.2)),
}


@pytest.mark.parametrize("guard", sorted(BEYOND))
def test_a_canary_at_a_margin_is_rarely_called_safe(guard: str) -> None:
    rollout, rollouts = spec(0.5), 600
    _, safe = peek(
        only(guard, rollout), World(canary=BEYOND[guard], weight=0.3), 40, np.random.default_rng(23), rollouts
    )
    assert float(safe.mean()) <= allowed(shares(rollout)[guard].safe, rollouts)


def test_a_step_forward_with_any_margin_broken_is_rarer_still() -> None:
    rollout, rollouts = spec(0.5), 300
    rng, board = np.random.default_rng(29), panel(rollout)
    states, stepped = board.start((rollouts,)), np.zeros(rollouts, bool)
    for _ in range(40):
        states = board.update(states, World(BEYOND["errors"], weight=0.3).traffic(rng, rollouts, board.slow_above))
        stepped |= (board.codes(states)[:, board.blocking] == -1).all(axis=-1)
    assert float(stepped.mean()) <= allowed(shares(rollout)["errors"].safe, rollouts)


HIGHER = moved(*((step, -0.025) for step in range(1, 11)), *((step, 0.025) for step in range(11, 21)))
MUCH_HIGHER = moved(*((step, -0.05) for step in range(1, 16)), *((step, 0.15) for step in range(16, 21)))


@pytest.mark.parametrize(
    ("guard", "canary", "requests"),
    [
        ("errors", Service(errors=4 * STABLE.errors), 2200),
        ("slow", Service(latency=more_slow(STABLE.latency, SLOW, 3)), 800),
        ("latency", Service(latency=latencies(2.0)), 1700),
        ("features", Service(problems=4 * STABLE.problems), 500),
        ("predictions", Service(predictions=HIGHER), 4000),
        ("expected", Service(predictions=MUCH_HIGHER), 300),
        ("refunds", Service(query=3 * STABLE.query), 800),
    ],
)
def test_what_is_clearly_bad_is_found_by_its_guard(guard: str, canary: Service, requests: int) -> None:
    """In at least nine of ten rollouts within so many canary requests, at the default alpha, a look a minute."""
    world = World(canary=canary)
    looks = round(requests / (world.requests * world.weight))
    harm, _ = peek(only(guard, spec(0.05)), world, looks, np.random.default_rng(31), 200)
    assert float(harm.mean()) >= 0.9


def test_a_split_that_is_not_as_configured_pauses() -> None:
    rng, board = np.random.default_rng(37), panel(spec(0.05))
    at = board.names.index("sample-ratio")
    states, found = board.start((200,)), np.zeros(200, bool)
    for _ in range(20):
        traffic = World(weight=0.1).traffic(rng, 200, board.slow_above)._replace(weight=np.asarray(0.05))
        states = board.update(states, traffic)
        found |= board.codes(states)[:, at] == 1
    assert float(found.mean()) >= 0.95
    assert isinstance(board.guards[at], SplitCheck)
    harm, _ = peek(board, World(), 20, rng, 200)
    assert not harm[:, at].any()


def test_the_split_may_be_off_by_what_is_tolerated() -> None:
    """Odds 1.1 times the configured ones, at every look, at a high alpha."""
    rollout, rollouts = spec(0.5), 500
    rng, board = np.random.default_rng(41), panel(rollout)
    at = board.names.index("sample-ratio")
    odds = 1.1 * 0.2 / 0.8
    states, found = board.start((rollouts,)), np.zeros(rollouts, bool)
    for _ in range(40):
        traffic = World(weight=odds / (1 + odds)).traffic(rng, rollouts, board.slow_above)
        states = board.update(states, traffic._replace(weight=np.asarray(0.2)))
        found |= board.codes(states)[:, at] == 1
    assert float(found.mean()) <= allowed(shares(rollout)["sample-ratio"].harm, rollouts)


def test_who_is_sick_is_told_by_each_versions_own_rate() -> None:
    rng, board = np.random.default_rng(43), panel(spec(0.05))
    sick = Service(errors=0.12)
    for canary, stable, expected in (
        (STABLE, sick, (1.0, 1.0)),
        (sick, sick, (1.0, 0.0)),
        (STABLE, STABLE, (0.0, 1.0)),
    ):
        states = board.start((100,))
        for _ in range(15):
            states = board.update(states, World(canary, stable).traffic(rng, 100, board.slow_above))
        health = board.health(states)["errors"]
        assert (float(health.stable_sick.mean()), float(health.canary_well.mean())) == pytest.approx(expected, abs=0.05)


def test_health_is_what_the_bounds_of_the_rates_say() -> None:
    rng, board = np.random.default_rng(47), panel(spec(0.05))
    guard = board.guards[0]
    assert isinstance(guard, OwnRateComparison)
    seen = set()
    for rate in (0.01, 0.03, 0.045, 0.06, 0.09):
        state = guard.start((40,))
        for _ in range(6):
            world = World(Service(errors=rate), Service(errors=0.1 - rate), weight=0.3)
            state = guard.update(state, world.traffic(rng, 40, board.slow_above))
        share = AlphaShare(0.02, 0.03)
        ours, theirs = guard.absolute(state, share)
        health = guard.health(state, share)
        np.testing.assert_array_equal(health.canary_well, ours.high < guard.sick)
        np.testing.assert_array_equal(health.stable_sick, theirs.low > guard.sick)
        seen |= set(zip(health.stable_sick.tolist(), health.canary_well.tolist(), strict=True))
    assert len(seen) >= 3


def test_a_stable_version_at_the_border_is_rarely_called_sick() -> None:
    rollouts = 500
    rng, board = np.random.default_rng(53), panel(spec(0.5))
    guard, share = board.guards[0], AlphaShare(0.1, 0.1)
    assert isinstance(guard, OwnRateComparison)
    border = replace(STABLE, errors=guard.sick)
    state, sick, well = guard.start((rollouts,)), np.zeros(rollouts, bool), np.zeros(rollouts, bool)
    for _ in range(40):
        state = guard.update(state, World(border, border, weight=0.3).traffic(rng, rollouts, board.slow_above))
        health = guard.health(state, share)
        sick, well = sick | health.stable_sick, well | health.canary_well
    assert float(sick.mean()) <= allowed(share.harm, rollouts)
    assert float(well.mean()) <= allowed(share.safe, rollouts)
