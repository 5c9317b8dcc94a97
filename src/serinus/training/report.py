"""One page, without links to anything else, that tells why a candidate passed or was refused."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html import escape
from pathlib import Path

from serinus.core.dataset import Dataset
from serinus.core.evaluation import METRICS, ModelScores, Scorecard, Scores
from serinus.core.gate import GateVerdict
from serinus.engines.files import write_text
from serinus.training import plots

_HIGHER_IS_BETTER = ("roc_auc", "pr_auc")
_TITLES = {
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "log_loss": "log loss",
    "brier": "Brier score",
    "calibration_error": "calibration error",
}
_PICTURES = (
    (plots.DIFFERENCES, "How the candidate's loss differs from the others' on the same rows"),
    (plots.CURVES, "How well models rank rows"),
    (plots.CALIBRATION, "Whether predicted probabilities come true"),
    (plots.BY_DAY, "Loss on each day"),
    (plots.BY_SLICE, "Loss in each slice"),
)
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.facts { color: #666; margin-top: .2rem; }
.verdict { border-left: 6px solid; padding: .6rem 1rem; margin: 1.2rem 0; background: #f6f8f7; }
.passed { border-color: #2d8a4e; } .refused { border-color: #c0392b; background: #fbf4f3; }
.verdict p { margin: .2rem 0; } .verdict strong { font-size: 1.1rem; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #e3e3e3; }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; }
td.best { font-weight: 700; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; } figcaption { color: #666; }
.wide { overflow-x: auto; }
"""


def write_report(card: Scorecard, verdict: GateVerdict, dataset: Dataset, model: str, path: Path) -> None:
    """Write the page; pictures are read from beside it and put inside."""
    title = f"{model}: candidate of {dataset.as_of:%Y-%m-%d %H:%M} UTC"
    body = "\n".join(
        (
            f"<h1>{escape(title)}</h1>",
            f'<p class="facts">Judged on {card.candidate.overall.rows:,} rows ({card.candidate.overall.positives:,} '
            f"positive) from {card.period}; trained on rows from {dataset.split.train.since:%Y-%m-%d}. "
            f"Dataset {escape(dataset.digest)}.</p>",
            *_verdict(verdict),
            "<h2>All rows</h2>",
            *_overall(card),
            *_slices(card),
            *_figures(path.parent),
        )
    )
    write_text(path, page(title, body))


def page(title: str, body: str, style: str = "") -> str:
    """A whole page in our style and what is added to it; `title` is plain text, `body` is HTML."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _verdict(verdict: GateVerdict) -> Iterator[str]:
    word = "passed" if verdict.passed else "refused"
    yield f'<div class="verdict {word}"><strong>The gate {word} the candidate.</strong>'
    for reason in verdict.reasons:
        yield f"<p>{'✓' if reason.passed else '✗'} {escape(reason.text)}</p>"
    yield "</div>"


def _overall(card: Scorecard) -> Iterator[str]:
    models = _models(card)
    yield "<table><tr><th>model</th>" + "".join(f"<th>{_TITLES[name]}</th>" for name in METRICS) + "</tr>"
    best = {metric: _best(metric, [model.overall for model in models]) for metric in METRICS}
    for model in models:
        name = f"champion (version {card.champion_version})" if model is card.champion else model.name
        yield f"<tr><td>{name}</td>{_cells(model.overall, best)}</tr>"
    yield "</table>"


def _slices(card: Scorecard) -> Iterator[str]:
    if not card.candidate.slices:
        return
    models = _models(card)
    yield "<h2>By slice</h2>"
    yield '<div class="wide"><table><tr><th>slice</th><th>rows</th><th>positive</th>'
    for metric in ("roc_auc", "log_loss"):
        yield "".join(f"<th>{_TITLES[metric]}<br>{model.name}</th>" for model in models)
    yield "<th>calibration error<br>candidate</th></tr>"
    for position, part in enumerate(card.candidate.slices):
        scores = [model.slices[position].scores for model in models]
        yield f"<tr><td>{escape(part.column)} = {escape(part.value)}</td><td>{part.scores.rows:,}</td>"
        yield f"<td>{part.scores.positives / part.scores.rows:.1%}</td>"
        for metric in ("roc_auc", "log_loss"):
            best = _best(metric, scores)
            yield "".join(_cell(getattr(found, metric), best) for found in scores)
        yield f"<td>{part.scores.calibration_error:.4f}</td></tr>"
    yield "</table></div>"


def _figures(folder: Path) -> Iterator[str]:
    for name, caption in _PICTURES:
        picture = folder / name
        if picture.exists():
            data = base64.b64encode(picture.read_bytes()).decode()
            yield f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
            yield f"<figcaption>{caption}</figcaption></figure>"


def _models(card: Scorecard) -> list[ModelScores]:
    return [model for model in (card.candidate, card.champion, card.baseline) if model is not None]


def _best(metric: str, scores: list[Scores]) -> float | None:
    found = [value for value in (getattr(one, metric) for one in scores) if value is not None]
    if not found:
        return None
    return float(max(found) if metric in _HIGHER_IS_BETTER else min(found))


def _cells(scores: Scores, best: dict[str, float | None]) -> str:
    return "".join(_cell(getattr(scores, metric), best[metric]) for metric in METRICS)


def _cell(value: float | None, best: float | None) -> str:
    if value is None:
        return "<td>only one class</td>"
    return f'<td class="best">{value:.4f}</td>' if value == best else f"<td>{value:.4f}</td>"
