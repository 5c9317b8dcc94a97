"""Every interval that a reading shows holds at every look, and agrees with implementations that are not ours."""

from __future__ import annotations

from dataclasses import replace
from math import log

import numpy as np
import pytest
from scipy.stats import dirichlet_multinomial, multinomial

from serinus.core.guards.predictions import BINS, POSITIONS, predictions
from serinus.core.guards.rates import RateComparison
from serinus.core.profile import PREDICTION_EDGES
from serinus.core.sequential import (
    AlphaShare,
    Counts,
    ExpectedTest,
    RatioSequence,
    SampleRatioTest,
)
from serinus.core.sequential.multinomial import CONCENTRATIONS
from serinus.core.spec.rollout import Predictions, Rollout
from tests.support_guards import PREDICTIONS, STABLE, Service, World, one, panel

ville = pytest.importorskip("ville")

ROLLOUTS, ALPHA = 400, 0.1
SHARE = AlphaShare(ALPHA / 2, ALPHA / 2)
TILTED = tuple(share * (1 + 0.8 * np.sin(step)) for step, share in enumerate(PREDICTIONS))
OTHER = tuple(share / sum(TILTED) for share in TILTED)


@pytest.mark.parametrize("guard", ["errors", "slow", "features"])
def test_the_excess_over_the_tolerated_rate_is_covered_at_every_look(guard: str) -> None:
    """While the common level drifts and the weight changes; the excess stays the same."""
    rng, board = np.random.default_rng(61), panel(Rollout())
    comparison = board.guards[board.names.index(guard)]
    assert isinstance(comparison, RateComparison)
    state, missed, excess = comparison.start((ROLLOUTS,)), np.zeros(ROLLOUTS, bool), 0.01
    slow = sum(STABLE.latency[board.slow_above + 1 :])
    for look in range(40):
        level = 0.02 * (1 + np.sin(look / 4) / 2)
        stable = Service(errors=level, problems=level)
        canary = Service(errors=1.25 * level + excess, problems=1.25 * level + excess)
        world = World(canary, stable, weight=0.1 if look < 20 else 0.4)
        state = comparison.update(state, world.traffic(rng, ROLLOUTS, board.slow_above))
        true = slow * (1 - 1.25) if guard == "slow" else excess
        bounds = comparison.bounds(state, SHARE)
        missed |= (bounds.low > true) | (bounds.high < true)
    assert float(missed.mean()) <= ALPHA
    assert float(np.median(bounds.high - bounds.low)) < 0.02


def test_distances_of_predictions_are_covered_at_every_look() -> None:
    """The test at the true distance never rejects: neither that it is larger, nor that every bin is closer."""
    rng = np.random.default_rng(67)
    guard = predictions(Predictions())
    apart = np.array(OTHER) - np.array(PREDICTIONS)
    distance, farthest = float(0.5 * np.abs(apart).sum()), float(np.abs(apart).max())
    state = guard.start((ROLLOUTS,))
    exact = replace(guard, tolerance=distance, margin=farthest)
    worst = np.full((2, ROLLOUTS), -np.inf)
    for look in range(40):
        traffic = World(Service(predictions=OTHER), requests=2000, weight=0.1 if look < 20 else 0.5)
        state = guard.update(state, traffic.traffic(rng, ROLLOUTS, 0))
        worst = np.maximum(worst, exact.evidences(state))
    missed = (worst >= log(1 / ALPHA)).mean(axis=-1)
    assert missed.max() <= ALPHA
    # Neither says nothing: half the distance is refuted, and so is that a bin may differ by three times as much.
    harm, safe = replace(guard, tolerance=distance / 2, margin=3 * farthest).evidences(state)
    assert np.median(harm) > log(1 / ALPHA)
    assert np.median(safe) > log(1 / ALPHA)


