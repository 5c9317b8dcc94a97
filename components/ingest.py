"""Brings the offline store up to date, and finds out what the run starts from."""

from typing import NamedTuple

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def ingest(spec: str, platform: str, as_of: str, code_digest: str) -> NamedTuple(
    "Ingested", [("as_of", str), ("data_digest", str), ("opponent", str)]
):
    """Ingest until the as-of time, now where it is empty. Never cached: it is what notices new data."""
    from collections import namedtuple
    from datetime import UTC, datetime
    from pathlib import Path

    from serinus.core.platform import Platform
    from serinus.engines.feast import FeatureStore
    from serinus.engines.kfp_step import step
    from serinus.engines.mlflow import Registry
    from serinus.training.ingest import ingest
    from serinus.training.project import load_project
    from serinus.training.start import name_version, opponent, start_time

    with step() as here:
        where = Platform.model_validate_json(platform)
        loaded = load_project(Path(spec))
        moment = start_time(as_of or datetime.now(UTC).isoformat())
        report = ingest(loaded, FeatureStore.open(where, loaded.model_name), moment)
        registry = Registry(where.tracking_uri, where.artifact_uri)
        rival = opponent(registry, loaded.model_name, moment, report.digest, code_digest)
        here.result(f"{report.rows:,} new rows" if report.rows else "nothing new")
        outputs = namedtuple("Ingested", ["as_of", "data_digest", "opponent"])
        return outputs(moment.isoformat(), report.digest, name_version(rival))
