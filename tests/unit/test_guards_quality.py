"""Quality: paired, estimated and by arms; what is missing is said; promises by simulation."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serinus.core.evidence import ArmLosses, LossSums, QualityEvidence
from serinus.core.guards.budget import shares
from serinus.core.guards.quality import LOSSES, arms, estimated, paired, quality_readings
from serinus.core.guards.reading import Reading
from serinus.core.sequential import Sums, threshold
from serinus.core.spec.rollout import Quality, Rollout
from tests.support_guards import MINUTE, T0


def spec(**quality: Any) -> Rollout:
    stages = {} if quality.get("enabled", True) else {"confirmation": None}
    return Rollout.model_validate({"alpha": quality.pop("alpha", 0.05), "guards": {"quality": quality}, **stages})


def losses(values: NDArray[np.float64]) -> LossSums:
    return LossSums(rows=len(values), total=float(values.sum()), squares=float(np.square(values).sum()))


def log_loss(probability: NDArray[np.float64], outcome: NDArray[np.bool_]) -> NDArray[np.float64]:
    clipped = np.clip(probability, 0.01, 0.99)
    return np.asarray(-np.log(np.where(outcome, clipped, 1 - clipped)))


def scored(rng: np.random.Generator, rows: int, noise: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Losses of a canary whose logits are off by `noise`, and of a stable version that knows the truth."""
    logit = rng.normal(-1.2, 1.0, rows)
    outcome = rng.random(rows) < 1 / (1 + np.exp(-logit))
    canary = 1 / (1 + np.exp(-logit - noise * rng.normal(0, 1, rows)))
    return log_loss(canary, outcome), log_loss(1 / (1 + np.exp(-logit)), outcome)


def evidence(**given: Any) -> QualityEvidence:
    return QualityEvidence.model_validate({"at": T0, "metric": "log_loss", **given})


def said(readings: tuple[Reading, ...]) -> dict[str, str]:
    return {reading.guard: reading.verdict for reading in readings}


def test_ranges_are_those_of_the_clipped_losses() -> None:
    assert LOSSES["log_loss"].width == pytest.approx(log(99))
    sure_and_wrong = log_loss(np.array([0.0, 1.0]), np.array([True, False]))
    assert sure_and_wrong == pytest.approx([LOSSES["log_loss"].high] * 2)
    assert log_loss(np.array([1.0]), np.array([True])) == pytest.approx([LOSSES["log_loss"].low])


@pytest.mark.parametrize(
    ("noise", "rows", "verdict"),
    [(1.2, 3000, "harm"), (0.0, 6000, "safe"), (0.18, 3000, "undecided")],
    ids=["worse", "same", "between"],
)
def test_paired_losses_on_the_same_rows(noise: float, rows: int, verdict: str) -> None:
    canary, stable = scored(np.random.default_rng(1), rows, noise)
    (quality, estimate) = quality_readings(spec(), evidence(labelled=losses(canary - stable)))
    assert (quality.verdict, estimate.verdict) == (verdict, "undecided")
    assert quality.value == pytest.approx(float((canary - stable).mean()))
    assert quality.low is not None
    assert quality.high is not None
    assert quality.low <= quality.value <= quality.high
    assert (quality.low >= 0) == (verdict == "harm")
    assert (quality.high < 0.01) == (verdict == "safe")
    assert (quality.canary, quality.unit) == (rows, "log loss")


def test_an_estimate_can_say_harm_and_never_safe() -> None:
    rng = np.random.default_rng(2)
    worse, better = rng.uniform(0, 0.3, 4000), rng.uniform(-0.3, 0, 40_000)
    assert said(quality_readings(spec(), evidence(estimated=losses(worse)))) == {
        "quality": "undecided",
        "estimate": "harm",
    }
    readings = quality_readings(spec(), evidence(estimated=losses(better)))
    assert said(readings)["estimate"] == "undecided"
    assert [reading.blocking for reading in readings] == [False, False]
    assert readings[1].safe_below is None


