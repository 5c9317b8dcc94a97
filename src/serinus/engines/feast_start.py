"""Imports Feast without two things that take most of its time and that we do not use.

Feast decorates its classes with typeguard's run-time checks, whose compilation takes 2 CPU-seconds a process, and
imports torch, where there is one, for on-demand views over tensors (1.5 CPU-seconds). Every step of the pipeline,
`up`, and each worker is a process. Only what Feast sees while it is imported changes; measured in
docs/decisions/0006-importing-feast.md. Feast also points prometheus_client of this process, and of every one started
from it, to a temporary folder that goes with the first of them to end: that is undone, and prometheus_client imported
before, so that it counts in memory unless a predictor has said where.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_METRICS_FOLDERS = ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR")


@contextmanager
def quick_import() -> Iterator[None]:
    """Import Feast inside this; afterwards everything else is as it was."""
    import prometheus_client  # noqa: F401
    import typeguard

    original = typeguard.typechecked
    hide_torch = "torch" not in sys.modules
    folders = {name: os.environ.get(name) for name in _METRICS_FOLDERS}
    typeguard.typechecked = _unchecked
    if hide_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` an ImportError
    try:
        yield
    finally:
        typeguard.typechecked = original
        if hide_torch:
            del sys.modules["torch"]
        for name, folder in folders.items():
            if folder is None:
                os.environ.pop(name, None)


def _unchecked(target: Any = None, **_: Any) -> Any:
    return target if target is not None else lambda found: found


with quick_import():
    import feast  # noqa: F401
