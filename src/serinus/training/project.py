"""Loads a project folder: its spec, its class and its Feast definitions.

A folder is loaded as a package with a name of its own, so that two projects that both have a `project.py` can live in
one process. Its modules import one another relatively: `from .model import build`.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

from serinus.core.errors import InvalidInput, NotFound
from serinus.core.project import Project
from serinus.core.spec import ContinuousTraining, ModelDeployment, ModelService
from serinus.engines.code import FEATURES, project_digest
from serinus.engines.specfile import read_service


@dataclass(frozen=True)
class LoadedProject:
    """A project ready to use. `package` is the name its modules have in `sys.modules`."""

    project: Project
    directory: Path
    training: ContinuousTraining
    deployment: ModelDeployment
    package: str

    @property
    def model_name(self) -> str:
        """Name of the model in the registry and in addresses."""
        return self.deployment.spec.model.name

    @cached_property
    def features(self) -> ModuleType:
        """The module `features` with the Feast definitions (importing it imports Feast, which takes seconds).

        Raises:
            NotFound: there is no such module.
            InvalidInput: it fails when imported.
        """
        return _import(self.package, FEATURES, self.directory)

    @cached_property
    def code_digest(self) -> str:
        """SHA-256 over the project's own Python that ingestion and training can run."""
        return project_digest(self.directory, self.training.spec.project.entry_point.partition(":")[0])


def load_project(spec_path: Path, service: ModelService | None = None) -> LoadedProject:
    """Load the project of a `serinus.yaml` (or of the folder that holds one).

    Args:
        spec_path: the file or the folder; the project's modules lie beside it.
        service: what to go by instead of what the file says.

    Raises:
        NotFound: the file, the module or the class does not exist.
        InvalidSpec: the file is wrong.
        InvalidInput: the module fails when imported, or the class is no Project.
    """
    service = service or read_service(spec_path)
    directory = (spec_path if spec_path.is_dir() else spec_path.parent).resolve()
    package = _package(directory)
    module_name, _, class_name = service.training.spec.project.entry_point.partition(":")
    module = _import(package, module_name, directory)
    found = getattr(module, class_name, None)
    where = directory / f"{module_name.replace('.', '/')}.py"
    if found is None:
        raise NotFound(f"{where} has no {class_name}", hint="entryPoint is module:Class")
    if not (isinstance(found, type) and issubclass(found, Project)):
        raise InvalidInput(f"{class_name} in {where} is not a subclass of serinus.Project")
    return LoadedProject(
        project=_create(found, where),
        directory=directory,
        training=service.training,
        deployment=service.deployment,
        package=package,
    )


def _package(directory: Path) -> str:
    """A package over the folder, under a name that no other folder has."""
    name = f"serinus_project_{hashlib.sha256(str(directory).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        package = ModuleType(name, f"The project in {directory}.")
        package.__path__ = [str(directory)]
        sys.modules[name] = package
    return name


def _import(package: str, module: str, directory: Path) -> ModuleType:
    name = f"{package}.{module}"
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            raise NotFound(f"there is no module {module} in {directory}", hint="entryPoint is module:Class") from error
        raise InvalidInput(
            f"{module} in {directory} cannot be imported: {error}", hint="install what it needs"
        ) from error
    except Exception as error:
        raise InvalidInput(f"{module} in {directory} cannot be imported: {type(error).__name__}: {error}") from error


def _create(kind: type[Project], where: Path) -> Project:
    try:
        return kind()
    except TypeError as error:
        raise InvalidInput(
            f"{kind.__name__} in {where} cannot be created: {error}", hint="implement every method"
        ) from error
