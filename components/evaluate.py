"""Scores candidate, champion and baseline on the same held-out rows."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def evaluate(
    plan: str,
    platform: str,
    opponent: str,
    rows: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Write scorecard, predictions, profile and pictures to the folder `evaluation`, and one page for people."""
    from pathlib import Path
    from shutil import copyfile
    from tempfile import TemporaryDirectory

    from serinus.engines.kfp_step import step
    from serinus.engines.platformfile import find_platform
    from serinus.training.evaluate import REPORT_FILE, evaluate
    from serinus.training.plan import Plan
    from serinus.training.start import bring_champion

    with step() as here, TemporaryDirectory() as folder:
        known = Plan.model_validate_json(plan)
        champion = bring_champion(find_platform(platform), known.model, opponent, Path(folder))
        out = Path(evaluation.path)
        card = evaluate(Path(rows.path), Path(model.path), out, known.service().training.spec, champion)
        copyfile(out / REPORT_FILE, report.path)
        scores = card.candidate.overall
        for metric, value in scores.model_dump(exclude_none=True).items():
            metrics.log_metric(metric, value)
        here.result(f"log loss {scores.log_loss:.4f}, ROC AUC {scores.roc_auc:.4f} on {scores.rows:,} rows")
