"""The testbed's programs, compiled once: kept in the user's cache under the digest of what they are made of."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.cluster.testbed import gateway, images, kserve, kubeflow, modules
from tests.cluster.testbed.levels import LEVELS, includes

HERE = Path(__file__).parent
# Each level is made of these; a node of more. What only pipelines need is made apart.
SOURCES = ("go.mod", "go.sum", "build.sh", "cmd/hyperkube/*.go")
NODE_SOURCES = ("cmd/*/*.go", "build.py", "images.py", "modules.py")
PIPELINES_SOURCES = ("images.py", "kubeflow.py", "metadata.txt", "modules.py")


def programs(level: str) -> Path:
    """The folder with the programs of a level, built now if it is not in the cache.

    Raises:
        RuntimeError: they cannot be built.
    """
    level = min(level, "node", key=LEVELS.index)
    return _kept(f"{level}-{digest(level)}", lambda folder: _build(level, folder))


def pipelines() -> Path:
    """The folder with what the level `pipelines` has besides, made now if it is not in the cache.

    Raises:
        RuntimeError: it cannot be made.
    """
    base = base_image()
    made_of = hashlib.sha256(f"{digest('pipelines')}\0{base.parent.name}\0{kubeflow.KFP}".encode()).hexdigest()[:16]
    return _kept(f"pipelines-{made_of}", lambda folder: kubeflow.build(folder, base))


def base_image() -> Path:
    """The archive of an image with the machine's own distribution and Python, made now if it is not in the cache.

    Raises:
        RuntimeError: it cannot be made.
    """
    made_of = hashlib.sha256((HERE / "images.py").read_bytes()).hexdigest()[:16]
    return _kept(f"base-{made_of}", lambda folder: images.of_distribution(folder / "base.tar")) / "base.tar"


def digest(level: str) -> str:
    """Digest of everything in this folder that decides what is built for a level."""
    patterns = {"node": (*SOURCES, *NODE_SOURCES), "pipelines": PIPELINES_SOURCES}.get(level, SOURCES)
    sources = sorted({path for pattern in patterns for path in HERE.glob(pattern)})
    found = hashlib.sha256()
    for path in sources:
        found.update(f"{path.relative_to(HERE)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()[:16]


def _kept(name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, with what is made once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "serinus" / "testbed"
    cache.mkdir(parents=True, exist_ok=True)
    made = cache / name
    # Whoever comes second waits for the first one, and finds what that has made.
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_dir():
            # Made beside its place, and moved there whole. What another one has left there is of no use to anyone.
            unfinished = cache / "unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(made)
    return made


def _build(level: str, folder: Path) -> None:
    if shutil.which("go") is None:
        raise RuntimeError("the testbed is compiled: install Go 1.26 or newer, or set KUBECONFIG to use a cluster")
    result = subprocess.run([*modules.NICE, HERE / "build.sh", level, folder], stdin=subprocess.DEVNULL, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{HERE / 'build.sh'} {level} failed with exit code {result.returncode}")
    if includes(level, "node"):
        _add_modules(folder)
        for name in ("pause", "coredns"):
            images.of_program(folder / name, folder / f"{name}.tar")


def _add_modules(folder: Path) -> None:
    """What is built from modules of its own, and the manifests that lie in them."""
    definitions = modules.download(modules.GATEWAY_API) / "config" / "crd" / "standard"
    module = modules.download(modules.CONTOUR)
    modules.build(module, "./cmd/contour", folder / "contour")
    paths = [*sorted(definitions.glob("*.yaml")), module / "examples" / "contour" / "01-crds.yaml"]
    modules.keep(folder / gateway.OBJECTS, *(path.read_text(encoding="utf-8") for path in paths))

    module = modules.download(modules.KSERVE)
    modules.build(module, "./cmd/manager", folder / kserve.PROGRAM)
    kustomize = [folder / "kubectl", "kustomize", module / "config" / "default"]
    kustomized = subprocess.run(kustomize, capture_output=True, text=True, check=True).stdout
    # Its kustomization leaves its ConfigMap out.
    settings = (module / "config" / "configmap" / "inferenceservice.yaml").read_text(encoding="utf-8")
    modules.keep(folder / kserve.OBJECTS, kustomized, settings)

    modules.build(modules.download(modules.PROMETHEUS), "./cmd/prometheus", folder / "prometheus")
