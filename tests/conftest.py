"""What all tests share: how hypothesis runs, and tests that only some machines can run."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest
from hypothesis import settings

# Other tests run beside this one: a slow example is no failure.
settings.register_profile("serinus", deadline=None)
settings.load_profile("serinus")

# Two pytest processes and the engines that they start share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

NEEDS = {"prometheus": "a prometheus binary: apt-get install prometheus"}
_deselected: dict[str, int] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, and count, tests of an engine that the operating system does not have."""
    for marker in NEEDS:
        if shutil.which(marker):
            continue
        left_out = [item for item in items if item.get_closest_marker(marker)]
        if left_out:
            items[:] = [item for item in items if not item.get_closest_marker(marker)]
            config.hook.pytest_deselected(items=left_out)
            _deselected[marker] = len(left_out)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under xdist, a worker tells the controller what it left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["serinus_deselected"] = _deselected


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Every worker collects everything, so one worker's counts are the run's."""
    _deselected.update(getattr(node, "workeroutput", {}).get("serinus_deselected", {}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say which tests did not run here, and what they need."""
    for marker, count in _deselected.items():
        tests = "1 test" if count == 1 else f"{count} tests"
        terminalreporter.write_line(f"deselected: {tests} marked {marker}; to run them, install {NEEDS[marker]}")


@pytest.fixture(scope="session")
def free_port() -> int:
    """A port of this machine that nothing listens on at present."""
    from serinus.engines.ports import free_ports

    return free_ports(1)[0]
