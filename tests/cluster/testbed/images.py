"""Container images without a builder: an archive as `docker save` writes it, of one layer or two."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

NAMESPACE = "localhost/testbed"
BASE_PACKAGES = ("python3", "curl")
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def reference(name: str) -> str:
    """How a pod names an image of the testbed. A tag that is not `latest` is looked for on the node first."""
    return f"{NAMESPACE}/{name}:1"


def of_program(program: Path, archive: Path) -> None:
    """An image that holds one program, statically linked, and runs it."""
    layer = archive.with_suffix(".layer")
    with tarfile.open(layer, "w") as tar:
        tar.add(program, program.name, filter=_plain)
    _pack(archive, program.name, [layer], [f"/{program.name}"])


def of_folder(folder: Path, archive: Path) -> None:
    """An image that holds a folder's files, such as programs in `bin`, and is called as the archive is."""
    _pack(archive, archive.stem, [_layer_of(folder, archive)], [])


def on_top(base: Path, folder: Path, archive: Path) -> None:
    """An image that holds what that of another archive does and a folder's files, and is called as its archive is."""
    below = archive.with_suffix(".below")
    with tarfile.open(base) as tar:
        (image,) = json.load(_open(tar, "manifest.json"))
        (layer,) = image["Layers"]
        with below.open("wb") as copy:
            shutil.copyfileobj(_open(tar, layer), copy)
    _pack(archive, archive.stem, [below, _layer_of(folder, archive)], [])


def of_distribution(archive: Path) -> None:
    """An image of the machine's own distribution with Python, from the packages that the machine itself is given.

    Raises:
        RuntimeError: it cannot be made.
    """
    if shutil.which("mmdebstrap") is None:
        raise RuntimeError("pods of the testbed run in an image made by mmdebstrap: install it")
    layer = archive.with_suffix(".layer.tar")
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}"]
    command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    done = subprocess.run([*command, _release(), str(layer)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"mmdebstrap: {done.stderr[-2000:]}")
    _pack(archive, "base", [layer], [])


def _release() -> str:
    with Path("/etc/os-release").open(encoding="utf-8") as lines:
        fields = dict(line.rstrip().split("=", 1) for line in lines if "=" in line)
    return fields["VERSION_CODENAME"].strip('"')


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def _layer_of(folder: Path, archive: Path) -> Path:
    layer = archive.with_suffix(".layer")
    with tarfile.open(layer, "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name, filter=_plain)
    return layer


def _open(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    found = tar.extractfile(name)
    if found is None:
        raise RuntimeError(f"{name} in {tar.name} is no file")
    return found


def _pack(archive: Path, name: str, layers: Sequence[Path], entrypoint: Sequence[str]) -> None:
    """Put the layers, the lowest first, and what describes them into an archive; their files are gone then."""
    digests = {}
    for layer in layers:
        with layer.open("rb") as content:
            digests[layer] = hashlib.file_digest(content, "sha256").hexdigest()
    settings = {"Env": [_PATH], "Entrypoint": list(entrypoint) or None, "WorkingDir": "/"}
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests.values()]}
    config = json.dumps({"architecture": _architecture(), "os": "linux", "config": settings, "rootfs": rootfs}).encode()
    described = f"{hashlib.sha256(config).hexdigest()}.json"
    paths = [f"{digest}/layer.tar" for digest in digests.values()]
    manifest = [{"Config": described, "RepoTags": [reference(name)], "Layers": paths}]
    with tarfile.open(archive, "w") as tar:
        for path, content in (("manifest.json", json.dumps(manifest).encode()), (described, config)):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for layer, inside in zip(layers, paths, strict=True):
            tar.add(layer, inside, filter=_plain)
            layer.unlink()


def _architecture() -> str:
    """By the name that images have for it."""
    done = subprocess.run(["go", "env", "GOARCH"], capture_output=True, text=True, check=True)
    return done.stdout.strip()
