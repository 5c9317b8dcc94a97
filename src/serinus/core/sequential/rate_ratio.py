"""Does the canary err more often than stable? Rates of events on two concurrent versions, at any number of looks.

The null hypothesis of *harm* is that in every interval `rate_canary <= ratio * rate_stable + margin`, that of *safe*
is the reverse. Both rates may drift together however they like: only their relation is tested, so an incident that
hits both versions is evidence of nothing.

Construction (Lindon and Malek, arXiv:2205.14762). Given an event in interval i with exposures n_c and n_s, it is the
canary's with probability p_i(t) = t n_c / (t n_c + n_s), where t is the ratio of the rates. The likelihood ratio of
t against `ratio` multiplies each canary event by r_c = p_i(t) / p_i(ratio) and each stable event by
r_s = (1 - p_i(t)) / (1 - p_i(ratio)). Averaged over a prior on t, it is an e-process.

Why it holds without Poisson assumptions, for the whole one-sided null, and with a margin. For requests that err
independently given the past, with mean rates q_c and q_s in the interval, the factor exp(-margin n_c (r_c - 1)) times
the likelihood ratio has expectation at most

    exp(n_c q_c (r_c - 1) + n_s q_s (r_s - 1) - margin n_c (r_c - 1))            by 1 + x <= exp(x), request by request
  = exp(n_c (r_c - 1) (q_c - ratio q_s - margin))                      because ratio n_c (r_c - 1) + n_s (r_s - 1) = 0

For harm t > ratio, so r_c >= 1 and the exponent is <= 0 wherever q_c <= ratio q_s + margin; for safe both signs turn.
So each prior point is a nonnegative supermartingale under its whole null, and so is their mixture: Ville's inequality
bounds the probability that it *ever* reaches 1 / alpha by alpha. Exposures must not depend on the interval's own
outcomes; for looks at single requests use the weights of the split as exposures of the event.

The priors. HARM_PRIOR was tuned for ratio 1.25, a 0.5% base rate, 5% canary weight and 1,000 requests a minute, so
that the median number of canary requests to detect x2, x4 and x10 is at most 1.3, 1.15 and 1.3 times that of Wald's
test which is told the true ratio, with a look at every minute and at every request, at alpha 0.0125 and 0.005. A
random search over the number, place and weight of the points minimised the squared excess over those targets; the
result was rounded, and 3% of the capital set aside for small effects, without which a ratio of 1.5 would never be
found. At alpha 0.05 the targets hold too, but for x10 with a look at every request (72 requests against 51), where a
single error more or less decides. SAFE_PRIOR spans small
sizes, for ratios just below the tolerance, up to betting on no errors at all, by which zero errors become safe once
n_c * margin exceeds about log(1 / alpha) + 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from serinus.core.errors import InvalidInput
from serinus.core.sequential.mixture import Prior, bisect, log_mix
from serinus.core.sequential.verdict import AlphaShare, Bounds, Floats, Verdict, threshold

HARM_PRIOR = Prior(sizes=(0.1, 0.3, 0.6, 1.35, 1.8), weights=(0.01, 0.02, 0.34, 0.46, 0.17))
SAFE_PRIOR = Prior(sizes=(0.1, 0.2, 0.45, 0.85, 1.5, 3.0), weights=(0.12, 0.22, 0.22, 0.2, 0.14, 0.1))


class Counts(NamedTuple):
    """New counts of one interval, each of shape [...] or a number: never cumulative ones."""

    canary_events: ArrayLike
    stable_events: ArrayLike
    canary_exposure: ArrayLike
    stable_exposure: ArrayLike

    def arrays(self) -> tuple[Floats, Floats, Floats, Floats]:
        """As float arrays with a last axis for the prior's points; refuses negative counts and NaN."""
        values = [np.asarray(value, dtype=np.float64)[..., np.newaxis] for value in self]
        if any(not np.all((value >= 0) & np.isfinite(value)) for value in values):
            raise InvalidInput(
                "counts of an interval must be finite and at least 0", hint="handle counter resets first"
            )
        return values[0], values[1], values[2], values[3]


class RateState(NamedTuple):
    """All that a test remembers, each [..., K]: log likelihood ratios, and what a margin of 1 would take from them."""

    evidence: Floats
    drift: Floats


