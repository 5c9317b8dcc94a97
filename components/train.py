"""Fits the project's module and exports it."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def train(
    spec: str,
    plan: str,
    rows: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Write the exported module and how it was fitted to the folder `model`."""
    from pathlib import Path

    from serinus.engines.kfp_step import step
    from serinus.training.fit import fit
    from serinus.training.plan import Plan
    from serinus.training.project import load_project

    with step() as here:
        loaded = load_project(Path(spec), Plan.model_validate_json(plan).service())
        report = fit(
            loaded.project,
            loaded.training.spec.training,
            Path(rows.path),
            Path(model.path),
            progress=lambda epoch: here.progress(
                f"epoch {epoch.number} of {epoch.of}: validation log loss {epoch.validation_loss:.4f}"
            ),
        )
        model.metadata.update(digest=report.digest)
        metrics.log_metric("validation_log_loss", report.validation_loss)
        here.result(f"log loss {report.validation_loss:.4f} at epoch {report.best_epoch} of {len(report.epochs)}")
