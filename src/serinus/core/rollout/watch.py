"""Adds what was seen since the last look to the tests of a stage, and asks the guards."""

from __future__ import annotations

from dataclasses import dataclass

from serinus.core.errors import InvalidInput
from serinus.core.evidence import Interval, Snapshot, Unusable, between
from serinus.core.guards.panel import Panel, States
from serinus.core.guards.quality import quality_readings
from serinus.core.guards.reading import Reading
from serinus.core.rollout.stages import shares
from serinus.core.rollout.state import RolloutState, Situation
from serinus.core.spec.rollout import Rollout

_SICK = {
    "errors": "the stable version itself errs too often, and the canary has not been shown to err less",
    "features": "the stable version itself lacks too many features, and the canary has not been shown to lack fewer",
}


@dataclass(frozen=True)
class Seen:
    """What the guards say; `problems` tell why the last look added nothing, `sick` why the stable version is no
    measure at present."""

    readings: tuple[Reading, ...] = ()
    problems: tuple[str, ...] = ()
    sick: tuple[str, ...] = ()


def watch(rollout: Rollout, state: RolloutState, situation: Situation) -> tuple[Seen, RolloutState]:
    """What is to be said after this look, and the state with the tests so far."""
    if state.phase not in ("shadow", "step", "provisional"):
        return Seen(), state
    quality = quality_readings(rollout, situation.quality)
    if state.phase == "provisional":
        # It answers everything: there is no concurrent traffic to compare with, only outcomes.
        return Seen(readings=quality), state.model_copy(update={"readings": quality})
    state, problems = _continued(rollout, state)
    state, found = _compare(state, situation)
    if isinstance(found, Interval):
        state = _add(rollout, state, found)
    else:
        problems = (*problems, found.reason)
    panel = _panel(rollout, state)
    states = panel.unpack(state.tests) if state.tests is not None else panel.start()
    readings = (*panel.readings(states), *quality)
    return Seen(readings, problems, _sick(panel, states)), state.model_copy(update={"readings": readings})


def _continued(rollout: Rollout, state: RolloutState) -> tuple[RolloutState, tuple[str, ...]]:
    """The state, without its tests where they are none of ours: a release before this one may have kept others."""
    if state.tests is None:
        return state, ()
    try:
        _panel(rollout, state).unpack(state.tests)
    except InvalidInput as error:
        return state.model_copy(update={"tests": None}), (f"this stage's tests begin anew: {error}",)
    return state, ()


def _compare(state: RolloutState, situation: Situation) -> tuple[RolloutState, Interval | Unusable]:
    """What happened since the baseline, and the state with the baseline for the next look."""
    assert state.canary is not None
    snapshot, before = situation.traffic, state.baseline
    if not situation.applied:
        # Traffic of other shares than those that were decided is no evidence on them.
        return _from(state, None), Unusable(reason="the shares that were decided are not in force yet")
    if snapshot is None:
        return state, Unusable(reason="there is no evidence on the traffic")
    if snapshot.missing:
        # Passed over: the next whole totals will cover the time.
        return state, Unusable(reason=f"evidence is incomplete: {'; '.join(snapshot.missing)}")
    assert state.at is not None
    if snapshot.at > state.at:
        # Taken before the clock was set back. As a baseline it would make all that follows look old.
        return state, Unusable(reason="the evidence is of a time that has not come yet")
    if before is None:
        return _from(state, snapshot), Unusable(reason="the stage has just begun")
    if snapshot.at <= before.at:
        return state, Unusable(reason="there is no newer evidence on the traffic")
    roles = (state.canary.version, state.stable)
    found = between(before, snapshot, roles, shadow=state.phase == "shadow")
    # After a fall of a counter nobody knows what was lost, so comparing begins anew.
    return _from(state, snapshot), found


def _from(state: RolloutState, baseline: Snapshot | None) -> RolloutState:
    return state.model_copy(update={"baseline": baseline})


def _add(rollout: Rollout, state: RolloutState, interval: Interval) -> RolloutState:
    if state.tests is None:
        if not interval.canary.requests and not interval.stable.requests:
            return state  # histograms show their buckets once something is in them
        edges = interval.stable.latency_edges or interval.canary.latency_edges
        state = state.model_copy(update={"edges": edges})
    panel = _panel(rollout, state)
    states = panel.unpack(state.tests) if state.tests is not None else panel.start()
    weight = shares(rollout, state).weight / 100
    states = panel.update(states, panel.traffic(interval, weight))
    requests = state.requests + interval.canary.requests
    return state.model_copy(update={"tests": panel.pack(states), "requests": requests})


def _sick(panel: Panel, states: States) -> tuple[str, ...]:
    """A canary that only looks well beside a sick stable version has not earned anything."""
    sick = (name for name, health in panel.health(states).items() if health.stable_sick and not health.canary_well)
    return tuple(_SICK[name] for name in sick)


def _panel(rollout: Rollout, state: RolloutState) -> Panel:
    assert state.canary is not None
    expected = state.canary.expected or None
    return Panel.of(rollout, shadow=state.phase == "shadow", expected=expected, latency_edges=state.edges)