def test_readings_of_predictions_bound_the_true_distance() -> None:
    rng, board = np.random.default_rng(71), panel(Rollout())
    distance = float(0.5 * np.abs(np.array(OTHER) - np.array(PREDICTIONS)).sum())
    guards = dict(zip(board.names, board.guards, strict=True))
    world = World(Service(predictions=OTHER), requests=20_000, weight=0.5)
    traffic = one(world.traffic(rng, 1, board.slow_above), 0)
    for name in ("predictions", "expected"):
        guard = guards[name]
        state = guard.start()
        for _ in range(2):
            state = guard.update(state, traffic)
        reading = guard.read(state, SHARE)
        assert reading.low is not None
        assert distance / 2 < reading.low < distance
        assert reading.value == pytest.approx(distance, abs=0.02)
    assert reading.high is not None
    assert distance < reading.high < 1.5 * distance


def test_bins_are_those_of_the_profile() -> None:
    assert len(POSITIONS) == BINS == len(PREDICTION_EDGES) + 2 == 21
    assert POSITIONS[1:] == pytest.approx([step / 20 - 0.025 for step in range(1, 21)])
    assert predictions(Predictions()).start((3,)).learned.canary.shape == (3, 21)


@pytest.mark.parametrize("total", [40, 400, 4000])
def test_the_expected_test_is_scipys_dirichlet_multinomial(total: int) -> None:
    """Without a tolerance it is a mixture of three of them over the expected multinomial."""
    expected = np.array(OTHER[1:])
    counts = np.random.default_rng(total).multinomial(total, PREDICTIONS[1:])
    marginals = [dirichlet_multinomial.logpmf(counts, each * expected, total) for each in CONCENTRATIONS]
    reference = np.logaddexp.reduce(marginals) - log(3) - multinomial.logpmf(counts, total, expected)
    assert ExpectedTest(tuple(expected)).log_e(counts) == pytest.approx(float(reference), abs=1e-6)


@pytest.mark.parametrize(("canary", "stable"), [(0.06, 0.02), (0.02, 0.02), (0.005, 0.01)])
def test_ratios_are_about_as_narrow_as_from_a_bernoulli_sequence(canary: float, stable: float) -> None:
    """Given an event it is the canary's with probability p = t n / (t n + m): a sequence for p is one for t."""
    rng = np.random.default_rng(73)
    odds, requests = 0.25, 20_000
    events = np.concatenate([np.ones(int(requests * 0.2 * canary)), np.zeros(int(requests * 0.8 * stable))])
    rng.shuffle(events)
    low, high = ville.BernoulliCS(alpha=2 * SHARE.harm, intersect=False).fit(events).interval()
    theirs = [log(each / (1 - each) / odds) for each in (low, high)]
    sequence = RatioSequence()
    counts = Counts(events.sum(), len(events) - events.sum(), requests * 0.2, requests * 0.8)
    bounds = sequence.bounds(sequence.update(sequence.start(), counts), SHARE)
    ours = [log(float(each)) for each in bounds]
    assert ours[0] < log(canary / stable) < ours[1]
    assert ours[1] - ours[0] < 1.15 * (theirs[1] - theirs[0]) + 2 * sequence.step


@pytest.mark.parametrize("actual", [0.35, 0.15])
def test_a_wrong_split_is_found_about_as_soon_as_by_a_bernoulli_test(actual: float) -> None:
    rng = np.random.default_rng(79)
    alpha, ours, theirs = 0.01, [], []
    for _ in range(20):
        to_canary = (rng.random(4000) < actual).astype(float)
        test = SampleRatioTest(slack=0)
        x = np.cumsum(to_canary)
        evidence = test.log_e(test.update(test.start((4000,)), x, np.arange(1, 4001) - x, 0.25))
        ours.append(int(np.argmax(evidence >= log(1 / alpha))))
        reference = ville.BernoulliCS(alpha=alpha, intersect=False).fit(to_canary)
        theirs.append(int(np.argmax((reference.lower_ > 0.25) | (reference.upper_ < 0.25))))
    assert min(ours) > 0
    assert np.median(ours) < 1.15 * np.median(theirs)
