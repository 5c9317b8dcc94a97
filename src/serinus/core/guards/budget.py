"""How the error budget `rollout.alpha` is divided, so that the whole rollout keeps its promise.

Two promises of half of alpha each, whatever the number of looks:

- *No false harm.* Every guard that can say harm gets an equal part. Guards on traffic start afresh in each stage with a
  canary beside a stable version (the shadow and the steps; the sample ratio in the steps only) and divide their part
  over these starts. Guards on quality run through the whole rollout, its confirmation included: one start. By the union
  bound P(any guard ever says harm of a canary within every tolerance) is at most alpha / 2, however guards depend on
  each other.
- *No false step forward.* A step is taken when *every* blocking guard says safe. If a canary is beyond the margin of
  one of them, the step needs a false *safe* of that very guard (intersection-union), so each guard may use the whole
  of a stage's part, and only the stages divide alpha / 2. That covers blocking guards only: one that does not block
  holds nothing back.
"""

from __future__ import annotations

from serinus.core.sequential import AlphaShare, divide_alpha
from serinus.core.spec.rollout import Rollout


def starts(rollout: Rollout) -> dict[str, int]:
    """Every enabled guard that can say harm, and how many times it starts afresh in a whole rollout."""
    guards, steps = rollout.guards, len(rollout.steps)
    stages = steps + (rollout.shadow is not None)
    enabled = {
        "errors": (guards.errors.enabled, stages),
        "slow": (guards.slow.enabled, stages),
        "latency": (guards.latency.enabled, stages),
        "features": (guards.features.enabled, stages),
        "predictions": (guards.predictions.enabled, stages),
        "expected": (guards.predictions.enabled, stages),
        **{query.name: (query.enabled, stages) for query in guards.queries},
        "sample-ratio": (guards.sample_ratio.enabled, steps),
        "quality": (guards.quality.enabled, 1),
        "estimate": (estimates(rollout), 1),
    }
    return {name: times for name, (on, times) in enabled.items() if on}


def estimates(rollout: Rollout) -> bool:
    """Whether quality is estimated before outcomes are known.

    Not where predictions change outcomes: then a calibrated probability says nothing of what would have happened had
    the other version answered.
    """
    quality = rollout.guards.quality
    return quality.enabled and quality.estimated and not quality.predictions_change_outcomes


def shares(rollout: Rollout) -> dict[str, AlphaShare]:
    """What each enabled guard may spend at each of its starts."""
    times = starts(rollout)
    if not times:
        return {}
    guards = dict.fromkeys(times, 1.0)
    split = {
        number: divide_alpha(rollout.alpha, guards, steps=number, all_must_be_safe=True)
        for number in {*times.values(), rollout.stages}
    }
    safe = split[rollout.stages]
    return {name: AlphaShare(split[number][name].harm, safe[name].safe) for name, number in times.items()}
