"""How many requests does it take to see that a canary predicts worse: by pairs, and by randomised arms at 5% weight?

Rows are drawn like the flights' (about 23% delayed, ROC AUC about 0.74), and the canary is the stable version with
noise on its logits, so that its log loss is worse by a hundredth. Both comparisons use the guards' own tests at one
alpha, look after every block of requests, and know every outcome at once.

    python -m benchmarks.paired
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serinus.core.quality import difference_range, loss_range, losses
from serinus.core.sequential import ArmsTest, BernsteinMixture, Sums, Verdict
from serinus.core.sequential.verdict import threshold

WEIGHT = 0.05
ALPHA = 0.005
"""What one guard may spend on false harm: half of 0.05, over five."""
_BLOCK = 200
_ARMS_BLOCK = 20_000
_LONGEST = 20_000_000
_POOL = 400_000


@dataclass(frozen=True)
class Paired:
    """Median requests to detection over rollouts, and what a row's loss and difference of losses are like."""

    paired: float
    arms: float
    difference: float
    difference_spread: float
    loss_spread: float

    @property
    def paired_over_arms(self) -> float:
        return self.paired / self.arms


def rows(random: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log losses of canary and stable version on the same rows."""
    logit = random.normal(-1.45, 0.95, _POOL)
    chance = 1 / (1 + np.exp(-logit))
    outcomes = (random.random(_POOL) < chance).astype(np.int64)
    other = 1 / (1 + np.exp(-logit - random.normal(0, 0.37, _POOL)))
    return losses(outcomes, other, "log_loss"), losses(outcomes, chance, "log_loss")


def measure(seed: int = 0, rollouts: int = 40) -> Paired:
    """Requests that each comparison needs, in so many rollouts."""
    random = np.random.default_rng(seed)
    canary, stable = rows(random)
    paired = [_until(_paired(random, canary - stable), _BLOCK) for _ in range(rollouts)]
    arms = [_until(_arms(random, canary, stable), _ARMS_BLOCK) for _ in range(rollouts)]
    apart = canary - stable
    return Paired(
        paired=float(np.median(paired)), arms=float(np.median(arms)), difference=float(apart.mean()),
        difference_spread=float(apart.std()), loss_spread=float(stable.std()),
    )  # fmt: skip


def _until(look: Callable[[], float], block: int) -> int:
    """Requests until the evidence is enough."""
    requests = 0
    while requests < _LONGEST:
        requests += block
        if look() >= threshold(ALPHA):
            break
    return requests


def _paired(random: np.random.Generator, differences: NDArray[np.float64]) -> Callable[[], float]:
    """Evidence after another block: every request is a pair."""
    test = BernsteinMixture(difference_range("log_loss"), 0.0)
    total = np.zeros(3)

    def look() -> float:
        nonlocal total
        block = differences[random.integers(0, len(differences), _BLOCK)]
        total += np.array([len(block), block.sum(), np.square(block).sum()])
        return float(test.log_e(Sums(*total), Verdict.HARM, 0.0))

    return look


def _arms(random: np.random.Generator, canary: NDArray[np.float64], stable: NDArray[np.float64]) -> Callable[[], float]:
    """Evidence after another block: the canary answers its share, and each arm has its own rows."""
    test = ArmsTest(Verdict.HARM, loss_range("log_loss"), float(stable.mean()))
    state = test.start()

    def look() -> float:
        nonlocal state
        own = random.binomial(_ARMS_BLOCK, WEIGHT)
        drawn = random.integers(0, len(canary), _ARMS_BLOCK)
        state = test.update(state, Sums.of(canary[drawn[:own]]), Sums.of(stable[drawn[own:]]))
        return float(test.log_e(state, 0.0))

    return look


if __name__ == "__main__":
    found = measure()
    sys.stdout.write(
        f"difference {found.difference:.4f}, its spread {found.difference_spread:.3f}; "
        f"spread of a loss {found.loss_spread:.3f}\n"
        f"median requests: paired {found.paired:,.0f}, arms {found.arms:,.0f}; "
        f"paired over arms {found.paired_over_arms:.4f}\n"
    )