@dataclass(frozen=True)
class RateTest:
    """The e-process of one direction: HARM rejects `canary <= ratio * stable + margin`, SAFE rejects `>=`."""

    direction: Verdict
    ratio: float = 1.0
    prior: Prior | None = None

    def __post_init__(self) -> None:
        if self.direction is Verdict.UNDECIDED or not self.ratio > 0:
            raise InvalidInput("a rate test needs the direction HARM or SAFE and a positive ratio")

    @property
    def _prior(self) -> Prior:
        return self.prior or (HARM_PRIOR if self.direction is Verdict.HARM else SAFE_PRIOR)

    @property
    def _log_ratios(self) -> Floats:
        return float(self.direction) * np.array(self._prior.sizes)

    def start(self, shape: tuple[int, ...] = ()) -> RateState:
        """The state before any data, for a batch of that shape."""
        zeros = np.zeros((*shape, len(self._prior.sizes)))
        return RateState(zeros, zeros)

    def update(self, state: RateState, counts: Counts) -> RateState:
        """Add one interval. Without events it adds no evidence, without exposure on both sides no drift either."""
        log_canary, log_stable, canary, stable, exposure = self._factors(counts)
        evidence = state.evidence + canary * log_canary + stable * log_stable
        return RateState(evidence, state.drift + exposure * np.expm1(log_canary))

    def _factors(self, counts: Counts) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        canary, stable, canary_exposure, stable_exposure = counts.arrays()
        null = self.ratio * canary_exposure + stable_exposure
        other = self.ratio * np.exp(self._log_ratios) * canary_exposure + stable_exposure
        seen = null > 0
        log_stable = np.log(np.where(seen, null, 1.0)) - np.log(np.where(seen, other, 1.0))
        log_canary = np.where(seen, self._log_ratios + log_stable, 0.0)
        return log_canary, log_stable, canary, stable, canary_exposure

    def log_e(self, state: RateState, margin: ArrayLike = 0.0) -> Floats:
        """log of the evidence against the null, [...]: rejects at alpha once it is at least log(1 / alpha)."""
        margin = np.asarray(margin, dtype=np.float64)[..., np.newaxis]
        return log_mix(state.evidence - margin * state.drift, self._prior.log_weights)

    def excess(self, state: RateState, alpha: float, limit: float = 1.0) -> Floats:
        """Bound of the excess `rate_canary - ratio * rate_stable`, [...], in events per unit of exposure.

        HARM gives the lower bound, SAFE the upper one; with ratio 1 that is the difference of the rates. It is the
        margin at which the test would just reject, by bisection in [-limit, limit]; infinite when outside.
        """
        shape = state.evidence.shape[:-1]
        sign, level = float(self.direction), threshold(alpha)
        # In z = sign * margin the evidence falls for both directions.
        low, _ = bisect(lambda z: level - self.log_e(state, sign * z), np.full(shape, -limit), np.full(shape, limit))
        bounded = self.log_e(state, np.full(shape, -sign * limit)) >= level
        return sign * np.where(bounded, low, -np.inf)


@dataclass(frozen=True)
class RatioSequence:
    """Confidence sequence of the rate ratio by inversion, on a grid of ratios `anchor * exp(step * j)`.

    Each side inverts a one-sided e-process whose prior lies at fixed distances above (below) the ratio in question.
    The log likelihood is concave in log t, so that this e-process falls (rises) with the ratio and the rejected ratios
    are exactly those below (above) one point: `low` agrees with RateTest(HARM, r) for each r on the grid. Bounds are
    rounded outwards to the grid. The sizes of both priors must be multiples of the step.
    """

    anchor: float = 1.0
    step: float = 0.05
    reach: float = 3.5
    harm: Prior = HARM_PRIOR
    safe: Prior = SAFE_PRIOR

    def _offsets(self, prior: Prior) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        exact = np.array(prior.sizes) / self.step
        if np.abs(exact - np.rint(exact)).max() > 1e-9:
            raise InvalidInput(f"the prior's sizes must be multiples of the step {self.step:g}")
        return np.rint(exact).astype(np.int64)

    @property
    def _sides(self) -> tuple[int, int, int]:
        """Points from the anchor to the farthest ratio in question, and beyond it for either prior."""
        return round(self.reach / self.step), int(self._offsets(self.safe)[-1]), int(self._offsets(self.harm)[-1])

    @property
    def log_ratios(self) -> Floats:
        """The grid, as logarithms of the ratio."""
        reach, below, above = self._sides
        points = np.arange(-reach - below, reach + above + 1, dtype=np.float64)
        grid: Floats = log(self.anchor) + self.step * points
        return grid

    def start(self, shape: tuple[int, ...] = ()) -> Floats:
        """The log likelihood before any data, [..., G]."""
        return np.zeros((*shape, len(self.log_ratios)))

    def update(self, state: Floats, counts: Counts) -> Floats:
        """Add one interval."""
        canary, stable, canary_exposure, stable_exposure = counts.arrays()
        total = np.exp(self.log_ratios) * canary_exposure + stable_exposure
        seen = canary_exposure + stable_exposure > 0
        added = canary * self.log_ratios - (canary + stable) * np.log(np.where(seen, total, 1.0))
        return np.asarray(state + np.where(seen, added, 0.0), dtype=np.float64)

    def bounds(self, state: Floats, share: AlphaShare) -> Bounds:
        """The ratio's interval, [...]: low at alpha `share.harm`, high at `share.safe`; [0, inf) without data."""
        reach, below, _ = self._sides
        asked = below + np.arange(2 * reach + 1)
        here = state[..., asked, np.newaxis]
        ratios = np.exp(self.log_ratios[asked])
        up = state[..., asked[:, np.newaxis] + self._offsets(self.harm)] - here
        down = state[..., asked[:, np.newaxis] - self._offsets(self.safe)] - here
        too_low = log_mix(up, self.harm.log_weights) >= threshold(share.harm)
        too_high = log_mix(down, self.safe.log_weights) >= threshold(share.safe)
        low = np.where(too_low, ratios, 0.0).max(axis=-1)
        return Bounds(low, np.where(too_high, ratios, np.inf).min(axis=-1))
