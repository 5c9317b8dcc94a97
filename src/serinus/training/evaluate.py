"""Judge a candidate, the champion and a rule on the same held-out rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from serinus.core.dataset import ID, LABEL
from serinus.core.errors import InvalidData
from serinus.core.evaluation import (
    BASELINE,
    CANDIDATE,
    CHAMPION,
    Difference,
    ModelScores,
    Scorecard,
    SliceScores,
)
from serinus.core.gate import judge
from serinus.core.profile import Profile, profile_predictions
from serinus.core.signature import Signature
from serinus.core.spec.training import ContinuousTrainingSpec
from serinus.engines.exported import load_exported, one_thread
from serinus.engines.files import replacing, write_text
from serinus.training import plots
from serinus.training.bootstrap import paired_bootstrap
from serinus.training.fit import MODEL_FILE
from serinus.training.metrics import CALIBRATION_BINS, RuleBaseline, row_losses, score, texts
from serinus.training.report import write_report
from serinus.training.rows import PROFILE_FILE, DatasetFolder, Rows, read_json

SCORECARD_FILE = "scorecard.json"
PREDICTIONS_FILE = "predictions.parquet"
REPORT_FILE = "report.html"

Probabilities = dict[str, NDArray[np.float64]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Champion:
    """The version in service: its exported module and its own signature, whose columns and categories may differ."""

    version: int
    model: Path
    signature: Path


def evaluate(
    dataset_folder: Path,
    candidate_folder: Path,
    out_folder: Path,
    spec: ContinuousTrainingSpec,
    champion: Champion | None = None,
) -> Scorecard:
    """Score all models on the dataset's held-out period and write what the gate, the registry and people read.

    Writes scorecard.json, predictions.parquet (`id`, `probability`, `label` of the candidate), profile.json (with the
    candidate's predictions), report.html and its pictures as PNG.

    Raises:
        InvalidData: a column for a slice, the baseline or the champion is not in the dataset, or the held-out period
            has only one label or too few days.
        IntegrityError: a model file is damaged.
    """
    dataset = DatasetFolder.read(dataset_folder)
    rows = dataset.part("holdout")
    rows.require(spec.evaluation.slices, "evaluation.slices")
    scored = _predict_all(dataset, rows, candidate_folder / MODEL_FILE, spec, champion)
    card = _scorecard(dataset, rows, scored, spec, champion)
    _write(rows, scored, card, out_folder)
    profile = read_json(Profile, dataset_folder / PROFILE_FILE)
    written = profile_predictions(profile, scored[CANDIDATE]).model_dump_json(indent=2)
    write_text(out_folder / PROFILE_FILE, written + "\n")
    _illustrate(rows, scored, card, spec, out_folder)
    verdict = judge(card, spec.gate)
    write_report(card, verdict, dataset.manifest, dataset.signature.model, out_folder / REPORT_FILE)
    overall = card.candidate.overall
    log.info("evaluated on %d rows of %s: ROC AUC %.4f, log loss %.5f; %s", overall.rows, card.period,
             overall.roc_auc, overall.log_loss, "; ".join(reason.text for reason in verdict.reasons))  # fmt: skip
    return card


def predict(model: Path, signature: Signature, rows: Rows) -> NDArray[np.float64]:
    """Probabilities of the rows by an exported model, encoded with its own signature."""
    numbers, categories = rows.encode(signature)
    with one_thread():
        return load_exported(model).probabilities(numbers, categories)


def _predict_all(
    dataset: DatasetFolder, rows: Rows, candidate: Path, spec: ContinuousTrainingSpec, champion: Champion | None
) -> Probabilities:
    scored = {CANDIDATE: predict(candidate, dataset.signature, rows)}
    if champion is not None:
        signature = read_json(Signature, champion.signature)
        absent = [column.name for column in signature.columns if column.name not in rows.table.column_names]
        if absent:
            raise InvalidData(
                f"the champion, version {champion.version}, needs columns that the dataset lacks: {', '.join(absent)}",
                hint="keep them in the feature service until no version needs them, or unset the champion alias",
            )
        scored[CHAMPION] = predict(champion.model, signature, rows)
    scored[BASELINE] = _rule(dataset, rows, spec.evaluation.baseline)
    return scored


def _rule(dataset: DatasetFolder, rows: Rows, columns: list[str]) -> NDArray[np.float64]:
    rows.require(columns, "evaluation.baseline")
    train = dataset.part("train")
    rule = RuleBaseline({name: train.values(name) for name in columns}, train.labels)
    return rule.probabilities({name: rows.values(name) for name in columns}, len(rows))


def _scorecard(
    dataset: DatasetFolder,
    rows: Rows,
    scored: Probabilities,
    spec: ContinuousTrainingSpec,
    champion: Champion | None,
) -> Scorecard:
    slices = _slices(rows, spec)
    models = {name: _model_scores(name, rows.labels, found, slices) for name, found in scored.items()}
    return Scorecard(
        period=dataset.manifest.split.holdout,
        candidate=models[CANDIDATE],
        baseline=models[BASELINE],
        champion=models.get(CHAMPION),
        champion_version=champion.version if champion else None,
        differences=tuple(_difference(name, rows, scored, spec) for name in (BASELINE, CHAMPION) if name in scored),
    )


Slices = Mapping[tuple[str, str], NDArray[np.bool_]]


def _slices(rows: Rows, spec: ContinuousTrainingSpec) -> Slices:
    """Rows of each value of each sliced column, largest slices first; missing values and small slices left out."""
    found: dict[tuple[str, str], NDArray[np.bool_]] = {}
    for column in spec.evaluation.slices:
        values = texts(rows.values(column))
        named, counts = np.unique([value for value in values if value is not None], return_counts=True)
        for position in np.argsort(-counts, kind="stable"):
            if counts[position] >= spec.evaluation.minimum_slice_rows:
                found[column, str(named[position])] = values == named[position]
    return found


def _model_scores(name: str, labels: NDArray[Any], found: NDArray[np.float64], slices: Slices) -> ModelScores:
    parts = tuple(
        SliceScores(column=column, value=value, scores=score(labels[held], found[held]))
        for (column, value), held in slices.items()
    )
    return ModelScores(name=name, overall=score(labels, found), slices=parts)


def _difference(against: str, rows: Rows, scored: Probabilities, spec: ContinuousTrainingSpec) -> Difference:
    gate, labels = spec.gate, rows.labels
    lost, other = (row_losses(labels, scored[name], gate.metric) for name in (CANDIDATE, against))
    try:
        bounds = paired_bootstrap(lost - other, rows.days, gate.confidence, gate.resamples, spec.training.seed)
    except ValueError as error:
        raise InvalidData(
            f"the held-out period has labelled rows on too few days: {error}", hint="widen windows.holdout"
        ) from error
    return Difference(
        against=against,
        metric=gate.metric,
        value=bounds.value,
        low=bounds.low,
        high=bounds.high,
        confidence=gate.confidence,
        days=bounds.blocks,
    )


def _write(rows: Rows, scored: Probabilities, card: Scorecard, folder: Path) -> None:
    table = pa.table({ID: rows.table[ID], "probability": scored[CANDIDATE], LABEL: rows.labels})
    with replacing(folder / PREDICTIONS_FILE) as part:
        pq.write_table(table, part)
    write_text(folder / SCORECARD_FILE, card.model_dump_json(indent=2) + "\n")


def _illustrate(rows: Rows, scored: Probabilities, card: Scorecard, spec: ContinuousTrainingSpec, out: Path) -> None:
    metric = spec.gate.metric
    plots.curves(rows.labels, scored, out / plots.CURVES)
    plots.calibration(rows.labels, scored, CALIBRATION_BINS, out / plots.CALIBRATION)
    losses = {name: row_losses(rows.labels, found, metric) for name, found in scored.items()}
    plots.by_day(rows.days, losses, metric, out / plots.BY_DAY)
    plots.differences(card.differences, spec.gate.champion_tolerance, out / plots.DIFFERENCES)
    if card.candidate.slices:
        models = [model for model in (card.candidate, card.champion, card.baseline) if model]
        points = {
            model.name: [(f"{part.column} = {part.value}", getattr(part.scores, metric)) for part in model.slices]
            for model in models
        }
        plots.by_slice(points, metric, out / plots.BY_SLICE)
