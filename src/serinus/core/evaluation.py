"""How good models are on the held-out period: the values that the gate, the report and the model card read."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from serinus.core.times import Interval

CANDIDATE = "candidate"
CHAMPION = "champion"
BASELINE = "baseline"
METRICS = ("roc_auc", "pr_auc", "log_loss", "brier", "calibration_error")


class Scores(BaseModel):
    """One model's metrics on one set of rows. AUCs are None where only one class occurs."""

    model_config = ConfigDict(frozen=True)

    rows: int
    positives: int
    roc_auc: float | None
    pr_auc: float | None
    log_loss: float
    brier: float
    calibration_error: float


class SliceScores(BaseModel):
    """Scores of the rows whose `column` has `value`."""

    model_config = ConfigDict(frozen=True)

    column: str
    value: str
    scores: Scores


class ModelScores(BaseModel):
    """Scores of one model over the whole period and by slice."""

    model_config = ConfigDict(frozen=True)

    name: str
    overall: Scores
    slices: tuple[SliceScores, ...] = ()


class Difference(BaseModel):
    """Loss of the candidate minus loss of another model on the same rows, with a paired bootstrap interval.

    Negative is better. `low` and `high` bound the difference at `confidence`. What is resampled is whole days, as rows
    of one day are not independent; `days` says how many there were.
    """

    model_config = ConfigDict(frozen=True)

    against: str
    metric: str
    value: float
    low: float
    high: float
    confidence: float
    days: int


class Scorecard(BaseModel):
    """Candidate, baseline and (where there is one) champion on the same held-out rows."""

    model_config = ConfigDict(frozen=True)

    period: Interval
    candidate: ModelScores
    baseline: ModelScores
    champion: ModelScores | None
    champion_version: int | None
    differences: tuple[Difference, ...]

    def against(self, name: str) -> Difference | None:
        return next((difference for difference in self.differences if difference.against == name), None)
