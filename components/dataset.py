"""Builds the labelled rows by Feast's point-in-time join."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def dataset(
    spec: str,
    plan: str,
    platform: str,
    as_of: str,
    data_digest: str,
    rows: dsl.Output[dsl.Dataset],
) -> None:
    """Write rows, manifest, signature and profile to the folder `rows`."""
    from pathlib import Path

    from serinus.core.times import utc
    from serinus.engines.feast import FeatureStore
    from serinus.engines.kfp_step import step
    from serinus.engines.platformfile import find_platform
    from serinus.training.dataset import build_dataset
    from serinus.training.plan import Plan
    from serinus.training.project import load_project

    with step() as here:
        loaded = load_project(Path(spec), Plan.model_validate_json(plan).service())
        store = FeatureStore.open(find_platform(platform), loaded.model_name)
        made = build_dataset(loaded, store, utc(as_of), Path(rows.path))
        rows.metadata.update(digest=made.digest, rows=made.rows, data_digest=data_digest)
        here.result(f"{made.rows:,} rows, {made.positives / made.rows:.1%} positive")
