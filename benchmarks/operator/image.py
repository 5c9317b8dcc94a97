"""The packages of the operator's image, and no others: with all of Serinus' packages MLflow's client loads a plugin of
Feast, and that loads PyTorch, which the image does not have."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from benchmarks.operator.ground import ROOT


def python() -> Path:
    """A Python that has them; made once for the same pins.

    Raises:
        RuntimeError: they cannot be installed.
    """
    pins = ROOT / "requirements" / "operator.txt"
    folder = ROOT / "build" / f"operator-{hashlib.sha256(pins.read_bytes()).hexdigest()[:12]}"
    found, made = folder / "bin" / "python", folder / "made"
    uv = str(Path(sys.executable).with_name("uv"))
    if not made.exists():
        _run(uv, "venv", "--quiet", "--clear", f"--python={sys.executable}", str(folder))
        _run(uv, "pip", "install", "--quiet", f"--python={found}", "--require-hashes", f"--requirement={pins}")
        made.touch()
    return found


def _run(*command: str) -> None:
    if subprocess.run(command, check=False).returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed")
