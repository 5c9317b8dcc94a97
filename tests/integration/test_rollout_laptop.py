"""A rollout with nothing made up: real registry, features, servers, traffic and log, and versions with real faults."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from serinus.core.version import CHALLENGER, CHAMPION
from tests.support_rollout_laptop import (
    ERRING,
    NAME,
    SLOW,
    Change,
    Looks,
    Site,
    handled_by,
    harmless,
    mixed_up,
    policy,
    short_lived,
)

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, free_port: int) -> Iterator[Site]:
    """Trained once; ended with the last test."""
    found = Site(tmp_path_factory.mktemp("rollouts") / NAME, free_port)
    yield found
    found.down()


def stable_version(site: Site) -> int:
    return site.registry.get(NAME, CHAMPION).version


def test_a_good_version_is_copied_to_stepped_promoted_and_confirmed(site: Site) -> None:
    site.policy(policy(shadow={"percent": 100}, steps=[20, 50]))
    site.serve_the_past()
    before = stable_version(site)
    version = site.challenger("good", harmless)
    looks = Looks(site.controller())
    with site.traffic() as traffic:
        promoted = looks.until_action("promote")
        assert (promoted.shares.canary, promoted.shares.weight) == (version.version, 100)
        assert stable_version(site) == before, "nothing has confirmed it yet"
        traffic.telling = True
        confirmed = looks.until_action("confirm")
        asked = traffic.total
        looks.until(lambda decision: traffic.total > asked + 200, 30)
    assert [each for each in looks.actions() if each != "adopt"] == ["start", *["advance"] * 3, "promote", "confirm"]
    assert "quality" in confirmed.reasons[0]
    assert (traffic.failed, traffic.errors()) == (0, set())
    assert site.registry.get(NAME, CHAMPION).version == version.version
    assert site.registry.find(NAME, CHALLENGER) is None
    print(traffic.answers, site.counted(), len(looks.decisions))
