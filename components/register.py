"""Registers an accepted candidate as a version, and keeps the record of a refused one."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def register(
    plan: str,
    platform: str,
    run: str,
    job: str,
    data_digest: str,
    archive_digest: str,
    rows: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Artifact],
    archive: dsl.Input[dsl.Artifact],
) -> int:
    """The output is the version, 0 for a refused candidate. Never cached: it is what acts on the registry."""
    from pathlib import Path

    from serinus.engines.kfp_step import step
    from serinus.engines.mlflow import Registry
    from serinus.engines.platformfile import find_platform
    from serinus.training.package import PackageReport
    from serinus.training.plan import Plan
    from serinus.training.register import Folders, Origin, read_candidate, register

    with step() as here:
        where = find_platform(platform)
        known = Plan.model_validate_json(plan)
        name = known.model
        folders = Folders(
            dataset=Path(rows.path),
            model=Path(model.path),
            evaluation=Path(evaluation.path),
            gate=Path(verdict.path),
        )
        origin = Origin(known.service().training.spec.training, data_digest, known.code, run or job)
        file = Path(archive.path) / f"{name}.mar"
        package = PackageReport(name=name, path=file, digest=archive_digest, size=file.stat().st_size)
        registry = Registry(where.tracking_uri, where.artifact_uri)
        version = register(registry, read_candidate(name, folders, origin), package)
        names = " ".join(version.aliases) if version else ""
        here.result(f"version {version.version}, {names or 'no alias'}" if version else "no version")
        return version.version if version else 0
