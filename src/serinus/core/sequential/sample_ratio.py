"""Does the traffic split as configured? If not, routing is at fault and nothing else that was measured can be trusted.

The null is that each request goes to the canary with the odds of the configured weight w, up to a factor `tolerance`.
The alternative multiplies the odds by exp(d). Whatever the weights, which may change from interval to interval, the
log likelihood ratio at tolerance 1 is

    d * (canary requests - expected ones) - sum_i n_i KL(w_i || w_i shifted by d),

so that only the cumulative deviation counts for the alternative and each request against it. A split that keeps the
weights more exactly than chance would, such as a smooth round robin, has a deviation of at most one request for each
proxy. `slack` forgives that many: |d| * slack is taken off, which keeps the test valid for random routing (evidence
only gets less), and a deterministic split within the slack can never be called a fault at all, since what is left is
at most -sum n_i KL <= 0. Unlike a chi-squared test, too *good* a split is no evidence against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from serinus.core.errors import InvalidInput
from serinus.core.sequential.mixture import Prior, log_mix
from serinus.core.sequential.rate_ratio import Counts, RateState, RateTest
from serinus.core.sequential.verdict import Floats, Verdict

SPLIT_PRIOR = Prior(sizes=(0.05, 0.1, 0.2, 0.5, 1.0, 2.0), weights=(1, 1, 2, 2, 2, 2))


class SplitState(NamedTuple):
    """Evidence that the canary gets too much, and that it gets too little."""

    much: RateState
    little: RateState


@dataclass(frozen=True)
class SampleRatioTest:
    """`tolerance` is the factor on the odds that is no fault; `slack` the requests that rounding may be off by."""

    tolerance: float = 1.0
    slack: float = 1.0

    def __post_init__(self) -> None:
        if not self.tolerance >= 1 or not self.slack >= 0:
            raise InvalidInput("a sample-ratio test needs a tolerance of at least 1 and a slack of at least 0")

    @property
    def _tests(self) -> tuple[RateTest, RateTest]:
        much = RateTest(Verdict.HARM, self.tolerance, SPLIT_PRIOR)
        return much, RateTest(Verdict.SAFE, 1 / self.tolerance, SPLIT_PRIOR)

    def start(self, shape: tuple[int, ...] = ()) -> SplitState:
        """The state before any traffic."""
        much, little = self._tests
        return SplitState(much.start(shape), little.start(shape))

    def update(
        self, state: SplitState, canary_requests: ArrayLike, stable_requests: ArrayLike, canary_weight: ArrayLike
    ) -> SplitState:
        """Add the requests of an interval in which `canary_weight` in [0, 1] was configured. Shapes [...]."""
        weight = np.asarray(canary_weight, dtype=np.float64)
        if not np.all((weight >= 0) & (weight <= 1)):
            raise InvalidInput("a canary's weight must lie in [0, 1]")
        counts = Counts(canary_requests, stable_requests, weight, 1 - weight)
        much, little = self._tests
        more, less = much.update(state.much, counts), little.update(state.little, counts)
        # A split knows no margin, and weights are exposures even where nobody asked: an empty interval is no change.
        return SplitState(more._replace(drift=state.much.drift), less._replace(drift=state.little.drift))

    def log_e(self, state: SplitState, more_slack: ArrayLike = 0.0) -> Floats:
        """log of the evidence of a routing fault in either direction, [...]; reject at log(1 / alpha).

        Args:
            state: what was counted.
            more_slack: requests to forgive beyond `slack`, [...]. It may depend on what was counted as long as it never
                falls: less evidence keeps the test valid.
        """
        slack = self.slack + np.asarray(more_slack, dtype=np.float64)
        forgiven = slack[..., None] * np.array(SPLIT_PRIOR.sizes)
        sides = [log_mix(side.evidence - forgiven, SPLIT_PRIOR.log_weights) for side in state]
        return log_mix(np.stack(sides, axis=-1), np.log(np.array([0.5, 0.5])))
