"""The cases: what may happen to a rollout, at the issue's setting unless the name says otherwise."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from serinus.core.simulation_traffic import Change, Incident, Scenario, Workload
from serinus.core.spec.rollout import Rollout

# 1,000 requests a minute, half a percent of errors.
SERVICE = Workload(rate=1000 / 60, label_delay=timedelta(hours=6))
POLICY = Rollout()
RATES = (0.1, 1.0, 10.0, 100.0, 1000.0)


class Case(NamedTuple):
    """A case. `look` is seconds between looks, `growth` how they grow apart; `peers` whether peers are asked too."""

    name: str
    scenario: Scenario
    workload: Workload = SERVICE
    look: float = 60.0
    growth: float = 0.1
    peers: bool = True

    @property
    def policy(self) -> Rollout:
        if self.look == POLICY.interval.total_seconds():
            return POLICY
        return POLICY.model_copy(update={"interval": timedelta(seconds=self.look)})


HEALTHY = Scenario(name="healthy")
X4 = Scenario(name="errors x4", change=Change(errors=4), bad=True)


def cases() -> tuple[Case, ...]:
    """Every case."""
    daily = SERVICE.model_copy(update={"daily": 0.8})
    bad = {
        "errors x2": Change(errors=2),
        "errors x4": Change(errors=4),
        "errors x10": Change(errors=10),
        "p99 +20 %": Change(latency_p99=1.2),
        "prediction shift": Change(logit=1.0),
        "quality by labels": Change(quality=0.02),
        "sample ratio": Change(routed=1.5),
    }
    exact = ("errors x2", "errors x4", "errors x10")
    return (
        Case("healthy", HEALTHY),
        Case("healthy, incident on both", Scenario(name="incident", incident=Incident())),
        *(
            Case(name, Scenario(name=name, change=change, bad=True), growth=0.0 if name in exact else 0.1)
            for name, change in bad.items()
        ),
        Case("traffic stops", Scenario(name="stops", stops=timedelta(minutes=3))),
        Case("no metrics", Scenario(name="no metrics", metrics=False)),
        Case("healthy, daily cycle", HEALTHY, daily),
        Case("errors x4, daily cycle", X4, daily),
        *(_at(rate, scenario) for rate in RATES for scenario in (HEALTHY, X4)),
        Case("healthy, a look a minute", HEALTHY, growth=0.0, peers=False),
        Case("healthy, a look in 15 s", HEALTHY, look=15.0, growth=0.0, peers=False),
        Case("healthy, a look in 10 min", HEALTHY, look=600.0, growth=0.0, peers=False),
    )


def _at(rate: float, scenario: Scenario) -> Case:
    return Case(f"{scenario.name}, {rate:g}/s", scenario, SERVICE.model_copy(update={"rate": rate}))


__all__ = ["Case", "POLICY", "SERVICE", "cases"]
