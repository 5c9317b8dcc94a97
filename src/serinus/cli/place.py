"""What a spec file on this machine stands for: its platform's folders, how its model is served, its registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serinus.control.instance import Serving
    from serinus.core.platform import Platform
    from serinus.engines.mlflow import Registry


def platform_of(file: Path) -> Platform:
    """The platform below a spec's folder."""
    from serinus.core.platform import Platform

    folder = file if file.is_dir() else file.parent
    return Platform.local(folder.resolve() / ".serinus")


def served(file: Path) -> tuple[Serving, Registry]:
    """How the spec's model is served, and where its versions are.

    Raises:
        NotFound: there is no such file.
        InvalidSpec: it is wrong.
    """
    from serinus.control.instance import Serving
    from serinus.engines.mlflow import Registry
    from serinus.engines.specfile import read_service

    deployment = read_service(file).deployment.spec
    platform = platform_of(file)
    spec = (file / "serinus.yaml" if file.is_dir() else file).resolve()
    serving = Serving(platform=platform, deployment=deployment, feature_project=deployment.model.name, spec=spec)
    return serving, Registry(platform.tracking_uri, platform.artifact_uri)
