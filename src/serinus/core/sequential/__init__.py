"""Anytime-valid statistics, pure numpy: what a guard may conclude, at however many looks. No rollout policy lives here.

Every promise is of the form "the probability that this is *ever* wrong is at most alpha", for processes that may be
looked at after each interval and stopped at will. One module a family; all speak the language of `verdict`. Arrays
have leading dimensions [...] for as many rollouts as one likes. No data means no verdict.
"""

from serinus.core.sequential.arms import ArmsTest
from serinus.core.sequential.betting import HedgedCapital
from serinus.core.sequential.learned import LearnedTest
from serinus.core.sequential.means import BernsteinMixture, PlugInBernstein, Range, Sums
from serinus.core.sequential.mixture import Prior
from serinus.core.sequential.multinomial import ExpectedTest, smoothed
from serinus.core.sequential.quantiles import QuantileTest
from serinus.core.sequential.rate_ratio import HARM_PRIOR, SAFE_PRIOR, Counts, RateTest, RatioSequence
from serinus.core.sequential.rates import rate_bounds, rate_log_e
from serinus.core.sequential.sample_ratio import SampleRatioTest
from serinus.core.sequential.two_sample import CloseTest, TwoSampleTest
from serinus.core.sequential.verdict import (
    AlphaShare,
    Bounds,
    Verdict,
    decide,
    decide_by_evidence,
    divide_alpha,
    judge,
    threshold,
)

__all__ = [
    "AlphaShare",
    "ArmsTest",
    "BernsteinMixture",
    "Bounds",
    "CloseTest",
    "Counts",
    "ExpectedTest",
    "HARM_PRIOR",
    "HedgedCapital",
    "LearnedTest",
    "PlugInBernstein",
    "Prior",
    "QuantileTest",
    "Range",
    "RateTest",
    "RatioSequence",
    "SAFE_PRIOR",
    "SampleRatioTest",
    "Sums",
    "TwoSampleTest",
    "Verdict",
    "decide",
    "decide_by_evidence",
    "divide_alpha",
    "judge",
    "rate_bounds",
    "rate_log_e",
    "smoothed",
    "threshold",
]
