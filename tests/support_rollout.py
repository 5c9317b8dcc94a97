"""Synthetic evidence for rollouts: totals that grow as traffic of a given kind would make them grow."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from serinus.core.evidence import Arm, LossSums, QualityEvidence, Snapshot
from serinus.core.profile import PREDICTION_EDGES
from serinus.core.rollout import Candidate, Command, Decision, RolloutState, Shares, Situation, decide
from serinus.core.spec.rollout import Pace, Rollout

START = datetime(2026, 1, 5, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
EDGES = tuple(float(edge) for edge in np.geomspace(0.001, 5.0, 24))
BINS = len(PREDICTION_EDGES) + 2
PLAIN = Rollout(
    confirmation=None,
    pace=Pace(minimum_duration=2 * MINUTE, minimum_requests=50, maximum_duration=timedelta(hours=6)),
)
"""A policy that decides soon, and waits for no outcomes."""
THREE = Candidate(version=3, digest="sha256:three")


@dataclass(frozen=True)
class Behaviour:
    """What one version does: shares of requests that err, and of rows with problems; seconds, median; the middle of
    its predictions, as a bin."""

    errors: float = 0.005
    seconds: float = 0.01
    problems: float = 0.001
    prediction: int = 6


WELL = Behaviour()


@dataclass
class World:
    """Traffic of two versions, and the clock. `rate` is in requests a minute."""

    rollout: Rollout
    canary: Behaviour = WELL
    stable: Behaviour = WELL
    rate: int = 1000
    seed: int = 0
    state: RolloutState = field(default_factory=lambda: RolloutState(stable=1))
    now: datetime = START
    target: Candidate = field(default_factory=lambda: Candidate(version=2, digest="sha256:two"))
    shares: Shares = field(default_factory=lambda: Shares(stable=1))
    missing: tuple[str, ...] = ()
    ready: bool = True
    quality: QualityEvidence | None = None
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.live: dict[int, Arm] = {}
        self.shadow: dict[int, Arm] = {}

    def minute(self, **given: object) -> Decision:
        """A minute of traffic under the shares in force, and a look; what is decided is in force at once."""
        self.now += MINUTE
        self._traffic()
        situation = Situation(
            target=self.target,
            applied=True,
            ready={self.state.stable: True, self.target.version: self.ready},
            traffic=Snapshot(
                at=self.now, source="scrape", live=dict(self.live), shadow=dict(self.shadow), missing=self.missing
            ),
            quality=self.quality,
        ).model_copy(update=given)
        decision = decide(self.rollout, self.state, situation, self.now)
        self.state, self.shares = decision.state, decision.shares
        self.decisions.append(decision)
        return decision

    def until(self, action: str, minutes: int = 3000) -> Decision:
        """Minutes until something is decided."""
        for _ in range(minutes):
            decision = self.minute()
            if decision.action == action:
                return decision
        raise AssertionError(f"no {action} in {minutes} minutes: {self.decisions[-1].reasons}")

    def actions(self) -> list[str]:
        """What was decided but to hold, in order."""
        return [each.action for each in self.decisions if each.action != "hold"]

    def _traffic(self) -> None:
        canary = self.shares.canary
        ours = int(self.random.binomial(self.rate, self.shares.weight / 100)) if canary is not None else 0
        self._grow(self.live, self.state.stable, self.stable, self.rate - ours)
        if canary is not None and ours:
            self._grow(self.live, canary, self.canary, ours)
        if canary is not None and self.shares.shadow:
            copies = int(self.random.binomial(self.rate, self.shares.shadow / 100))
            self._grow(self.shadow, canary, self.canary, copies)

    def _grow(self, totals: dict[int, Arm], version: int, kind: Behaviour, requests: int) -> None:
        before = totals.get(version, Arm())
        errors = int(self.random.binomial(requests, kind.errors))
        seconds = kind.seconds * np.exp(0.4 * self.random.standard_normal(requests - errors))
        latency = np.bincount(np.searchsorted(EDGES, seconds, side="left"), minlength=len(EDGES) + 1)
        drawn = self.random.binomial(BINS - 2, kind.prediction / (BINS - 2), requests - errors)
        predictions = np.bincount(1 + np.minimum(drawn, BINS - 2), minlength=BINS)
        totals[version] = replace_arm(
            before,
            requests=before.requests + requests,
            errors=before.errors + errors,
            latency_edges=EDGES,
            latency=tuple(np.array(before.latency or np.zeros(len(EDGES) + 1)) + latency),
            rows=before.rows + requests - errors,
            problems=before.problems + int(self.random.binomial(requests - errors, kind.problems)),
            predictions=tuple(np.array(before.predictions or np.zeros(BINS)) + predictions),
            routed=before.routed + requests,
        )


def replace_arm(arm: Arm, **changes: object) -> Arm:
    """An arm with other totals, validated."""
    return Arm.model_validate({**arm.model_dump(), **changes})


def labelled(rows: int, difference: float, at: datetime = START) -> QualityEvidence:
    """Outcomes of `rows` rows on which the canary's loss is larger by `difference` on average, give or take 0.2."""
    sums = LossSums(rows=rows, total=rows * difference, squares=rows * (difference**2 + 0.04))
    return QualityEvidence(at=at, metric="log_loss", labelled=sums)


def command(verb: str, **details: object) -> Command:
    """What somebody asks for."""
    given = {"id": f"{verb}-1", "verb": verb, "who": "ada", "why": "because", "at": START, **details}
    return Command.model_validate(given)
