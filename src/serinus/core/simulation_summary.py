"""What a policy's simulation is asked: the cases that everyone has, and how often and how soon each one ends how."""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from serinus.core.evidence import Frozen
from serinus.core.sequential.verdict import Floats
from serinus.core.simulation import Outcomes, Result
from serinus.core.simulation_traffic import Change, Incident, Scenario


class Spread(Frozen):
    """A quantity over rollouts: the middle one, and what nine in ten stay below."""

    median: float
    p90: float


class Summary(Frozen):
    """How a scenario's rollouts ended, as shares of all, and what it took.

    `caught` are those that a guard stopped: `rolled_back` or `paused` before the promotion, `undone` after it.
    `promoted` are the others that got all traffic. `guards` says which guard stopped how many. `requests` (that the
    canary answered) and `seconds` are of the caught, `promotion_seconds` of the promoted until they got all traffic
    and were confirmed or kept.
    """

    scenario: str
    bad: bool
    rollouts: int
    rolled_back: float
    undone: float
    paused: float
    inconclusive: float
    promoted: float
    guards: dict[str, float]
    requests: Spread | None
    seconds: Spread | None
    promotion_seconds: Spread | None

    @property
    def caught(self) -> float:
        """The share that a guard stopped."""
        return self.rolled_back + self.undone + self.paused


def default_scenarios() -> tuple[Scenario, ...]:
    """A healthy canary under all that happens to services, and canaries that are bad in every way guards know."""
    return (
        Scenario(name="healthy"),
        Scenario(name="healthy, incident on both", incident=Incident()),
        Scenario(name="errors x2", change=Change(errors=2), bad=True),
        Scenario(name="errors x4", change=Change(errors=4), bad=True),
        Scenario(name="errors x10", change=Change(errors=10), bad=True),
        Scenario(name="p99 latency +20 %", change=Change(latency_p99=1.2), bad=True),
        Scenario(name="p99 latency x2", change=Change(latency_p99=2), bad=True),
        Scenario(name="feature problems x3", change=Change(problems=3), bad=True),
        Scenario(name="predictions shifted", change=Change(logit=1.0), bad=True),
        Scenario(name="worse by labels only", change=Change(quality=0.02), bad=True),
        Scenario(name="split wrong by half", change=Change(routed=1.5), bad=True),
        Scenario(name="traffic stops", stops=timedelta(minutes=10)),
        Scenario(name="no metrics", metrics=False),
    )


def summarise(scenario: Scenario, outcomes: Outcomes) -> Summary:
    """Shares and spreads of a scenario's outcomes."""
    result, size = outcomes.result, len(outcomes.result)

    def share(*results: Result) -> float:
        return float(np.isin(result, results).mean())

    stopped, kept = outcomes.guard >= 0, np.isin(result, (Result.KEPT, Result.CONFIRMED))
    counts = np.bincount(outcomes.guard[stopped], minlength=len(outcomes.guards))
    return Summary(
        scenario=scenario.name,
        bad=scenario.bad,
        rollouts=size,
        rolled_back=share(Result.ROLLED_BACK),
        undone=share(Result.UNDONE),
        paused=share(Result.PAUSED),
        inconclusive=share(Result.INCONCLUSIVE),
        promoted=share(Result.KEPT, Result.CONFIRMED),
        guards={name: count / size for name, count in zip(outcomes.guards, counts.tolist(), strict=True) if count},
        requests=_spread(outcomes.served[stopped]),
        seconds=_spread(outcomes.seconds[stopped]),
        promotion_seconds=_spread(outcomes.seconds[kept]),
    )


def _spread(values: Floats) -> Spread | None:
    if not len(values):
        return None
    median, high = np.quantile(values, [0.5, 0.9])
    return Spread(median=float(median), p90=float(high))
