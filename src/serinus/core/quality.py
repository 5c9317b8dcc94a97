"""How well two versions predict the same rows: losses, their paired differences, and what is expected before outcomes.

Served features are logged, so both versions can be scored on any logged row. The difference of their losses on one row
varies far less than either loss, and every row counts whoever answered it: that is why the paired guard needs so much
less traffic than a comparison of randomised arms.

*Before outcomes are known* the difference is estimated as in confidence-based performance estimation (CBPE, described
in NannyML's documentation, "How it works: performance estimation"): if a version's probabilities are calibrated, a row
predicted at q has outcome 1 with probability q, and its expected loss follows. Each version is calibrated on rows that
both were scored on, whose outcomes are known and which were served before the rollout began, and the difference of a
row is what the canary expects of itself minus what the stable version expects of itself.

What that can see: a canary that is less sharp, that moved its probabilities away from where its own past says they
belong, or whose inputs now lead it to regions where it used to do badly. What it cannot see: anything that breaks
calibration. If what the inputs *mean* changes (concept drift), both estimates stay as they are, and a shift that breaks
both calibrations equally is invisible. Two calibrations are also estimated from finitely many rows, an error that more
traffic does not average away. So an estimate may take a canary back, with a wide tolerance, and never confirms one.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serinus.core.evidence import Frozen, LossSums
from serinus.core.sequential.means import Range
from serinus.core.times import Interval
from serinus.core.version import Lineage

Metric = Literal["log_loss", "brier"]
Floats = NDArray[np.float64]

CLIP = (0.01, 0.99)
"""Log loss counts probabilities as if they lay in it."""
MINIMUM_ROWS = 1000
"""Rows with known outcomes that a calibration needs, at least."""
MINIMUM_OF_EACH = 50
"""Rows of each outcome that a calibration needs, at least."""
_UNIT = 2.0**-30


def loss_range(metric: Metric) -> Range:
    """What one row's loss can be."""
    return Range(0.0, 1.0) if metric == "brier" else Range(-float(np.log(CLIP[1])), -float(np.log(CLIP[0])))


def difference_range(metric: Metric) -> Range:
    """What the difference of two losses of one row can be."""
    width = loss_range(metric).width
    return Range(-width, width)


def losses(outcomes: ArrayLike, probabilities: ArrayLike, metric: Metric) -> Floats:
    """Each row's loss, [...].

    Args:
        outcomes: 0 or 1; or, for the loss to expect, the probability of 1.
        probabilities: what was predicted.
        metric: the loss. Log loss is bounded by clipping, as the guards need a range that is known beforehand.
    """
    chance = np.asarray(outcomes, dtype=np.float64)
    predicted = np.asarray(probabilities, dtype=np.float64)
    if metric == "brier":
        return np.asarray(chance * np.square(1 - predicted) + (1 - chance) * np.square(predicted))
    clipped = np.clip(predicted, *CLIP)
    return np.asarray(-chance * np.log(clipped) - (1 - chance) * np.log1p(-clipped))


def differences(outcomes: ArrayLike, canary: ArrayLike, stable: ArrayLike, metric: Metric) -> Floats:
    """The canary's loss minus the stable version's on the same rows, [n]: above 0 the canary is worse."""
    return losses(outcomes, canary, metric) - losses(outcomes, stable, metric)


def sum_up(values: Floats) -> LossSums:
    """Count, sum and sum of squares of values, [n].

    Each value counts as a multiple of 2^-30, of which doubles hold sums exactly up to eight million: in whatever order
    and parts rows are added, after a crash as before it, the same sums come out to the last bit.
    """
    total, squares = (float(np.sum(np.rint(each / _UNIT))) * _UNIT for each in (values, np.square(values)))
    return LossSums(rows=len(values), total=total, squares=squares)


def together(parts: Iterable[LossSums]) -> LossSums:
    """The sums of all parts' rows."""
    found = LossSums()
    for part in parts:
        found = LossSums(
            rows=found.rows + part.rows, total=found.total + part.total, squares=found.squares + part.squares
        )
    return found


class Calibration(Frozen):
    """How often outcome 1 followed what a version predicted: a rising curve through `points`, flat beyond its ends.

    `rows` say how many outcomes it rests on.
    """

    points: tuple[float, ...]
    rates: tuple[float, ...]
    rows: int

    def __call__(self, probabilities: ArrayLike) -> Floats:
        """The calibrated probability of outcome 1, [...]."""
        return np.interp(np.asarray(probabilities, dtype=np.float64), self.points, self.rates)


class Calibrations(Frozen):
    """Both versions', fitted on the same rows."""

    canary: Calibration
    stable: Calibration


def enough(outcomes: NDArray[np.integer]) -> bool:
    """Whether so many outcomes allow a calibration; a curve through fewer would be a guess."""
    ones = int(np.sum(outcomes))
    return len(outcomes) >= MINIMUM_ROWS and min(ones, len(outcomes) - ones) >= MINIMUM_OF_EACH


def calibrate(probabilities: Floats, outcomes: NDArray[np.integer]) -> Calibration:
    """Isotonic regression of outcomes on probabilities, [n], n at least 1: the rising curve of least squares.

    Pools adjacent violators, as scikit-learn's IsotonicRegression does, which a test holds it to.
    """
    points, place = np.unique(probabilities, return_inverse=True)
    weights = np.bincount(place).astype(np.float64)
    rates = _pooled(np.bincount(place, weights=outcomes) / weights, weights)
    # Between the ends of a level stretch lies nothing but the level.
    inner = np.r_[False, (rates[1:-1] == rates[:-2]) & (rates[1:-1] == rates[2:]), False][: len(rates)]
    return Calibration(points=tuple(points[~inner]), rates=tuple(rates[~inner]), rows=len(outcomes))


def _pooled(rates: Floats, weights: Floats) -> Floats:
    """The rising sequence nearest to `rates`: neighbours in the wrong order become one block at their mean."""
    levels: list[float] = []
    masses: list[float] = []
    lengths: list[int] = []
    for rate, weight in zip(rates.tolist(), weights.tolist(), strict=True):
        level, mass, length = rate, weight, 1
        while levels and levels[-1] >= level:
            before = masses.pop()
            level = (levels.pop() * before + level * mass) / (before + mass)
            mass, length = mass + before, length + lengths.pop()
        levels.append(level)
        masses.append(mass)
        lengths.append(length)
    return np.repeat(np.array(levels), lengths)


def expected_differences(calibrations: Calibrations, canary: Floats, stable: Floats, metric: Metric) -> Floats:
    """What the difference of losses is expected to be, [n], each version by its own calibrated probability."""
    ours = losses(calibrations.canary(canary), canary, metric)
    return ours - losses(calibrations.stable(stable), stable, metric)


def unseen_since(lineage: Lineage, holdout: timedelta | None, label_delay: timedelta) -> datetime:
    """From when on requests were not fitted on when a version was made.

    The held-out period ends `label_delay` before the run's as-of time and no model is fitted on it. Where its length
    is not known, only what was asked after the as-of time is unseen for sure.
    """
    return lineage.as_of if holdout is None else lineage.as_of - label_delay - holdout


def closed_stretches(since: datetime, now: datetime, length: timedelta, delay: timedelta) -> list[Interval]:
    """Stretches of one length from `since` on, in order, that ended at least `delay` before `now`.

    They follow from `since` alone, so that whoever looks, and whenever, finds the same ones.
    """
    count = max(0, (now - delay - since) // length)
    return [Interval(since=since + at * length, until=since + (at + 1) * length) for at in range(count)]
