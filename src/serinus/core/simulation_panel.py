"""What a panel says of thousands of rollouts, without computing what cannot change it.

The verdicts are those of `Panel.codes` (a test holds them together). Two guards are dear and hardly ever say harm, so
each is first asked for a bound of its evidence that costs little; and whether a step may be taken needs no more than
whether every blocking guard says safe.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serinus.core.guards.latency import LatencyComparison
from serinus.core.guards.panel import Panel, States
from serinus.core.guards.predictions import ExpectedPredictions
from serinus.core.guards.reading import Guard, State
from serinus.core.sequential import AlphaShare, Verdict, decide_by_evidence, threshold

Bools = NDArray[np.bool_]


def verdicts(panel: Panel, states: States) -> tuple[Bools, Bools]:
    """Which guards say harm, [R, G], and whether all blocking guards say safe, [R]; states have shape [R]."""
    harm, safe = [], []
    for guard, state, share in zip(panel.guards, states, panel.shares, strict=True):
        if guard.blocking or not isinstance(guard, LatencyComparison | ExpectedPredictions):
            evidences = guard.evidences(state)
            codes = decide_by_evidence(evidences.harm, evidences.safe, share)
            harm.append(codes == Verdict.HARM)
            safe.append((codes == Verdict.SAFE) if guard.blocking else np.ones_like(harm[-1]))
        else:
            harm.append(_harmful(guard, state, share))
            safe.append(np.ones_like(harm[-1]))
    return np.stack(harm, axis=-1), np.stack(safe, axis=-1).all(axis=-1)


def _harmful(guard: LatencyComparison | ExpectedPredictions, state: State, share: AlphaShare) -> Bools:
    """Whether the guard says harm: asked in full only where it might."""
    if isinstance(guard, LatencyComparison):
        most = guard.test.most(Verdict.HARM, state.canary, state.stable, guard.tolerance)
        might = most >= threshold(share.harm)
    else:
        # Inside the tolerance the likeliest distribution is the observed one, and no mixture is likelier.
        rows = state.sum(axis=-1, keepdims=True)
        apart = np.abs(state / np.maximum(rows, 1.0) - np.array(guard.test.expected)).sum(axis=-1) / 2
        might = (apart > guard.tolerance * (1 - 1e-9)) & (rows[..., 0] > 0)
    harm = np.zeros(might.shape, dtype=np.bool_)
    if might.any():
        harm[might] = _asked(guard, take(state, might), share)
    return harm


def _asked(guard: Guard, state: State, share: AlphaShare) -> Bools:
    evidences = guard.evidences(state)
    return np.asarray(decide_by_evidence(evidences.harm, evidences.safe, share) == Verdict.HARM)


def take(states: Any, which: Any) -> Any:
    """Some rollouts of nested tuples of arrays."""
    if isinstance(states, tuple):
        parts = [take(each, which) for each in states]
        return type(states)(*parts) if hasattr(states, "_fields") else tuple(parts)
    return states[which]
