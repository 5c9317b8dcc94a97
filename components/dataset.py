"""Builds the labelled rows by Feast's point-in-time join."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def dataset(
    spec: str,
    platform: str,
    as_of: str,
    data_digest: str,
    data_code: str,
    rows: dsl.Output[dsl.Dataset],
) -> None:
    """Write rows, manifest, signature and profile to the folder `rows`."""
    from pathlib import Path

    from serinus.core.platform import Platform
    from serinus.core.times import utc
    from serinus.engines.feast import FeatureStore
    from serinus.engines.kfp_step import step
    from serinus.training.dataset import build_dataset
    from serinus.training.project import load_project

    with step() as here:
        loaded = load_project(Path(spec))
        store = FeatureStore.open(Platform.model_validate_json(platform), loaded.model_name)
        made = build_dataset(loaded, store, utc(as_of), Path(rows.path))
        rows.metadata.update(digest=made.digest, rows=made.rows, data_digest=data_digest)
        here.result(f"{made.rows:,} rows, {made.positives / made.rows:.1%} positive")
