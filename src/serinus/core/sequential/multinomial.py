"""Is a distribution over fixed bins the expected one? Predictions against what the offline evaluation led to expect.

A Dirichlet mixture over all distributions (Lindon and Malek,
arXiv:2011.03567, here averaged over three concentrations) divided by the largest likelihood that any distribution
within total variation `tolerance` of the expected one reaches. If the truth p is within the tolerance, that is at most
mixture / likelihood of p, which is a martingale: so it is an e-process for the composite null. The maximum is exact:
by the Lagrange conditions its bins are raised to q / a where q / expected > a, lowered to q / b where q / expected < b,
and otherwise as expected, with a and b such that the tolerance is spent on both sides. Rows must be independent with
one distribution over the counts that are added up; see `two_sample` for a test that drift cannot mislead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serinus.core.errors import InvalidInput
from serinus.core.sequential.mixture import bisect, log_mix
from serinus.core.sequential.verdict import AlphaShare, Bounds, Floats, threshold

CONCENTRATIONS = (10.0, 100.0, 1000.0)


def log_gamma(x: Floats) -> Floats:
    """log of the gamma function for x > 0, to about 1e-14 relative: Stirling's series after a shift by 8."""
    shifted = x + 8.0
    inverse = 1.0 / shifted
    square = inverse * inverse
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188))))
    product = np.ones_like(x)
    for step in range(8):
        product = product * (x + step)
    value: Floats = (shifted - 0.5) * np.log(shifted) - shifted + 0.5 * np.log(2 * np.pi) + series - np.log(product)
    return value


def smoothed(counts: ArrayLike) -> Floats:
    """An expected distribution from reference counts, [..., B]: half a row more in each bin makes none impossible."""
    array = np.asarray(counts, dtype=np.float64) + 0.5
    shares: Floats = array / array.sum(axis=-1, keepdims=True)
    return shares


def _likelihood(counts: Floats, shares: Floats) -> Floats:
    logs = np.log(np.where(counts > 0, shares, 1.0))
    return np.asarray((counts * logs).sum(axis=-1), dtype=np.float64)


@dataclass(frozen=True)
class ExpectedTest:
    """Cumulative counts [..., B] against an expected distribution of B bins, all above 0 (see `smoothed`)."""

    expected: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.expected) < 2 or min(self.expected) <= 0 or abs(sum(self.expected) - 1) > 1e-6:
            raise InvalidInput("an expected distribution needs at least two bins, each above 0, that sum to 1")

    @property
    def _shares(self) -> Floats:
        shares = np.array(self.expected)
        return np.asarray(shares / shares.sum(), dtype=np.float64)

    def _counts(self, counts: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Counts, their shares (the expected ones where there are none) and their totals [..., 1]."""
        array = np.asarray(counts, dtype=np.float64)
        if array.shape[-1] != len(self.expected) or not np.all(array >= 0):
            raise InvalidInput(f"{len(self.expected)} bins need as many counts of at least 0")
        total = array.sum(axis=-1, keepdims=True)
        return array, np.where(total > 0, array / np.maximum(total, 1.0), self._shares), total

    def _marginal(self, counts: Floats) -> Floats:
        """log probability of the counts' sequence under the Dirichlet mixture, [...]."""
        logs = []
        for concentration in CONCENTRATIONS:
            pseudo = concentration * self._shares
            whole = np.array([concentration])
            gained = (log_gamma(pseudo + counts) - log_gamma(pseudo)).sum(axis=-1)
            logs.append(gained - (log_gamma(whole + counts.sum(axis=-1, keepdims=True)) - log_gamma(whole))[..., 0])
        return log_mix(np.stack(logs, axis=-1), np.full(len(logs), -np.log(len(logs))))

    def nearest(self, counts: ArrayLike, tolerance: ArrayLike) -> Floats:
        """The likeliest distribution within total variation `tolerance`, [...], of the expected one. Shape [..., B]."""
        _, shares, _ = self._counts(counts)
        given = np.asarray(tolerance, dtype=np.float64)
        spend = np.broadcast_to(given, np.broadcast_shapes(given.shape, shares.shape[:-1]))[..., np.newaxis]
        expected, ratio = self._shares, shares / self._shares
        one = np.ones_like(spend)

        def raised(a: Floats) -> Floats:
            over = np.maximum(shares / a - expected, 0.0)
            return np.asarray(spend - over.sum(axis=-1, keepdims=True), dtype=np.float64)

        def lowered(b: Floats) -> Floats:
            under = np.maximum(expected - shares / np.maximum(b, 1e-300), 0.0)
            return np.asarray(under.sum(axis=-1, keepdims=True) - spend, dtype=np.float64)

        a, _ = bisect(raised, one, np.maximum(ratio.max(axis=-1, keepdims=True), 1.0))
        b, _ = bisect(lowered, 0 * one, one)
        b = np.maximum(b, 1e-300)
        best = np.where(ratio > a, shares / a, np.where(ratio < b, shares / b, expected))
        inside = 0.5 * np.abs(shares - expected).sum(axis=-1, keepdims=True) <= spend
        return np.where(inside, shares, best)

    def log_e(self, counts: ArrayLike, tolerance: ArrayLike = 0.0) -> Floats:
        """log of the evidence, [...], that the distribution is farther than `tolerance` from the expected one."""
        array, _, _ = self._counts(counts)
        return self._marginal(array) - _likelihood(array, self.nearest(array, tolerance))

    def rejects(self, counts: ArrayLike, tolerance: float, alpha: float) -> NDArray[np.bool_]:
        """Where `log_e` rejects at alpha, [...], for many rollouts at once: never within the tolerance."""
        array, shares, _ = self._counts(counts)
        outside = np.asarray(0.5 * np.abs(shares - self._shares).sum(axis=-1) > tolerance)
        rejected = np.array(outside)
        rejected[outside] = self.log_e(array[outside], tolerance) >= threshold(alpha)
        return rejected

    def bounds(self, counts: ArrayLike, share: AlphaShare) -> Bounds:
        """Total variation between truth and expectation, [...]: low at `share.harm`, high at `share.safe`.

        Low inverts `log_e`. High takes every distribution that the mixture has not refuted, at most so far from the
        observed shares as Pinsker's inequality lets it be.
        """
        array, shares, total = self._counts(counts)
        shape = array.shape[:-1]
        level = threshold(share.harm)
        low, _ = bisect(lambda d: level - self.log_e(array, d), np.zeros(shape), np.ones(shape), rounds=24)
        divergence = threshold(share.safe) + _likelihood(array, shares) - self._marginal(array)
        reach = np.sqrt(np.maximum(divergence, 0.0) / 2 / np.maximum(total[..., 0], 1.0))
        distance = 0.5 * np.abs(shares - self._shares).sum(axis=-1)
        return Bounds(low, np.where(total[..., 0] > 0, np.minimum(distance + reach, 1.0), 1.0))
