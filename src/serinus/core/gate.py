"""One verdict on a candidate, with reasons."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from serinus.core.evaluation import Difference, Scorecard
from serinus.core.spec.training import Gate


class Reason(BaseModel):
    """One rule's answer in words, with the difference it was judged on."""

    model_config = ConfigDict(frozen=True)

    rule: str
    passed: bool
    text: str
    difference: Difference


class GateVerdict(BaseModel):
    """Whether a candidate may be registered as a champion or challenger, and why."""

    model_config = ConfigDict(frozen=True)

    passed: bool
    reasons: tuple[Reason, ...]


def judge(card: Scorecard, gate: Gate) -> GateVerdict:
    """Pass a candidate that is better than the baseline and not worse than the champion, both beyond noise.

    Better: the upper bound of the difference in loss is below zero. Not worse: the upper bound is at most
    `gate.champion_tolerance`, a non-inferiority margin, so that too little data refuses instead of passing.

    Raises:
        ValueError: the scorecard lacks a comparison that a rule needs.
    """
    reasons = [_better_than_baseline(_difference(card, card.baseline.name))]
    if card.champion is not None:
        reasons.append(_not_worse_than_champion(_difference(card, card.champion.name), gate.champion_tolerance))
    return GateVerdict(passed=all(reason.passed for reason in reasons), reasons=tuple(reasons))


def _difference(card: Scorecard, against: str) -> Difference:
    difference = card.against(against)
    if difference is None:
        raise ValueError(f"the scorecard has no comparison against {against}")
    return difference


def _better_than_baseline(difference: Difference) -> Reason:
    passed = difference.high < 0
    verdict = "better than the baseline beyond noise" if passed else "not shown to be better than the baseline"
    return Reason(rule="better-than-baseline", passed=passed, text=_words(verdict, difference), difference=difference)


def _not_worse_than_champion(difference: Difference, tolerance: float) -> Reason:
    passed = difference.high <= tolerance
    if passed:
        verdict = f"not worse than the champion by more than {tolerance:g}"
    elif difference.low > tolerance:
        verdict = f"worse than the champion by more than {tolerance:g}"
    else:
        verdict = f"not shown to be within {tolerance:g} of the champion"
    return Reason(
        rule="not-worse-than-champion", passed=passed, text=_words(verdict, difference), difference=difference
    )


def _words(verdict: str, difference: Difference) -> str:
    return (
        f"{verdict}: {difference.metric} {difference.value:+.5f} "
        f"({difference.confidence:.0%} interval {difference.low:+.5f} to {difference.high:+.5f}, negative is better)"
    )
