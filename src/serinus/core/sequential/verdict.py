"""What every guard answers, and how much of the error budget each one may spend.

All of the package's tests speak this language, so that the state machine above them never sees a family's details:
an interval in the metric's own unit, a log e-value, and one of three verdicts. Arrays carry many rollouts at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from math import log
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serinus.core.errors import InvalidInput

Floats = NDArray[np.float64]
Codes = NDArray[np.int8]


class Verdict(IntEnum):
    """Arrays of verdicts hold these numbers as int8."""

    SAFE = -1
    UNDECIDED = 0
    HARM = 1


class Bounds(NamedTuple):
    """A confidence sequence at one moment: the metric lies in [low, high], each side at its own alpha. Shape [...]."""

    low: Floats
    high: Floats

    @classmethod
    def unknown(cls, shape: tuple[int, ...] = (), low: float = -np.inf, high: float = np.inf) -> Bounds:
        """What is known before any data."""
        return cls(np.full(shape, low), np.full(shape, high))

    def intersect(self, earlier: Bounds) -> Bounds:
        """The running intersection, which a confidence sequence allows because it holds at all times at once.

        An empty intersection means that the promise was broken (probability alpha) or its assumptions were; `low` and
        `high` then keep their crossed order, so that neither is hidden.
        """
        return Bounds(np.maximum(self.low, earlier.low), np.minimum(self.high, earlier.high))


def judge(bounds: Bounds, harm_above: float, safe_below: float) -> Codes:
    """HARM where the whole interval lies above `harm_above`, SAFE where it lies below `safe_below`, else UNDECIDED.

    NaN bounds (no data) are UNDECIDED. Harm wins where both hold, which needs `harm_above < safe_below`.
    """
    return decide(bounds.low > harm_above, bounds.high < safe_below)


def decide(harm: ArrayLike, safe: ArrayLike) -> Codes:
    """Verdict codes of two boolean arrays; harm wins."""
    return np.where(harm, Verdict.HARM, np.where(safe, Verdict.SAFE, Verdict.UNDECIDED)).astype(np.int8)


def decide_by_evidence(harm_log_e: Floats, safe_log_e: Floats, share: AlphaShare) -> Codes:
    """Verdict codes of two e-processes: each rejects its null once its log e reaches log(1 / alpha)."""
    return decide(harm_log_e >= threshold(share.harm), safe_log_e >= threshold(share.safe))


def threshold(alpha: float) -> float:
    """The log e-value that rejects at `alpha` (Ville's inequality)."""
    if not 0 < alpha < 1:
        raise InvalidInput(f"alpha is {alpha:g}, it must lie strictly between 0 and 1")
    return -log(alpha)


@dataclass(frozen=True)
class AlphaShare:
    """What one guard may spend in one step: on calling harm falsely, and on calling safe falsely."""

    harm: float
    safe: float


def divide_alpha(
    alpha: float, guards: Mapping[str, float], *, steps: int = 1, all_must_be_safe: bool = False
) -> dict[str, AlphaShare]:
    """Split `alpha` over both directions, guards by weight, and steps, so that P(any false verdict) <= alpha.

    `steps` counts the fresh starts: a process that runs on through all steps is one start. The union bound needs no
    independence. With `all_must_be_safe` the safe share is not divided over guards: if a rollout proceeds only when
    every guard says safe, proceeding wrongly needs a false *safe* of the particular guard whose metric is bad, so
    each may use the whole (intersection-union test). Then P(false harm) + P(a wrong step forward) <= alpha still
    holds, but the guards' upper bounds no longer hold all at once.
    """
    if not guards or steps < 1 or any(not weight > 0 for weight in guards.values()):
        raise InvalidInput("alpha needs at least one guard of positive weight and at least one step to be divided over")
    threshold(alpha)
    total = sum(guards.values())
    per_step = alpha / 2 / steps
    return {
        name: AlphaShare(per_step * weight / total, per_step if all_must_be_safe else per_step * weight / total)
        for name, weight in guards.items()
    }
