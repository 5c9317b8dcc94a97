"""Packs the model with all that a predictor needs into one archive."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def package(
    plan: str,
    rows: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    archive: dsl.Output[dsl.Artifact],
) -> str:
    """Write the archive to the folder `archive`; the output is its digest."""
    from importlib.resources import files
    from pathlib import Path

    from serinus.engines.kfp_step import step
    from serinus.training.package import Parts, package
    from serinus.training.plan import Plan

    with step() as here:
        parts = Parts(
            model=Path(model.path) / "model.pt2",
            signature=Path(rows.path) / "signature.json",
            profile=Path(evaluation.path) / "profile.json",
            handler=Path(str(files("serving") / "handler.py")),
        )
        report = package(Plan.model_validate_json(plan).model, parts, Path(archive.path))
        archive.metadata.update(digest=report.digest)
        here.result(f"{report.path.name}, {report.size / 1e6:.1f} MB")
        return report.digest
