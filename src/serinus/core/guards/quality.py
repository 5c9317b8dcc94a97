"""Guards on quality: does the canary predict worse than the stable version, by outcomes or by estimate?

Not driven by traffic but by `QualityEvidence`, whose sums cover the whole rollout. Two designs, of which the spec's
`predictions_change_outcomes` chooses:

- *paired*, the usual one. Served features are logged, so both versions are scored on *every* logged row, whoever
  answered it, and the mean of canary's loss minus stable's is bounded row by row. What makes a row hard is in both
  losses and cancels, and all traffic counts even at 1 % weight.
- *arms*, where a prediction changes what happens (an offer is made, a payment is stopped). A row then tells nothing of
  the version that did not answer it. Only the rows that each version answered itself are compared, as routing drew
  them at random: the canary's small share sets the pace, and the spread of the losses does not cancel.

`estimate` is the paired difference before outcomes are known, each row's expected loss under a calibrated probability.
It says harm only: what it rests on, the calibration, cannot be checked until the outcomes are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np

from serinus.core.errors import InvalidInput
from serinus.core.evidence import ArmLosses, LossSums, QualityEvidence
from serinus.core.guards.budget import estimates, shares
from serinus.core.guards.reading import Evidences, Reading
from serinus.core.guards.words import beside, count, judgement, plain
from serinus.core.sequential import AlphaShare, ArmsTest, BernsteinMixture, Bounds, Range, Sums, Verdict
from serinus.core.sequential.arms import ArmsState
from serinus.core.spec.rollout import Quality, Rollout

CLIP = 0.01
"""Log loss counts a probability as if it lay in [CLIP, 1 - CLIP]."""
LOSSES = {"log_loss": Range(-log(1 - CLIP), -log(CLIP)), "brier": Range(0.0, 1.0)}
_UNITS = {"log_loss": "log loss", "brier": "Brier score"}
# The loss of who says one half to everything. A guess only costs or saves width.
_IGNORANCE = {"log_loss": log(2), "brier": 0.25}


@dataclass(frozen=True)
class PairedQuality:
    """The mean difference of losses on the same rows; without a margin it never says safe."""

    name: str
    metric: str
    tolerance: float
    margin: float | None
    blocking: bool

    @property
    def _test(self) -> BernsteinMixture:
        width = LOSSES[self.metric].width
        return BernsteinMixture(Range(-width, width), guess=0.0)

    def evidences(self, sums: Sums) -> Evidences:
        """From cumulative sums of differences, [...]."""
        harm = self._test.log_e(sums, Verdict.HARM, self.tolerance)
        if self.margin is None:
            return Evidences(harm, np.full_like(harm, -np.inf))
        return Evidences(harm, self._test.log_e(sums, Verdict.SAFE, self.margin))

    def bounds(self, sums: Sums, share: AlphaShare) -> Bounds:
        """The mean difference, [...]."""
        return self._test.bounds(sums, share)

    def read(self, losses: LossSums, share: AlphaShare) -> Reading:
        """In words."""
        sums = Sums(losses.rows, losses.total, losses.squares)
        source = "rows with outcomes" if self.margin is not None else "rows, outcomes estimated"
        if not losses.rows:
            return undecided(self.name, self.metric, self.blocking, f"no {source} yet")
        said, bounds = judgement(self.evidences(sums), share), self.bounds(sums, share)
        low, high = float(bounds.low), float(bounds.high)
        unit = _UNITS[self.metric]
        return Reading(
            guard=self.name,
            verdict=said.verdict,
            blocking=self.blocking,
            unit=unit,
            value=losses.total / losses.rows,
            low=low,
            high=high,
            harm_above=self.tolerance,
            safe_below=self.margin,
            canary=losses.rows,
            stable=losses.rows,
            harm_evidence=said.harm_evidence,
            safe_evidence=said.safe_evidence,
            text=f"{self.name}: {unit} {_difference(losses.total / losses.rows)} stable's over the same "
            f"{count(losses.rows)} {source}; {beside(low, high, plain)}: {said.verdict}",
        )


@dataclass(frozen=True)
class ArmsQuality:
    """The difference of mean losses between the rows that each version answered itself."""

    metric: str
    tolerance: float
    margin: float
    blocking: bool
    name: str = "quality"

    @property
    def _tests(self) -> tuple[ArmsTest, ArmsTest]:
        span, guess = LOSSES[self.metric], _IGNORANCE[self.metric]
        return ArmsTest(Verdict.HARM, span, guess), ArmsTest(Verdict.SAFE, span, guess)

    def start(self, shape: tuple[int, ...] = ()) -> tuple[ArmsState, ArmsState]:
        """The state before any rows."""
        harm, safe = self._tests
        return harm.start(shape), safe.start(shape)

    def update(self, state: tuple[ArmsState, ArmsState], canary: Sums, stable: Sums) -> tuple[ArmsState, ArmsState]:
        """Add one stretch of time, all of whose outcomes are known."""
        harm, safe = self._tests
        return harm.update(state[0], canary, stable), safe.update(state[1], canary, stable)

    def evidences(self, state: tuple[ArmsState, ArmsState]) -> Evidences:
        """A difference above the tolerance; one below the margin."""
        harm, safe = self._tests
        return Evidences(harm.log_e(state[0], self.tolerance), safe.log_e(state[1], self.margin))

    def read(self, stretches: tuple[ArmLosses, ...], share: AlphaShare) -> Reading:
        """In words."""
        state = self.start()
        for each in stretches:
            state = self.update(state, _sums(each.canary), _sums(each.stable))
        ours, theirs = _all([each.canary for each in stretches]), _all([each.stable for each in stretches])
        if not ours.rows or not theirs.rows:
            which = "the canary" if not ours.rows else "the stable version"
            return undecided(self.name, self.metric, self.blocking, f"no rows that {which} answered have outcomes yet")
        said = judgement(self.evidences(state), share)
        harm, safe = self._tests
        low, high = float(harm.bound(state[0], share.harm)), float(safe.bound(state[1], share.safe))
        mean, other = ours.total / ours.rows, theirs.total / theirs.rows
        unit = _UNITS[self.metric]
        return Reading(
            guard=self.name,
            verdict=said.verdict,
            blocking=self.blocking,
            unit=unit,
            value=mean,
            reference=other,
            low=low,
            high=high,
            harm_above=self.tolerance,
            safe_below=self.margin,
            canary=ours.rows,
            stable=theirs.rows,
            harm_evidence=said.harm_evidence,
            safe_evidence=said.safe_evidence,
            text=f"{self.name}: {unit} {plain(mean)} over {count(ours.rows)} rows that the canary answered against "
            f"{plain(other)} over {count(theirs.rows)}; {beside(low, high, plain)} stable's: {said.verdict}",
        )


def paired(spec: Quality) -> PairedQuality:
    """The guard by outcomes, on the same rows."""
    return PairedQuality("quality", spec.metric, spec.tolerance, spec.margin, spec.blocking)


def estimated(spec: Quality) -> PairedQuality:
    """The guard by estimated outcomes."""
    return PairedQuality("estimate", spec.metric, spec.estimated_tolerance, None, False)


def arms(spec: Quality) -> ArmsQuality:
    """The guard by outcomes, each version on its own rows."""
    return ArmsQuality(spec.metric, spec.tolerance, spec.margin, spec.blocking)


def quality_readings(rollout: Rollout, evidence: QualityEvidence | None) -> tuple[Reading, ...]:
    """What the enabled guards on quality say. Evidence that is absent or not whole leaves them undecided."""
    spec = rollout.guards.quality
    if not spec.enabled:
        return ()
    share = shares(rollout)
    names = ["quality", *(["estimate"] if estimates(rollout) else [])]
    problem = _problem(spec, evidence)
    if problem is not None or evidence is None:
        blocks = {"quality": spec.blocking}
        return tuple(undecided(name, spec.metric, blocks.get(name, False), str(problem)) for name in names)
    try:
        if spec.predictions_change_outcomes:
            return (arms(spec).read(evidence.arms, share["quality"]),)
        readings = {
            "quality": paired(spec).read(evidence.labelled, share["quality"]),
            **({"estimate": estimated(spec).read(evidence.estimated, share["estimate"])} if len(names) > 1 else {}),
        }
    except InvalidInput as error:
        return tuple(undecided(name, spec.metric, name == "quality" and spec.blocking, str(error)) for name in names)
    return tuple(readings[name] for name in names)


def undecided(name: str, metric: str, blocking: bool, reason: str) -> Reading:
    """A guard without evidence."""
    return Reading(
        guard=name, verdict="undecided", blocking=blocking, unit=_UNITS[metric], text=f"{name}: {reason}: undecided"
    )


def _problem(spec: Quality, evidence: QualityEvidence | None) -> str | None:
    """Why nothing can be concluded, in words."""
    if evidence is None:
        return "no losses have been computed"
    if evidence.missing:
        return f"evidence is incomplete: {'; '.join(evidence.missing)}"
    if evidence.metric != spec.metric:
        return f"losses were computed as {_UNITS[evidence.metric]}, and {_UNITS[spec.metric]} is asked for"
    return None


def _sums(losses: LossSums) -> Sums:
    return Sums(losses.rows, losses.total, losses.squares)


def _all(losses: list[LossSums]) -> LossSums:
    return LossSums(
        rows=sum(each.rows for each in losses),
        total=sum(each.total for each in losses),
        squares=sum(each.squares for each in losses),
    )


def _difference(value: float) -> str:
    return f"{plain(abs(value))} {'above' if value >= 0 else 'below'}"
