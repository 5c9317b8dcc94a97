"""Kubeflow Pipelines and Argo Workflows, which runs its steps: one image with their programs, for their controllers and
for what they put into each pod; the objects in their modules; and what is no Go: ML Metadata, and an image of steps."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from tests.cluster.testbed import images, modules

HERE = Path(__file__).parent
PROGRAMS = "kubeflow"
STEP = "step"
OBJECTS = "kubeflow.json"
METADATA = "metadata"
METADATA_PINS = HERE / "metadata.txt"
KFP = version("kfp")

_PIPELINES = {
    "apiserver": "./backend/src/apiserver",
    "driver": "./backend/src/v2/cmd/driver",
    "launcher-v2": "./backend/src/v2/cmd/launcher-v2",
    "persistence_agent": "./backend/src/agent/persistence",
    "scheduledworkflow": "./backend/src/crd/controller/scheduledworkflow",
}
# It judges its database's errors by those of SQLite, which is C.
_WITH_C = "apiserver"
_ARGO = {"argoexec": "./cmd/argoexec", "workflow-controller": "./cmd/workflow-controller"}
# A link in Argo's repository, which is no file and hence not in its module.
_LOST, _SAME = (Path("workflow/executor/osspecific") / f"signal_{system}.go" for system in ("linux", "darwin"))
_PIPELINES_OBJECTS = (
    "manifests/kustomize/base/pipeline/cluster-scoped/scheduled-workflow-crd.yaml",
    "manifests/kustomize/base/pipeline/ml-pipeline-apiserver-[rs]*.yaml",
    "manifests/kustomize/base/pipeline/ml-pipeline-persistenceagent-[rs]*.yaml",
    "manifests/kustomize/base/pipeline/ml-pipeline-scheduledworkflow-[rs]*.yaml",
)
_ARGO_OBJECTS = (
    # The full ones are too large to be read in no time, and doubt what Kubeflow Pipelines writes.
    "manifests/base/crds/minimal/argoproj.io_*.yaml",
    "manifests/base/workflow-controller/workflow-controller-sa.yaml",
    "manifests/namespace-install/workflow-controller-rbac/workflow-controller-*.yaml",
)


def build(folder: Path, base: Path) -> None:
    """Make everything of it in a folder.

    Args:
        folder: where it is to be.
        base: the archive of the image that steps run in, without Kubeflow Pipelines' part of it.

    Raises:
        RuntimeError: something cannot be made.
    """
    _programs(folder)
    _step(folder, base)
    _metadata(folder / METADATA)


def _programs(folder: Path) -> None:
    pipelines, argo, root = modules.download(modules.PIPELINES), folder / "argo", folder / "root"
    modules.copy(modules.ARGO, argo)
    shutil.copyfile(argo / _SAME, argo / _LOST)
    for name, package in _PIPELINES.items():
        modules.build(pipelines, package, root / "bin" / name, with_c=name == _WITH_C)
    for name, package in _ARGO.items():
        modules.build(argo, package, root / "bin" / name)
    found = [path for pattern in _PIPELINES_OBJECTS for path in sorted(pipelines.glob(pattern))]
    found += [path for pattern in _ARGO_OBJECTS for path in sorted(argo.glob(pattern))]
    modules.keep(folder / OBJECTS, *(path.read_text(encoding="utf-8") for path in found))
    _settings(root, pipelines)
    images.of_folder(root, folder / f"{PROGRAMS}.tar")
    shutil.rmtree(root)
    shutil.rmtree(argo)


def _settings(root: Path, pipelines: Path) -> None:
    """What programs find in their image besides themselves."""
    (root / "config").mkdir()
    shutil.copyfile(pipelines / "backend/src/apiserver/config/config.json", root / "config" / "config.json")
    # Pipelines to start with.
    (root / "config" / "samples.json").write_text("[]", encoding="ascii")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)


def _step(folder: Path, base: Path) -> None:
    """An image in which Python components run: Kubeflow Pipelines' own package, of which nothing else is needed."""
    found = importlib.util.find_spec("kfp")
    if found is None or found.origin is None:
        raise RuntimeError("there is no kfp in this environment: make env")
    root, unneeded = folder / "root", shutil.ignore_patterns("__pycache__", "*_test.py")
    shutil.copytree(Path(found.origin).parent, root / "usr/lib/python3/dist-packages/kfp", ignore=unneeded)
    images.on_top(base, root, folder / f"{STEP}.tar")
    shutil.rmtree(root)


def _metadata(folder: Path) -> None:
    """An environment of ML Metadata's own: its requirements are older than everybody else's."""
    environment = ["venv", "--without-pip", str(folder)]
    # By this environment's pip, and hence from where the user has told that to look.
    packages = ["pip", "--python", str(folder / "bin" / "python"), "--disable-pip-version-check", "install", "--quiet"]
    for module in (environment, [*packages, "--require-hashes", "--requirement", str(METADATA_PINS)]):
        done = subprocess.run([sys.executable, "-m", *module], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(module)}: {done.stderr.strip()}")
