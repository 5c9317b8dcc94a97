"""Evidence on quality from a real log: the worse version is found, and what is not whole is no evidence."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from serinus.core.quality import losses, together
from tests.support_quality import BEGAN, CANARY, STABLE, LogSite, draw

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[LogSite]:
    found = LogSite(tmp_path)
    yield found
    found.close()


def traffic(site: LogSite, rows: int = 3000, share: float = 0.01, seed: int = 1) -> tuple[list[str], np.ndarray]:
    """Requests over the first hour, a share of them to the canary; gives the callers' ids and the outcomes."""
    columns, labels = draw(rows, seed)
    callers = [f"c{seed}-{row}" for row in range(rows)]
    to_canary = np.random.default_rng(seed).random(rows) < share
    part = np.arange(rows) * 4 // rows
    for quarter in range(4):
        for version, own in ((CANARY, to_canary), (STABLE, ~to_canary)):
            held = np.flatnonzero(own & (part == quarter))
            asked = {name: values[held] for name, values in columns.items()}, [callers[row] for row in held]
            site.serve(BEGAN + quarter * 15 * MINUTE + MINUTE, version, asked)
    return callers, labels


def test_the_worse_version_is_found_by_all_traffic(site: LogSite) -> None:
    source = site.source()
    first = site.evidence(source, BEGAN)
    assert (first.labelled.rows, first.missing) == (0, ())
    callers, labels = traffic(site)
    site.report(BEGAN + HOUR, list(zip(callers, labels, strict=True)))
    site.ship()
    found = site.evidence(source, BEGAN + 2 * HOUR)
    assert found.missing == ()
    assert found.labelled.rows == 3000
    mean = found.labelled.total / 3000
    error = np.sqrt(found.labelled.squares / 3000 - mean**2) / np.sqrt(3000)
    assert mean > 4 * error
    (arms,) = found.arms
    assert 10 < arms.canary.rows < 60
    assert arms.canary.rows + arms.stable.rows == 3000
