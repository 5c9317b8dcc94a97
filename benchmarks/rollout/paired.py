"""How many requests it takes to see that a version predicts worse: on the same rows, and between randomised arms.

Rows are like those of the flights example: about 23 % positive, hard to tell, two models that mostly agree. The
canary's logits are noisier than the stable version's, which costs it some log loss.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serinus.core.guards.budget import shares
from serinus.core.guards.quality import CLIP, arms, paired
from serinus.core.sequential import Sums, threshold
from serinus.core.spec.rollout import Rollout

Floats = NDArray[np.float64]
WEIGHT = 0.05
ROWS_A_LOOK = 200
ARM_ROWS_A_LOOK = 10_000
_POOL = 1_000_000


class Paired(NamedTuple):
    """Medians of requests to both versions together, and what the losses are like."""

    paired: float
    arms: float
    difference: float
    spread: float


def measure(rollouts: int) -> Paired:
    """Requests until the guard on quality says harm, for rollouts at 5 % weight."""
    rng = np.random.default_rng(0)
    canary, stable = _losses(rng)
    policy = Rollout()
    level = threshold(shares(policy)["quality"].harm)
    return Paired(
        float(np.median(_paired(canary - stable, rollouts, level))),
        float(np.median(_arms((canary, stable), rollouts, level))),
        float((canary - stable).mean()),
        float((canary - stable).std()),
    )


def _losses(rng: np.random.Generator) -> tuple[Floats, Floats]:
    truth = -1.45 + 0.95 * rng.standard_normal(_POOL)
    labels = rng.random(_POOL) < 1 / (1 + np.exp(-truth))

    def loss(noise: float) -> Floats:
        guess = 1 / (1 + np.exp(-(truth + noise * rng.standard_normal(_POOL))))
        return -np.log(np.clip(np.where(labels, guess, 1 - guess), CLIP, 1 - CLIP))

    return loss(0.4), loss(0.3)


def _paired(differences: Floats, rollouts: int, level: float) -> Floats:
    rng, guard = np.random.default_rng(1), paired(Rollout().guards.quality)
    sums, needed, seen = np.zeros((3, rollouts)), np.full(rollouts, np.nan), 0
    while np.isnan(needed).any():
        seen += ROWS_A_LOOK
        rows = differences[rng.integers(0, _POOL, (rollouts, ROWS_A_LOOK))]
        sums += np.stack([np.full(rollouts, float(ROWS_A_LOOK)), rows.sum(axis=1), (rows**2).sum(axis=1)])
        needed[np.isnan(needed) & (guard.evidences(Sums(*sums)).harm >= level)] = seen
    return needed


def _arms(losses: tuple[Floats, Floats], rollouts: int, level: float) -> Floats:
    rng, guard = np.random.default_rng(2), arms(Rollout().guards.quality)
    state, needed, seen = guard.start((rollouts,)), np.full(rollouts, np.nan), 0
    ours = round(WEIGHT * ARM_ROWS_A_LOOK)
    # The median is known once half of them are.
    while np.isnan(needed).mean() >= 0.5:
        seen += ARM_ROWS_A_LOOK
        canary = Sums.of(losses[0][rng.integers(0, _POOL, (rollouts, ours))])
        stable = Sums.of(losses[1][rng.integers(0, _POOL, (rollouts, ARM_ROWS_A_LOOK - ours))])
        state = guard.update(state, canary, stable)
        needed[np.isnan(needed) & (guard.evidences(state).harm >= level)] = seen
    return np.where(np.isnan(needed), np.inf, needed)