def stretches(rng: np.random.Generator, noise: float, number: int, rows: int = 2000) -> tuple[ArmLosses, ...]:
    made = []
    for step in range(number):
        ours, theirs = scored(rng, rows, noise)
        mine = rng.random(rows) < 0.3
        since = T0 + step * MINUTE
        made.append(
            ArmLosses(since=since, until=since + MINUTE, canary=losses(ours[mine]), stable=losses(theirs[~mine]))
        )
    return tuple(made)


@pytest.mark.parametrize(("noise", "verdict"), [(1.5, "harm"), (0.0, "safe")])
def test_arms_are_compared_where_predictions_change_outcomes(noise: float, verdict: str) -> None:
    rollout = spec(predictionsChangeOutcomes=True, margin=0.1)
    ours = stretches(np.random.default_rng(3), noise, 10)
    # What is scored on rows that others answered does not count, nor does an estimate.
    misleading = losses(np.full(5000, -1.0 if verdict == "harm" else 1.0))
    readings = quality_readings(rollout, evidence(arms=ours, labelled=misleading, estimated=misleading))
    assert said(readings) == {"quality": verdict}
    (reading,) = readings
    assert reading.canary == sum(each.canary.rows for each in ours)
    assert reading.low is not None
    assert reading.high is not None
    assert reading.value is not None
    assert reading.reference is not None
    assert reading.low <= reading.value - reading.reference <= reading.high
    assert (reading.low >= 0) == (verdict == "harm")
    assert "that the canary answered" in reading.text


def test_arms_need_many_times_the_rows_that_pairs_need() -> None:
    """The same rows, the same difference: pairs are sure of harm long before arms are."""
    rng = np.random.default_rng(4)
    ours, theirs = scored(rng, 20_000, 0.8)
    mine = rng.random(20_000) < 0.05
    pairs = quality_readings(spec(), evidence(labelled=losses((ours - theirs)[:2000])))
    alone = ArmLosses(since=T0, until=T0 + MINUTE, canary=losses(ours[mine]), stable=losses(theirs[~mine]))
    by_arms = quality_readings(spec(predictionsChangeOutcomes=True), evidence(arms=(alone,)))
    assert said(pairs)["quality"] == "harm"
    assert said(by_arms)["quality"] == "undecided"


@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, "no losses have been computed"),
        (evidence(missing=("log of version 3 has a gap",)), "evidence is incomplete: log of version 3 has a gap"),
        (evidence(metric="brier"), "losses were computed as Brier score, and log loss is asked for"),
        (evidence(), "yet"),
        (evidence(labelled=LossSums(rows=3, total=99, squares=9999), estimated=LossSums(rows=1, total=9, squares=81)),
         "yet"),
    ],
)  # fmt: skip
def test_without_whole_evidence_quality_is_undecided_and_says_why(
    given: QualityEvidence | None, reason: str, changes: bool
) -> None:
    readings = quality_readings(spec(predictionsChangeOutcomes=changes, blocking=True), given)
    assert {reading.verdict for reading in readings} == {"undecided"}
    assert [reading.guard for reading in readings] == (["quality"] if changes else ["quality", "estimate"])
    assert [reading.blocking for reading in readings] == [True, False][: len(readings)]
    if given is None or not given.labelled.rows:
        assert all(reason in reading.text for reading in readings)
    elif not changes:
        assert all("do not come from values in" in reading.text for reading in readings)


def test_incomplete_evidence_holds_whatever_it_would_say() -> None:
    terrible = losses(np.full(10_000, 2.0))
    assert set(said(quality_readings(spec(), evidence(labelled=terrible, missing=("a gap",)))).values()) == {
        "undecided"
    }
    assert said(quality_readings(spec(), evidence(labelled=terrible)))["quality"] == "harm"


def test_what_is_not_enabled_is_not_read() -> None:
    assert quality_readings(spec(enabled=False), evidence()) == ()
    assert said(quality_readings(spec(estimated=False), None)) == {"quality": "undecided"}


