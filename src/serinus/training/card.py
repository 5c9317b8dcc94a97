"""The model card: what a version is, how good it was and where it came from, for whoever opens the registry."""

from __future__ import annotations

from serinus.core.dataset import Dataset
from serinus.core.evaluation import METRICS, ModelScores, Scorecard, Scores
from serinus.core.gate import GateVerdict
from serinus.core.version import Lineage

_SLICES = 20


def model_card(name: str, dataset: Dataset, scorecard: Scorecard, verdict: GateVerdict, lineage: Lineage) -> str:
    """A card in Markdown. The parts that matter most come first: a registry may cut long texts."""
    sections = (
        _headline(name, dataset, scorecard, verdict),
        _metrics(scorecard),
        _gate(verdict),
        _lineage(lineage, dataset),
        _slices(scorecard.candidate),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _headline(name: str, dataset: Dataset, scorecard: Scorecard, verdict: GateVerdict) -> str:
    answer = "accepted" if verdict.passed else "refused"
    rate = dataset.positives / dataset.rows if dataset.rows else 0.0
    return (
        f"# {name}, as of {_as_of(dataset)}\n\n"
        f"A binary classifier, **{answer}** by the gate. Trained on {dataset.split.train}, stopped early on "
        f"{dataset.split.validation}, judged on {scorecard.period}. The dataset has {dataset.rows:,} rows, "
        f"{rate:.1%} positive."
    )


def _as_of(dataset: Dataset) -> str:
    return f"{dataset.as_of:%Y-%m-%d %H:%M} UTC"


def _metrics(scorecard: Scorecard) -> str:
    models = [scorecard.candidate, scorecard.baseline]
    titles = [model.name for model in models]
    if scorecard.champion is not None:
        models.append(scorecard.champion)
        titles.append(f"{scorecard.champion.name} (version {scorecard.champion_version})")
    lines = [_row("metric", *titles), _row(*["---"] * (len(models) + 1))]
    lines += [_row(metric, *(_number(getattr(model.overall, metric)) for model in models)) for metric in METRICS]
    return f"## Metrics\n\nOn {scorecard.candidate.overall.rows:,} held-out rows:\n\n" + "\n".join(lines)


def _gate(verdict: GateVerdict) -> str:
    reasons = (
        f"- {'passed' if reason.passed else 'failed'} {reason.rule}: {reason.text}" for reason in verdict.reasons
    )
    return "## Gate\n\n" + "\n".join(reasons)


def _lineage(lineage: Lineage, dataset: Dataset) -> str:
    facts = {
        "pipeline run": lineage.pipeline_run,
        "data": lineage.data_digest,
        "dataset": dataset.digest,
        "code": lineage.code_digest,
        "schema": lineage.schema_digest,
        "parameters": ", ".join(f"{key}={value}" for key, value in sorted(lineage.parameters.items())) or "defaults",
    }
    return "## Lineage\n\n" + "\n".join(f"- {title}: `{text}`" for title, text in facts.items())


def _slices(model: ModelScores) -> str:
    shown = sorted(model.slices, key=lambda part: -part.scores.rows)[:_SLICES]
    if not shown:
        return ""
    lines = [_row("slice", "rows", "roc_auc", "log_loss"), _row(*["---"] * 4)]
    lines += [_row(f"{part.column} = {part.value}", f"{part.scores.rows:,}", *_pair(part.scores)) for part in shown]
    more = f"\n\nThe {_SLICES} largest of {len(model.slices)}." if len(model.slices) > _SLICES else ""
    return "## Slices\n\n" + "\n".join(lines) + more


def _pair(scores: Scores) -> tuple[str, str]:
    return _number(scores.roc_auc), _number(scores.log_loss)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
