"""A rollout with nothing made up: real registry, features, servers, traffic and log, and versions with real faults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from serinus.core.rollout import Shares
from serinus.core.version import CHALLENGER, CHAMPION
from tests.support import eventually
from tests.support_rollout_laptop import NAME, Looks, Site, policy
from tests.support_variants import ERRING, SLOW, Change, handled_by, harmless, mixed_up, short_lived

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, free_port: int) -> Iterator[Site]:
    """Trained once; ended with the last test."""
    found = Site(tmp_path_factory.mktemp("rollouts") / NAME, free_port)
    yield found
    found.down()


def champion(site: Site) -> int:
    return site.registry.get(NAME, CHAMPION).version


def test_a_good_version_is_copied_to_stepped_promoted_and_confirmed(site: Site) -> None:
    site.policy(policy(shadow={"percent": 100}, steps=[20, 50]))
    site.serve_the_past()
    before = champion(site)
    version = site.challenger("good", harmless)
    looks = Looks(site)
    with site.traffic() as traffic:
        promoted = looks.until_action("promote")
        assert (promoted.shares.canary, promoted.shares.weight) == (version.version, 100)
        assert champion(site) == before, "nothing has confirmed it yet"
        traffic.telling = True
        confirmed = looks.until_action("confirm")
        assert confirmed.shares == Shares(stable=version.version)
        traffic.wait_for(100)
    assert looks.actions() == ["start", *["advance"] * 3, "promote", "confirm"]
    assert "rows with outcomes" in confirmed.reasons[0]
    assert (traffic.failed, traffic.errors()) == (0, set())
    assert set(traffic.versions) == {before, version.version}
    assert site.failures() == looks.failures_before
    assert champion(site) == version.version
    assert site.registry.find(NAME, CHALLENGER) is None
    assert site.up() == {version.version}
    looks.require_ledger()


@pytest.mark.parametrize(
    ("name", "change", "guard"),
    [("slow", handled_by(SLOW), "slow"), ("feature", short_lived, "features")],
)
def test_a_harmful_version_is_rolled_back_for_its_fault(site: Site, name: str, change: Change, guard: str) -> None:
    site.policy(policy())
    site.serve_the_past()
    before = champion(site)
    version = site.challenger(name, change)
    looks = Looks(site)
    with site.traffic() as traffic:
        decision = looks.until_action("rollback")
        traffic.wait_for(100)
    found, *more = [each.split()[0].rstrip(":") for each in decision.reasons]
    assert found == guard
    assert set(more) <= {"predictions"}, "values that are missing do move predictions"
    assert looks.actions() == ["start", "advance", "rollback"]
    assert traffic.versions[version.version] > 0
    assert (traffic.failed, site.failures()) == (0, looks.failures_before)
    assert (champion(site), site.up()) == (before, {before})
    looks.require_ledger()


def test_a_version_that_errs_is_rolled_back_and_only_its_own_requests_fail(site: Site) -> None:
    site.policy(policy())
    site.serve_the_past()
    before = champion(site)
    version = site.challenger("erring", handled_by(ERRING))
    looks = Looks(site)
    with site.traffic() as traffic:
        decision = looks.until_action("rollback")
        traffic.wait_for(100)
    assert [each.split(":")[0] for each in decision.reasons] == ["errors"]
    assert looks.actions() == ["start", "advance", "rollback"]
    failures = {number: count for number, count in (site.failures() - looks.failures_before).items() if count}
    assert failures == {version.version: traffic.failed}, "every failed request is one that the canary failed"
    assert all("internal error" in each for each in traffic.errors())
    assert (champion(site), site.up()) == (before, {before})
    looks.require_ledger()


def test_a_version_that_only_outcomes_show_to_be_worse_is_undone_and_the_old_one_stayed_warm(site: Site) -> None:
    # It loses some .05 more a row: with a margin of .1 that would be safe.
    quality = {"margin": 0.02, "estimatedTolerance": 0.9, "earlyOutcomes": True}
    site.policy(policy(guards={"quality": quality}))
    site.serve_the_past()
    before = champion(site)
    version = site.challenger("mixed-up", mixed_up)
    looks = Looks(site)
    with site.traffic() as traffic:
        promoted = looks.until_action("promote")
        assert promoted.shares.weight == 100
        pid = site.pid(before)
        traffic.telling = True
        decision = looks.until_action("undo")
        assert site.up() == {before}
        traffic.wait_for(100)
        assert site.pid(before) == pid, "it was there all the time"
    assert decision.reasons[0].startswith("quality: log loss")
    assert looks.actions() == ["start", "advance", "promote", "undo"]
    assert (traffic.failed, site.failures()) == (0, looks.failures_before)
    assert champion(site) == before
    held = looks.decisions[-1]
    assert held.state.refusal(version.version) is not None
    looks.require_ledger()


def test_a_version_whose_archive_was_damaged_never_gets_a_request(site: Site) -> None:
    site.policy(policy())
    site.serve_the_past()
    before = champion(site)
    version = site.challenger("damaged", harmless)
    site.damage(version)
    looks = Looks(site)
    with site.traffic() as traffic:
        decision = looks.until_action("rollback")
        traffic.wait_for(50)
    assert looks.actions() == ["start", "rollback"]
    assert version.digest in decision.reasons[0]
    assert "damaged or was replaced" in decision.reasons[0]
    assert set(traffic.versions) == {before}
    assert (traffic.failed, site.failures()) == (0, looks.failures_before)
    assert site.up() == {before}
    looks.require_ledger()


def test_up_keeps_a_process_that_decides_and_answers_commands(site: Site) -> None:
    site.policy(policy(pace={"minimumDuration": "1h", "maximumDuration": "2h"}))
    site.down()
    before = champion(site)
    version = site.challenger("commanded", harmless)
    up = site.run("up", "--port", str(site.port))
    assert up["version"] == before
    status = eventually(lambda: shown_with(site, version.version), 120, interval=1)
    assert status["rollout"]["canary"] == version.version
    assert {each["name"]: each["state"] for each in status["programs"]}["rollout"] == "RUNNING"
    eventually(lambda: site.run("rollout", "status")["phase"] == "step", 60, interval=1)

    paused = site.run("rollout", "pause", "--why", "a sale is on", "--who", "ann")
    assert (paused["action"], paused["reasons"]) == ("pause", ["ann: a sale is on"])
    assert site.run("rollout", "status", expect=1)["paused"]["why"] == "a sale is on"
    back = site.run("rollout", "rollback", "--why", "no new prices today", "--who", "ann")
    assert (back["action"], back["shares"]["canary"]) == ("rollback", None)
    eventually(lambda: site.up() == {before}, 60, interval=0.5)
    asked = site.run("rollout", "resume", "--why", "for nothing")
    assert asked["reasons"][-1] == "there is no rollout to act on"
    assert site.run("ledger", "verify")["broken"] is None
    assert site.run("ledger", "replay")["broken"] is None
    assert site.run("down")["was_up"]


def shown_with(site: Site, canary: int) -> Any:
    """The status, once the canary is ready beside the stable version."""
    found = site.run("status", expect=None)
    ready = {each["version"]: each["ready"] for each in found["versions"]}
    return found if ready.get(canary) else None