def test_brier_scores_are_judged_in_their_own_unit() -> None:
    rng = np.random.default_rng(5)
    readings = quality_readings(
        spec(metric="brier"), evidence(metric="brier", labelled=losses(rng.uniform(-0.02, 0.1, 4000)))
    )
    assert readings[0].verdict == "harm"
    assert readings[0].unit == "Brier score"
    assert readings[0].text.startswith("quality: Brier score 0.0")


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.floats(-2, 2), min_size=1, max_size=40), st.lists(st.floats(-2, 2), min_size=1, max_size=40))
def test_many_rollouts_at_once_are_the_same_as_one_by_one(first: list[float], second: list[float]) -> None:
    rows = [losses(np.array(values)) for values in (first, second)]
    sums = Sums(*(np.array([getattr(each, name) for each in rows]) for name in ("rows", "total", "squares")))
    rollout = spec()
    for guard in (paired(rollout.guards.quality), estimated(rollout.guards.quality)):
        share = shares(rollout)[guard.name]
        together = guard.evidences(sums)
        for position, each in enumerate(rows):
            reading = guard.read(each, share)
            assert together.harm[position] / threshold(share.harm) == pytest.approx(reading.harm_evidence)
            if guard.margin is not None:
                assert together.safe[position] / threshold(share.safe) == pytest.approx(reading.safe_evidence)


ROLLOUTS, LOOKS = 400, 30


def peeked(guard: Any, mean: float, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The largest evidence of 30 looks at differences of that mean, for each direction."""
    rng = np.random.default_rng(seed)
    sums, harm, safe = np.zeros((3, ROLLOUTS)), np.full(ROLLOUTS, -np.inf), np.full(ROLLOUTS, -np.inf)
    for _ in range(LOOKS):
        values = mean + 0.6 * (rng.beta(0.6, 2.4, (ROLLOUTS, 50)) - 0.2)
        sums = sums + np.stack([np.full(ROLLOUTS, 50.0), values.sum(axis=-1), np.square(values).sum(axis=-1)])
        found = guard.evidences(Sums(*sums))
        harm, safe = np.maximum(harm, found.harm), np.maximum(safe, found.safe)
    return harm, safe


def allowed(promise: float) -> float:
    return promise + 3 * float(np.sqrt(promise * (1 - promise) / ROLLOUTS))


def test_false_verdicts_about_pairs_are_rare_at_every_look() -> None:
    quality, alpha = Quality(), 0.1
    harm, _ = peeked(paired(quality), quality.tolerance, 6)
    _, safe = peeked(paired(quality), quality.margin, 7)
    early, _ = peeked(estimated(quality), quality.estimated_tolerance, 8)
    for worst in (harm, safe, early):
        assert float((worst >= threshold(alpha)).mean()) <= allowed(alpha)
    found, _ = peeked(paired(quality), 0.03, 9)
    assert float((found >= threshold(alpha)).mean()) > 0.9


def test_false_verdicts_about_arms_are_rare_at_every_look() -> None:
    rng, alpha = np.random.default_rng(10), 0.1
    guard = arms(Quality(predictions_change_outcomes=True))
    for difference, direction in ((guard.tolerance, 0), (guard.margin, 1)):
        state, worst = guard.start((ROLLOUTS,)), np.full(ROLLOUTS, -np.inf)
        for look in range(LOOKS):
            level = 0.4 + 0.2 * np.sin(look)
            ours = level + difference + 0.6 * (rng.beta(0.6, 2.4, (ROLLOUTS, 40)) - 0.2)
            theirs = level + 0.6 * (rng.beta(0.6, 2.4, (ROLLOUTS, 160)) - 0.2)
            state = guard.update(state, Sums.of(ours), Sums.of(theirs))
            worst = np.maximum(worst, guard.evidences(state)[direction])
        assert float((worst >= threshold(alpha)).mean()) <= allowed(alpha)
