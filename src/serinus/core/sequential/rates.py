"""The rate of one version by itself: how often do its requests err, at most and at least, at any number of looks?

A request that errs with probability q multiplies the capital by a, one that does not leaves it; dividing by the mean
1 + q (a - 1) makes it a martingale, and a mixture over a finds the best bet. The result depends on the two counts
alone. If q drifts, the bounds hold for its average over the requests so far: sum log(1 + q_i (a - 1)) is at most
n log(1 + mean(q) (a - 1)), by concavity.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from serinus.core.sequential.mixture import Prior, bisect, log_mix
from serinus.core.sequential.verdict import AlphaShare, Bounds, Floats, Verdict, threshold

RATE_PRIOR = Prior(
    sizes=(0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0), weights=(1, 1, 2, 2, 3, 4, 4, 4, 2, 2)
)


def rate_log_e(direction: Verdict, events: ArrayLike, requests: ArrayLike, rate: ArrayLike) -> Floats:
    """log of the evidence, [...], that the true rate is above (HARM) or below (SAFE) `rate`."""
    log_bets = float(direction) * np.array(RATE_PRIOR.sizes)
    x, n, q = (np.asarray(value, dtype=np.float64)[..., np.newaxis] for value in (events, requests, rate))
    with np.errstate(divide="ignore"):
        log_mean = np.log1p(q * np.expm1(log_bets))
    return log_mix(x * log_bets - np.where(n > 0, n * log_mean, 0.0), RATE_PRIOR.log_weights)


def rate_bounds(events: ArrayLike, requests: ArrayLike, share: AlphaShare) -> Bounds:
    """The rate's interval in [0, 1]: low at alpha `share.harm`, high at `share.safe`. Shape [...].

    Without events, `high` falls as about (log(1 / alpha) + 1) / requests.
    """
    x, n = np.broadcast_arrays(np.asarray(events, dtype=np.float64), np.asarray(requests, dtype=np.float64))
    zero, one = np.zeros(x.shape), np.ones(x.shape)
    low, _ = bisect(lambda q: threshold(share.harm) - rate_log_e(Verdict.HARM, x, n, q), zero, one)
    _, high = bisect(lambda q: rate_log_e(Verdict.SAFE, x, n, q) - threshold(share.safe), zero, one)
    return Bounds(low, high)
