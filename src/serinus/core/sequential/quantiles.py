"""Latency quantiles from histogram buckets, at any number of looks.

Time-uniform bounds in the manner of Howard and Ramdas, arXiv:1906.09712: the number of requests above the true
p-quantile is a sum of events of probability at most 1 - p, and an anytime-valid bound on that one sum bounds the
quantile, whatever the distribution and without a union over the buckets' edges. Bounds are edges of buckets, so they
are as fine as the buckets are; ties and atoms need nothing special.

Between two versions, let x be stable's quantile. If the canary's is at most (1 + tolerance) x, then at most a share
1 - p of its requests exceeds (1 + tolerance) x. For each x in question the evidence of stable's counts against x
being its quantile, times that of the canary's counts against the second statement, is an e-process; harm is proven
once it is large for *every* x. That takes fewer requests than two separate bounds that must not overlap, since most x
are excluded by stable, which has most of the traffic. In a bucket the x that excuses the canary most is taken,
so a shift is seen only beyond the tolerance times the ratio of neighbouring edges (twice, unless 1 + tolerance is a
whole number of buckets): a 20% shift needs edges at most about 5% apart.

Unlike the rates in `rate_ratio`, a quantile is a property of one distribution: each version's latencies must keep
theirs while counts are added up. Where load makes latencies drift, guard the rate of slow requests instead, or start
afresh often.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serinus.core.errors import InvalidInput
from serinus.core.sequential.rates import rate_log_e
from serinus.core.sequential.verdict import AlphaShare, Bounds, Floats, Verdict, threshold

_SAME = 1e-9
_HALF = np.log(0.5)
_THIRD = np.log(1 / 3)
_Versions = tuple[tuple[Floats, Floats], tuple[Floats, Floats]]


@dataclass(frozen=True)
class QuantileTest:
    """The `quantile` in (0, 1) of values counted in buckets.

    `edges` [J] are the buckets' inclusive upper ends, rising, in the metric's unit and above 0; counts have shape
    [..., J + 1], cumulative over time and one for each bucket, the last one for values above all edges.
    """

    quantile: float
    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False))
        if not self.edges or not rising or self.edges[0] <= 0 or not 0 < self.quantile < 1:
            raise InvalidInput("a quantile test needs a quantile in (0, 1) and rising positive edges")

    def _above(self, counts: ArrayLike) -> tuple[Floats, Floats]:
        """How many values lie above 0, each edge and infinity, [..., J + 2], and how many there are, [..., 1]."""
        array = np.asarray(counts, dtype=np.float64)
        if array.shape[-1] != len(self.edges) + 1 or not np.all(array >= 0):
            raise InvalidInput(f"{len(self.edges)} edges need {len(self.edges) + 1} counts of at least 0")
        total = array.sum(axis=-1, keepdims=True)
        return np.concatenate([total, total - np.cumsum(array, axis=-1)], axis=-1), total

    def bounds(self, counts: ArrayLike, share: AlphaShare) -> Bounds:
        """The quantile's interval, [...]: low at alpha `share.harm`, high at `share.safe`; [0, inf) without data."""
        above, total = self._above(counts)
        above, edges = above[..., 1:-1], np.array(self.edges)
        tail = 1 - self.quantile
        over = rate_log_e(Verdict.HARM, above, total, tail) >= threshold(share.harm)
        under = rate_log_e(Verdict.SAFE, above, total, tail) >= threshold(share.safe)
        return Bounds(np.where(over, edges, 0.0).max(axis=-1), np.where(under, edges, np.inf).min(axis=-1))

    def log_e(self, direction: Verdict, canary: ArrayLike, stable: ArrayLike, tolerance: float) -> Floats:
        """log of the evidence, [...], that the canary's quantile is above (HARM) or below (SAFE) that of stable
        times 1 + `tolerance`; reject at log(1 / alpha)."""
        ours, theirs = self._above(canary), self._above(stable)
        every = np.arange(len(self.edges) + 1)
        shape = (*np.broadcast_shapes(ours[1].shape[:-1], theirs[1].shape[:-1]), len(every))
        by_bucket = self._by_bucket(direction, (ours, theirs), np.broadcast_to(every, shape), tolerance)
        return np.asarray(by_bucket.min(axis=-1), dtype=np.float64)

    def rejects(
        self, direction: Verdict, canary: ArrayLike, stable: ArrayLike, tolerance: float, alpha: float
    ) -> NDArray[np.bool_]:
        """Where `log_e` rejects at alpha, [...], for many rollouts at once.

        The least evidence over all x counts, so that as long as the x that is likeliest by stable's counts is not
        excluded no other one need be looked at.
        """
        ours, theirs = np.broadcast_arrays(*(np.asarray(counts, dtype=np.float64) for counts in (canary, stable)))
        above, total = self._above(theirs)
        likeliest = np.argmax(above[..., 1:] <= (1 - self.quantile) * total, axis=-1)[..., np.newaxis]
        pairs = (self._above(ours), (above, total))
        found = self._by_bucket(direction, pairs, likeliest, tolerance)[..., 0] >= threshold(alpha)
        rejected = np.array(found)
        rejected[found] = self.log_e(direction, ours[found], theirs[found], tolerance) >= threshold(alpha)
        return rejected

    def _by_bucket(
        self, direction: Verdict, versions: _Versions, buckets: NDArray[np.int64], tolerance: float
    ) -> Floats:
        """The evidence with x in each of some buckets, [..., b], of what lies above each edge in both versions."""
        (ours, our_total), (theirs, total) = versions
        tail = 1 - self.quantile
        # x in bucket b, (ends[b], ends[b + 1]]: too low if too many lie above it, too high if too few do.
        too_low = rate_log_e(Verdict.HARM, _at(theirs, buckets + 1), total, tail)
        too_high = rate_log_e(Verdict.SAFE, _at(theirs, buckets), total, tail)
        against_x = np.logaddexp(np.logaddexp(too_low, too_high), 0.0) + _THIRD
        canary = rate_log_e(direction, _at(ours, self._beyond(direction, tolerance)[buckets]), our_total, tail)
        return np.asarray(against_x + np.logaddexp(canary, 0.0) + _HALF, dtype=np.float64)

    def _beyond(self, direction: Verdict, tolerance: float) -> NDArray[np.int64]:
        """For x in each bucket, the end beyond (1 + tolerance) x at which the canary's values are counted."""
        ends = np.array([0.0, *self.edges, np.inf])
        scaled = (1 + tolerance) * ends
        if direction is Verdict.HARM:
            return np.searchsorted(ends, scaled[1:] * (1 - _SAME), side="left")
        return np.searchsorted(ends, scaled[:-1] * (1 + _SAME), side="right") - 1


def _at(above: Floats, ends: NDArray[np.int64]) -> Floats:
    """What lies above some of the ends, [..., b]."""
    return np.take_along_axis(np.broadcast_to(above, (*ends.shape[:-1], above.shape[-1])), ends, axis=-1)
