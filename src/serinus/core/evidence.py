"""What is known of canary and stable version, as cumulative counts, and whether all of it is there.

Sources report totals since they began to count, never differences: a snapshot that comes twice, late or out of order
then changes nothing, and what happened between two looks is their difference. Where a difference cannot be trusted, for
a counter fell or a part was not to be had, there is none, with the reason: it is neither good news nor bad.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Arm(Frozen):
    """Totals of one version's traffic.

    `requests` are the attempts that the front door made, those without any answer included; `errors` those with 5xx or
    no answer. `latency` counts answered requests by the buckets between `latency_edges` (seconds), the last one for
    those above all edges. `rows` reached the model or were refused for their features; `problems` of them lacked
    usable values, where a row with one of its three views missing counts a third. `predictions` counts probabilities
    by the bins of `core.profile`. `queries` are numerator and denominator of the user's own guards. `routed` are the
    requests that the split gave to the version, without those that asked for it by name or fell back on it.
    """

    requests: Count = 0
    errors: Count = 0
    latency_edges: tuple[float, ...] = ()
    latency: tuple[Count, ...] = ()
    rows: Count = 0
    problems: Count = 0
    predictions: tuple[Count, ...] = ()
    queries: dict[str, tuple[Count, Count]] = {}
    routed: Count = 0


class Snapshot(Frozen):
    """Totals of each version at one moment. `live` is what users were answered with, `shadow` copies.

    `epoch` names the counting: totals of different epochs cannot be compared. `apart` is how far from each other the
    moments may lie at which parts of it were counted, as where every pod is scraped at a moment of its own. `missing`
    says what could not be had, in words; a snapshot that misses anything supports no conclusion.
    """

    at: datetime
    source: Literal["prometheus", "scrape"]
    epoch: str = ""
    apart: timedelta = timedelta(0)
    live: dict[int, Arm]
    shadow: dict[int, Arm] = {}
    missing: tuple[str, ...] = ()

    def arm(self, version: int, *, shadow: bool = False) -> Arm:
        """A version's totals; nothing counted yet is nothing."""
        return (self.shadow if shadow else self.live).get(version, Arm())


class LossSums(Frozen):
    """Rows, sum and sum of squares of losses or of differences of losses."""

    rows: int = 0
    total: float = 0.0
    squares: float = 0.0


class ArmLosses(Frozen):
    """Losses of each arm's own rows that were served in `[since, until)`, all outcomes of which are known by now."""

    since: datetime
    until: datetime
    canary: LossSums
    stable: LossSums


class QualityEvidence(Frozen):
    """How well canary and stable version predict what they were both asked, since the rollout began.

    `labelled` sums canary's loss minus stable's over every logged row whose outcome is known, `estimated` the same
    expected difference over every logged row, whoever answered it. `arms` holds stretches of serving time in order,
    each once its outcomes are in, for predictions that change outcomes. `missing` as in `Snapshot`.
    """

    at: datetime
    metric: Literal["log_loss", "brier"]
    labelled: LossSums = LossSums()
    estimated: LossSums = LossSums()
    arms: tuple[ArmLosses, ...] = ()
    missing: tuple[str, ...] = ()


class Interval(Frozen):
    """What canary and stable version did between two snapshots: differences of totals, of concurrent traffic.

    Concurrent but for `apart`: one version's counts may begin and end so much earlier than the other's.
    """

    since: datetime
    until: datetime
    apart: timedelta = timedelta(0)
    canary: Arm
    stable: Arm


class Unusable(Frozen):
    """Why nothing can be concluded from two snapshots."""

    reason: str


def between(before: Snapshot, after: Snapshot, roles: tuple[int, int], *, shadow: bool) -> Interval | Unusable:
    """What the canary (its shadow traffic with `shadow`) and the stable version did between two snapshots.

    Args:
        before: the earlier one.
        after: the later one.
        roles: the canary's and the stable version's number.
        shadow: whether the canary got copies.
    """
    problems = before.missing or after.missing
    if problems:
        return Unusable(reason=f"evidence is incomplete: {'; '.join(problems)}")
    if (before.source, before.epoch) != (after.source, after.epoch):
        return Unusable(reason="counting began anew")
    canary, stable = roles
    ours = _minus(after.arm(canary, shadow=shadow), before.arm(canary, shadow=shadow))
    theirs = _minus(after.arm(stable), before.arm(stable))
    if ours is None or theirs is None:
        return Unusable(reason=f"a counter of version {canary if ours is None else stable} fell, or changed its bins")
    apart = max(before.apart, after.apart)
    return Interval(since=before.at, until=after.at, apart=apart, canary=ours, stable=theirs)


def _minus(after: Arm, before: Arm) -> Arm | None:
    """The difference of totals; None where it is none: a total fell, or counts are of other bins."""
    if before == Arm():
        return after
    if before.latency_edges and before.latency_edges != after.latency_edges:
        return None
    values: dict[str, object] = {"latency_edges": after.latency_edges}
    for name in ("requests", "errors", "rows", "problems", "routed"):
        values[name] = getattr(after, name) - getattr(before, name)
    for name in ("latency", "predictions"):
        values[name] = _each(getattr(after, name), getattr(before, name))
    values["queries"] = _queries(after.queries, before.queries)
    return Arm.model_validate(values) if _sound(values) else None


def _each(after: tuple[float, ...], before: tuple[float, ...]) -> tuple[float, ...] | None:
    if not before:
        return after
    return tuple(x - y for x, y in zip(after, before, strict=True)) if len(after) == len(before) else None


def _queries(
    after: Mapping[str, tuple[float, float]], before: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]] | None:
    if not before.keys() <= after.keys():
        return None
    pairs = ((name, pair, before.get(name, (0.0, 0.0))) for name, pair in after.items())
    return {name: (pair[0] - was[0], pair[1] - was[1]) for name, pair, was in pairs}


def _sound(values: Mapping[str, object]) -> bool:
    """Whether no count is below zero or without its bins."""
    for value in values.values():
        if value is None:
            return False
        if isinstance(value, int | float) and value < 0:
            return False
        if isinstance(value, tuple) and any(each < 0 for each in value):
            return False
        if isinstance(value, dict) and any(part < 0 for pair in value.values() for part in pair):
            return False
    return True
