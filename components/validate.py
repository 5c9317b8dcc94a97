"""Checks what was ingested before anything is made of it."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def validate(
    spec: str,
    platform: str,
    as_of: str,
    data_digest: str,
    data_code: str,
    report: dsl.Output[dsl.Artifact],
) -> None:
    """Write what was checked and found to the file `report`; data that fail a check stop the run."""
    from pathlib import Path

    from serinus.core.platform import Platform
    from serinus.core.times import utc
    from serinus.engines.feast import FeatureStore
    from serinus.engines.files import write_text
    from serinus.engines.kfp_step import step
    from serinus.engines.specfile import read_service
    from serinus.training.validate import validate

    with step() as here:
        name = read_service(Path(spec)).deployment.spec.model.name
        store = FeatureStore.open(Platform.model_validate_json(platform), name)
        found = validate(store, utc(as_of))
        write_text(Path(report.path), found.model_dump_json(indent=2))
        here.result(f"{len(found.checks)} checks passed" if found.checks else "nothing new")
