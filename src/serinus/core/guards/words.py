"""How guards say numbers: one sentence for a human, in the metric's unit, from figures that may not be there yet."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import NamedTuple

import numpy as np

from serinus.core.guards.reading import Evidences, Word
from serinus.core.sequential import AlphaShare, Verdict, decide_by_evidence, threshold

_WORDS: dict[int, Word] = {Verdict.SAFE: "safe", Verdict.UNDECIDED: "undecided", Verdict.HARM: "harm"}


class Judgement(NamedTuple):
    """What two log e-values of shape () amount to: a verdict, and each as a share of what is needed."""

    verdict: Word
    harm_evidence: float
    safe_evidence: float


def judgement(evidences: Evidences, share: AlphaShare) -> Judgement:
    """The verdict, exactly as `decide_by_evidence` gives it."""
    code = int(decide_by_evidence(np.asarray(evidences.harm), np.asarray(evidences.safe), share))
    harm, safe = float(evidences.harm) / threshold(share.harm), float(evidences.safe) / threshold(share.safe)
    return Judgement(_WORDS[code], harm if isfinite(harm) else 0.0, safe if isfinite(safe) else 0.0)


def known(value: float) -> float | None:
    """A number, or None where it is infinite or not one."""
    number = float(value)
    return number if isfinite(number) else None


def percent(share: float) -> str:
    """`2.1 %`."""
    return f"{points(share)} %"


def points(share: float) -> str:
    """A share in hundredths, without the unit; never minus nothing."""
    return f"{round(100 * share, 4) + 0.0:.3g}"


def plain(value: float) -> str:
    """A number to three digits; what is as good as nothing is 0."""
    return f"{round(value, 6) + 0.0:.3g}"


def seconds(value: float) -> str:
    """`250 ms`, `1.5 s`."""
    return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.4g} s"


def count(value: float) -> str:
    """`23,400`."""
    return f"{value:,.0f}"


def beside(low: float | None, high: float | None, size: Callable[[float], str], unit: str = "") -> str:
    """Where a difference lies: `1.2 to 1.9 points above`, `0.3 points below to 0.4 above`."""
    if low is None and high is None:
        return "not bounded yet beside"
    if low is None or high is None:
        return _one_sided(low, high, size, unit)
    if low >= 0:
        return f"{size(low)} to {size(high)}{unit} above"
    if high <= 0:
        return f"{size(-high)} to {size(-low)}{unit} below"
    return f"{size(-low)}{unit} below to {size(high)} above"


def _one_sided(low: float | None, high: float | None, size: Callable[[float], str], unit: str) -> str:
    if low is not None:
        return f"at least {size(low)}{unit} above" if low >= 0 else f"at most {size(-low)}{unit} below"
    assert high is not None
    return f"at most {size(high)}{unit} above" if high >= 0 else f"at least {size(-high)}{unit} below"


def nothing(name: str, what: str, canary: float, stable: float) -> str | None:
    """The sentence of a guard that has nothing to compare, or None where it has."""
    missing = [who for who, has in (("canary", canary), ("stable version", stable)) if not has > 0]
    if not missing:
        return None
    return f"{name}: no {what} counted of the {' and the '.join(missing)} yet: undecided"
