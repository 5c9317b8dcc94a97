"""Go modules that the testbed builds in their own folders, by their own requirements and replacements, which would not
agree with those of Kubernetes; and the manifests that lie in them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

NICE = ("nice", "-n", "10")


@dataclass(frozen=True)
class Module:
    """A version of a module, with the sum that go.sum would have for it."""

    path: str
    version: str
    sum: str


KSERVE = Module("github.com/kserve/kserve", "v0.20.0", "h1:Bs7HxmGV4KFqqptDcWseKv+mwD4YOYHJWcuVgPG2Gug=")
CONTOUR = Module("github.com/projectcontour/contour", "v1.33.8", "h1:QoOfwqWws+CVRFpsRC2+f1DmB5IdurtyUtepIsiWfE0=")
# The packages of distributions do not discover pods: Debian leaves Kubernetes out of its own.
PROMETHEUS = Module("github.com/prometheus/prometheus", "v0.305.1", "h1:RUn3HzNn/cLuViExfg+oCs9GhcqKYxaLUH/Uh/lEAYs=")
# The newest version of Kubeflow Pipelines that is served as a module: 2.0.5.
PIPELINES = Module(
    "github.com/kubeflow/pipelines",
    "v0.0.0-20231208180049-c5658f09ec38",
    "h1:GOOVpOrOqwJLBxhDS7OFQA2ssvzVu/SD0v6vl7E8nSo=",
)
ARGO = Module("github.com/argoproj/argo-workflows/v3", "v3.7.14", "h1:ptbGB8ljmDgV3PlX0dEMfHwuq1P9DklQ5Hi4XzHBVLA=")
GATEWAY_API = Module("sigs.k8s.io/gateway-api", "v1.5.1", "h1:RqVRIlkhLhUO8wOHKTLnTJA6o/1un4po4/6M1nRzdd0=")


def download(module: Module) -> Path:
    """The folder with a module's files.

    Raises:
        RuntimeError: it cannot be had, or is not what it was.
    """
    command = ["go", "mod", "download", "-json", f"{module.path}@{module.version}"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    found = json.loads(done.stdout or "{}")
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {found.get('Error') or done.stderr.strip()}")
    if found["Sum"] != module.sum:
        raise RuntimeError(f"{module.path} {module.version} has the sum {found['Sum']}, not {module.sum}")
    return Path(found["Dir"])


def build(folder: Path, package: str, program: Path, with_c: bool = False) -> None:
    """Compile a module's command to a program that needs no library.

    Args:
        folder: of the module.
        package: of the command.
        program: what is made.
        with_c: whether there is C in it, for which a compiler must be there.

    Raises:
        RuntimeError: it does not compile.
    """
    flags = "-s -w -linkmode external -extldflags=-static" if with_c else "-s -w"
    # What would look for libraries when the program runs.
    tags = "netgo osusergo sqlite_omit_load_extension" if with_c else ""
    options = ["-mod=readonly", "-trimpath", "-buildvcs=false", f"-tags={tags}", f"-ldflags={flags}"]
    settings = {**os.environ, "CGO_ENABLED": str(int(with_c)), "GOWORK": "off"}
    command = [*NICE, "go", "build", "-C", str(folder), *options, "-o", str(program), package]
    if subprocess.run(command, env=settings, check=False).returncode != 0:
        raise RuntimeError(f"{package} of {folder.name} does not compile")


def copy(module: Module, folder: Path) -> None:
    """A module's files in a new folder, to be changed there before they are built."""
    shutil.copytree(download(module), folder, copy_function=shutil.copyfile)
    # The original's folders cannot be written to.
    for path in (folder, *folder.rglob("*/")):
        path.chmod(0o755)


def keep(path: Path, *manifests: str) -> None:
    """Keep objects in a form that is read in no time."""
    found = [each for text in manifests for each in documents(text)]
    path.write_text(json.dumps(found), encoding="utf-8")


def documents(text: str) -> Iterator[dict[str, Any]]:
    """The objects of a file of manifests."""
    yield from (each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each)
