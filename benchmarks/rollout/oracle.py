"""Wald's sequential probability ratio test, told the true ratio: no test at the same alpha needs fewer requests.

It sees what the guard on errors sees: events and exposures of both versions, a look a minute. It bets everything on the
ratio that it was told, and stops at log(1 / alpha), since it is to reject only; the guard must find the ratio itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serinus.core.sequential import Counts, Prior, RateTest, Verdict, threshold


def requests(ratio: float, setting: tuple[float, float, float], alpha: float, rollouts: int) -> NDArray[np.float64]:
    """Canary requests until the test rejects the tolerated ratio of 1.25.

    Args:
        ratio: the canary's rate of errors over the stable version's.
        setting: requests a look, the canary's share of them, the stable version's rate of errors.
        alpha: of the guard on errors.
        rollouts: how many.
    """
    each, weight, base = setting
    rng = np.random.default_rng(int(1000 * ratio))
    test = RateTest(Verdict.HARM, 1.25, Prior((float(np.log(ratio / 1.25)),), (1.0,)))
    state, seen = test.start((rollouts,)), np.zeros(rollouts)
    needed = np.full(rollouts, np.nan)
    while np.isnan(needed).any():
        total = rng.poisson(each, rollouts)
        ours = rng.binomial(total, weight)
        errors, others = rng.binomial(ours, base * ratio), rng.binomial(total - ours, base)
        state = test.update(state, Counts(errors, others, ours, total - ours))
        seen += ours
        rejected = np.isnan(needed) & (test.log_e(state) >= threshold(alpha))
        needed[rejected] = seen[rejected]
    return needed
