"""Registers a judged candidate: a version if the gate passed it, otherwise only a record of the run and the verdict."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from serinus.core.dataset import Dataset
from serinus.core.errors import InvalidData, InvalidInput, NotFound
from serinus.core.evaluation import METRICS, ModelScores, Scorecard, Scores
from serinus.core.gate import GateVerdict
from serinus.core.signature import Signature
from serinus.core.spec.training import Training
from serinus.core.version import CHALLENGER, CHAMPION, Lineage, ModelVersion, RunRecord
from serinus.engines.mlflow import Registry
from serinus.training.card import model_card
from serinus.training.package import PackageReport

logger = logging.getLogger(__name__)

Document = TypeVar("Document", bound=BaseModel)

_SLICES = 50  # the registry draws a chart a metric: the largest slices, the scorecard among the files has all


@dataclass(frozen=True)
class Origin:
    """What started the run: how it trains, digests of raw data and code, and the pipeline run's name."""

    training: Training
    data_digest: str
    code_digest: str
    pipeline_run: str


@dataclass(frozen=True)
class Folders:
    """What the steps before wrote: dataset.json and signature.json; fit.json; scorecard.json; verdict.json."""

    dataset: Path
    model: Path
    evaluation: Path
    gate: Path


@dataclass(frozen=True)
class Candidate:
    """A judged model. `attachments` are files or folders to keep with the run, by the folder they are kept under."""

    name: str
    dataset: Dataset
    scorecard: Scorecard
    verdict: GateVerdict
    lineage: Lineage
    attachments: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)


def read_candidate(name: str, folders: Folders, origin: Origin) -> Candidate:
    """Read a candidate from what the pipeline's steps wrote. The training data itself and the model are not attached.

    Raises:
        NotFound: a file is missing.
        InvalidData: a file is damaged.
    """
    dataset = _parse(Dataset, folders.dataset / "dataset.json")
    signature = _parse(Signature, folders.dataset / "signature.json")
    scorecard = _parse(Scorecard, folders.evaluation / "scorecard.json")
    lineage = Lineage(
        as_of=dataset.as_of,
        data_digest=origin.data_digest,
        code_digest=origin.code_digest,
        schema_digest=signature.schema_digest,
        parameters=origin.training.model_dump(mode="json"),
        pipeline_run=origin.pipeline_run,
        compared_with=scorecard.champion_version,
    )
    return Candidate(
        name=name,
        dataset=dataset,
        scorecard=scorecard,
        verdict=_parse(GateVerdict, folders.gate / "verdict.json"),
        lineage=lineage,
        attachments={
            "dataset": tuple(folders.dataset.glob("*.json")),
            "training": tuple(file for file in folders.model.iterdir() if file.suffix in {".json", ".png"}),
            "evaluation": (folders.evaluation,),
            "gate": (folders.gate,),
        },
    )


def _parse(kind: type[Document], file: Path) -> Document:
    try:
        return kind.model_validate_json(file.read_bytes())
    except FileNotFoundError as error:
        raise NotFound(f"there is no {file}", hint="run the steps before it again") from error
    except ValidationError as error:
        raise InvalidData(f"{file} is damaged: {error}", hint="run the steps before it again") from error


def register(registry: Registry, candidate: Candidate, package: PackageReport | None) -> ModelVersion | None:
    """Register a candidate with its lineage, metrics, card and files.

    One that the gate passed becomes a version: the champion where there is none yet, otherwise the challenger. It does
    not take the champion's place: that is what deploying it is for. One that was refused is kept as a run with its
    verdict, so that the reasons can be read later, and gets no version: the answer is None. Repeating the call changes
    nothing, and finishes what an interrupted one left undone.

    Raises:
        InvalidInput: a passed candidate without its package.
        IntegrityError: the package is not the one that was written.
        EngineError: the registry failed; no version was created.
    """
    record = _record(candidate)
    if not candidate.verdict.passed:
        run = registry.keep(record)
        logger.info("%s was refused by the gate: no version, run %s keeps the verdict", candidate.name, run)
        return None
    if package is None or package.name != candidate.name:
        raise InvalidInput(f"{candidate.name} passed the gate but its package was not given")
    version = registry.register(record, package.path, package.digest)
    _place(registry, version)
    return registry.get(version.name, version.version)


def _place(registry: Registry, version: ModelVersion) -> None:
    """Give a version its alias. A version older than those in place, from a repeated run, does not displace them."""
    champion = registry.find(version.name, CHAMPION)
    if champion is None:
        registry.set_alias(version.name, CHAMPION, version.version)
        return
    challenger = registry.find(version.name, CHALLENGER)
    newest = max(champion.version, challenger.version if challenger else 0)
    if version.version > newest:
        registry.set_alias(version.name, CHALLENGER, version.version)


def _record(candidate: Candidate) -> RunRecord:
    card = candidate.scorecard
    details = _metrics(card.baseline.name, card.baseline.overall)
    if card.champion is not None:
        details |= _metrics(card.champion.name, card.champion.overall)
    for difference in card.differences:
        details[f"difference.{difference.against}.{difference.metric}"] = difference.value
    return RunRecord(
        name=candidate.name,
        lineage=candidate.lineage,
        accepted=candidate.verdict.passed,
        metrics=_metrics("", card.candidate.overall),
        details=details | _slices(card.candidate),
        card=model_card(candidate.name, candidate.dataset, card, candidate.verdict, candidate.lineage),
        attachments=dict(candidate.attachments),
    )


def _slices(model: ModelScores) -> dict[str, float]:
    largest = sorted(model.slices, key=lambda part: -part.scores.rows)[:_SLICES]
    metrics: dict[str, float] = {}
    for part in largest:
        metrics |= _metrics(f"slice.{part.column}.{part.value}", part.scores)
    return metrics


def _metrics(prefix: str, scores: Scores) -> dict[str, float]:
    """The metrics that are defined, by name behind the prefix."""
    values = {metric: getattr(scores, metric) for metric in METRICS}
    dot = "." if prefix else ""
    return {f"{prefix}{dot}{metric}": value for metric, value in values.items() if value is not None}
