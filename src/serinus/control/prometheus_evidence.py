"""Evidence from Prometheus: totals across any number of pods, restarts and ends of pods included."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from serinus.control.arms import COUNTERS, COUNTING, DOOR_UP, Arms, Sample, added, arms
from serinus.control.evidence import held
from serinus.core.errors import EngineError
from serinus.core.evidence import Arm, Snapshot
from serinus.core.spec.rollout import VERSION_PLACEHOLDER, QueryGuard
from serinus.engines.prometheus import Growth, Prometheus, Value, quoted

_PLACEHOLDER = re.compile(re.escape(VERSION_PLACEHOLDER) + r"(?![A-Za-z0-9_])")
_FRESH_SCRAPES = 3
# The last sample before a look is hardly older, where one scrape or two were missed.
_LOOKBACK_SCRAPES = 4
# A server that has just begun knows a target only once it has scraped it. What a target counted before that must not be
# taken for what it counted since: so long, nothing is counted. It is no gap: a look may compare with this beginning.
_SETTLING_SCRAPES = 2
_KNOWN = "1d"
_NAMED_TARGETS = 3
_ASKED = "serinus_asked"
# Further back, what was known may have been thrown away, and what is counted anew cannot be told from what is not.
_LONGEST_ABSENCE = timedelta(hours=6)


@dataclass(frozen=True)
class PrometheusSource:
    """Adds up what each series grew by since the last look.

    Attributes:
        server: where it is asked.
        model: whose versions are judged.
        queries: the user's own guards.
        labels: that its metrics have besides, such as the namespace that Prometheus gave them.
        interval: between two scrapes of a predictor, as Prometheus is configured. A scrape that began may take that
            long until its samples can be seen, so evidence is as old.
    """

    server: Prometheus
    model: str
    queries: Sequence[QueryGuard] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    interval: timedelta = timedelta(seconds=15)

    def snapshot(self, versions: Sequence[int], previous: Snapshot | None, now: datetime) -> Snapshot:
        """Totals since the first look; see `EvidenceSource`."""
        at = now - self.interval
        before = previous if previous is not None and previous.source == "prometheus" else None
        if before is not None and at < before.at:
            at = before.at  # the clock was set back, or the look is a repeated one
        try:
            missing = self._gaps(at)
            totals, epoch = self._totals(versions, before, at)
        except EngineError as error:
            return held("prometheus", before, at, str(error))
        except (ValueError, KeyError, IndexError) as error:
            return held("prometheus", before, at, f"metrics in Prometheus are not those of a predictor: {error!r}")
        values, unanswered = self._queries(versions, at)
        live = {version: arm.model_copy(update={"queries": values[version]}) for version, arm in totals.live.items()}
        shadow = {
            version: arm.model_copy(update={"queries": values[version]}) for version, arm in totals.shadow.items()
        }
        return Snapshot(
            at=at,
            source="prometheus",
            epoch=epoch,
            apart=self.interval,
            live=live,
            shadow=shadow,
            missing=(*missing, *unanswered),
        )

    def _totals(self, versions: Sequence[int], before: Snapshot | None, at: datetime) -> tuple[Arms, str]:
        """Totals, and the epoch that they belong to: a new one when they cannot continue those before."""
        nothing = Arms(dict.fromkeys(versions, Arm()), dict.fromkeys(versions, Arm()))
        if before is None or not before.epoch or at - before.at > _LONGEST_ABSENCE:
            return nothing, at.isoformat()
        if before.at < self._settled(before.epoch):
            return nothing, before.epoch
        found = self.server.growth(self._selector(versions), before.at, at, _LOOKBACK_SCRAPES * self.interval)
        more = arms(_samples(found), self.model, versions)
        live = {version: added(before.arm(version), more.live[version]) for version in versions}
        shadow = {version: added(before.arm(version, shadow=True), more.shadow[version]) for version in versions}
        lost = found.unfounded and any(arm.requests for arm in before.live.values())
        if lost or None in live.values() or None in shadow.values():
            return nothing, at.isoformat()
        return Arms(
            {version: arm for version, arm in live.items() if arm is not None},
            {version: arm for version, arm in shadow.items() if arm is not None},
        ), before.epoch

    def _settled(self, epoch: str) -> datetime:
        """When every target that there was at the beginning of an epoch has been scraped."""
        return datetime.fromisoformat(epoch) + _SETTLING_SCRAPES * self.interval

    def _selector(self, versions: Sequence[int]) -> str:
        numbers = "|".join(str(version) for version in versions)
        return f'{{__name__=~"{"|".join(COUNTERS)}",version=~"{numbers}",{self._matchers}}}'

    @property
    def _matchers(self) -> str:
        return ",".join(f"{name}={quoted(value)}" for name, value in {**self.labels, "model": self.model}.items())

    def _gaps(self, at: datetime) -> list[str]:
        """What is not known of the predictors that Prometheus is to scrape."""
        ours = f"and on (job, instance) last_over_time({COUNTING}{{{self._matchers}}}[{_KNOWN}])"
        asked = {"up": f"up {ours}", "scraped": f"timestamp(up) {ours}", "door": f"{DOOR_UP}{{{self._matchers}}}"}
        found: dict[str, list[Value]] = {name: [] for name in asked}
        for each in self.server.instant(_together(asked), at):
            found[each.labels[_ASKED]].append(each)
        up, scraped, doors = found["up"], _by_target(found["scraped"]), _by_target(found["door"])
        oldest = at.timestamp() - _FRESH_SCRAPES * self.interval.total_seconds()
        if not up:
            return [f"Prometheus scrapes no predictor of {self.model}, or has ceased to"]
        down = sorted(_target(each) for each in up if each.value != 1)
        old = sorted(_target(each) for each in up if each.value == 1 and scraped.get(_target(each), 0) < oldest)
        silent = sorted(_target(each) for each in up if each.value == 1 and doors.get(_target(each)) != 1)
        told = (
            ("Prometheus cannot scrape", down),
            ("Prometheus has no recent samples of", old),
            ("the front door does not tell how many requests it sent to each version at", silent),
        )
        return [f"{words} {_listed(targets)}" for words, targets in told if targets]

    def _queries(
        self, versions: Sequence[int], at: datetime
    ) -> tuple[dict[int, dict[str, tuple[float, float]]], list[str]]:
        values: dict[int, dict[str, tuple[float, float]]] = {version: {} for version in versions}
        missing: list[str] = []
        for guard in (each for each in self.queries if each.enabled):
            for version in versions:
                try:
                    pair = (self._query(guard.numerator, version, at), self._query(guard.denominator, version, at))
                    values[version][guard.name] = pair
                except EngineError as error:
                    missing.append(f"{guard.name}: {error}")
        return values, missing

    def _query(self, expression: str, version: int, at: datetime) -> float:
        """
        Raises:
            EngineError: it is not one count.
        """
        query = _PLACEHOLDER.sub(str(version), expression)
        found = self.server.instant(query, at)
        if len(found) != 1:
            many = f"{len(found)} series; sum them up" if found else "nothing; if that means none, add `or vector(0)`"
            raise EngineError(f"{query} gives {many}")
        (value,) = (each.value for each in found)
        if not math.isfinite(value) or value < 0:
            raise EngineError(f"{query} gives {value:g}, which is no count")
        return value


def _together(asked: Mapping[str, str]) -> str:
    """Several expressions as one question; a label tells which one a value answers."""
    return " or ".join(f'label_replace({query}, "{_ASKED}", "{name}", "", "")' for name, query in asked.items())


def _samples(found: Growth) -> list[Sample]:
    return [Sample(labels["__name__"], labels, value) for labels, value in found.values]


def _target(value: Value) -> str:
    return f"{value.labels.get('job', '')} {value.labels.get('instance', '')}"


def _by_target(values: Sequence[Value]) -> dict[str, float]:
    """The lowest value of each target."""
    found: dict[str, float] = {}
    for each in values:
        found[_target(each)] = min(each.value, found.get(_target(each), math.inf))
    return found


def _listed(targets: Sequence[str]) -> str:
    more = len(targets) - _NAMED_TARGETS
    return ", ".join(targets[:_NAMED_TARGETS]) + (f" and {more} more" if more > 0 else "")
