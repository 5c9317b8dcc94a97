"""Brings the offline store up to date, and finds out what the run starts from."""

from typing import NamedTuple

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def ingest(spec: str, platform: str, as_of: str, resources: str) -> NamedTuple(
    "Ingested",
    [
        ("as_of", str),
        ("data_digest", str),
        ("opponent", str),
        ("data_plan", str),
        ("model_plan", str),
        ("plan", str),
    ],
):
    """Ingest until the as-of time, now where it is empty. Never cached: it is what notices new data and code."""
    from collections import namedtuple
    from datetime import UTC, datetime
    from pathlib import Path

    from serinus.engines.feast import FeatureStore
    from serinus.engines.kfp_step import step
    from serinus.engines.mlflow import Registry
    from serinus.engines.platformfile import find_platform
    from serinus.engines.specfile import parse_text, read_service
    from serinus.training.ingest import ingest
    from serinus.training.plan import make_plans
    from serinus.training.project import load_project
    from serinus.training.start import name_version, opponent, start_time

    with step() as here:
        where = find_platform(platform)
        service = parse_text(resources, "the run's resources") if resources else read_service(Path(spec))
        loaded = load_project(Path(spec), service)
        plans = make_plans(loaded.directory, service)
        moment = start_time(as_of or datetime.now(UTC).isoformat())
        report = ingest(loaded, FeatureStore.open(where, loaded.model_name), moment)
        registry = Registry(where.tracking_uri, where.artifact_uri)
        rival = opponent(registry, loaded.model_name, moment, report.digest, plans.whole.code)
        here.result(f"{report.rows:,} new rows" if report.rows else "nothing new")
        outputs = namedtuple("Ingested", ["as_of", "data_digest", "opponent", "data_plan", "model_plan", "plan"])
        texts = (each.model_dump_json() for each in plans)
        return outputs(moment.isoformat(), report.digest, name_version(rival), *texts)
