"""Go modules that the testbed builds in their own folders, by their own requirements and replacements, which would not
agree with those of Kubernetes; and the manifests that lie in them."""

from __future__ import annotations

import json
import os
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


def build(folder: Path, package: str, program: Path) -> None:
    """Compile a module's command.

    Raises:
        RuntimeError: it does not compile.
    """
    options = ["-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", str(program)]
    settings = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    command = [*NICE, "go", "build", "-C", str(folder), *options, package]
    if subprocess.run(command, env=settings, check=False).returncode != 0:
        raise RuntimeError(f"{package} of {folder.name} does not compile")


def documents(text: str) -> Iterator[dict[str, Any]]:
    """The objects of a file of manifests."""
    yield from (each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each)
