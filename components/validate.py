"""Checks what was ingested before anything is made of it."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def validate(
    plan: str,
    platform: str,
    as_of: str,
    data_digest: str,
    report: dsl.Output[dsl.Artifact],
) -> None:
    """Write what was checked and found to the file `report`; data that fail a check stop the run."""
    from pathlib import Path

    from serinus.core.times import utc
    from serinus.engines.feast import FeatureStore
    from serinus.engines.files import write_text
    from serinus.engines.kfp_step import step
    from serinus.engines.platformfile import find_platform
    from serinus.training.plan import Plan
    from serinus.training.validate import validate

    with step() as here:
        store = FeatureStore.open(find_platform(platform), Plan.model_validate_json(plan).model)
        found = validate(store, utc(as_of))
        write_text(Path(report.path), found.model_dump_json(indent=2))
        here.result(f"{len(found.checks)} checks passed" if found.checks else "nothing new")
