"""Rollouts on a real cluster: real pods of our image behind KServe and a Gateway, judged by what Prometheus counted."""

from __future__ import annotations

import random
import subprocess
import tempfile
from pathlib import Path

import pytest

from serinus.engines.kubernetes import HTTP_ROUTE
from tests.support_rollout_cluster import ClusterSite, OperatorProcess, cluster_policy
from tests.support_rollout_laptop import NAME
from tests.support_variants import ERRING, IN_CAPITALS, IN_SECONDS, SLOW, handled_by, harmless

pytestmark = pytest.mark.timeout(1500)

KILLS, SEED = 5, 6
BROKEN = "raise RuntimeError('this version cannot be loaded')\n"


def test_the_first_version_answers_with_features_from_redis(site: ClusterSite) -> None:
    with site.traffic() as traffic:
        traffic.wait_for(200)
    assert traffic.failed == 0, traffic.errors()
    assert set(traffic.versions) == {site.champion}
    assert site.status()["stable"] == site.champion


def test_a_good_version_is_copied_to_stepped_and_promoted(site: ClusterSite) -> None:
    before = site.champion
    site.deploy(cluster_policy(shadow={"percent": 100}, steps=[20, 50]))
    with site.traffic() as traffic:
        version = site.challenger("good", harmless).version
        site.until("promoted", lambda: site.status().get("stable") == version)
        site.until("the old version is gone", lambda: site.settled(version), 120)
        traffic.wait_for(200)
    assert traffic.failed == 0, traffic.errors()
    assert set(traffic.versions) == {before, version}
    assert site.actions()[-5:] == ["start", "advance", "advance", "advance", "promote"]
    assert site.champion == version
    site.require_ledger()


@pytest.mark.parametrize(
    ("name", "code", "guard"),
    [
        ("slow", SLOW.replace("0.25", "1.5"), "slow"),
        ("erring", ERRING, "errors"),
        ("in-seconds", IN_SECONDS, "predictions"),
        ("in-capitals", IN_CAPITALS, "features"),
    ],
)
def test_a_harmful_version_is_rolled_back_for_its_fault(site: ClusterSite, name: str, code: str, guard: str) -> None:
    before = site.champion
    site.deploy(cluster_policy())
    with site.traffic() as traffic:
        version = site.challenger(name, handled_by(code)).version
        site.until("rolled back", lambda: site.taken_back(version), 300)
        site.until("it is gone", lambda: site.settled(before), 120)
        traffic.wait_for(100)
    assert (site.taken_back(version) or "").startswith(guard)
    assert (guard == "errors") == (traffic.failed > 0)
    assert traffic.versions[version] > 0
    assert all("internal error" in each for each in traffic.errors())
    assert site.champion == before
    events = site.kubectl(
        "get", "events.events.k8s.io", f"--namespace={site.namespace}", "--output=jsonpath={.items[*].reason}"
    )
    assert "RolledBack" in events.split()
    site.require_ledger()


def test_a_version_that_crashes_again_and_again_is_rolled_back_with_its_own_words(site: ClusterSite) -> None:
    before = site.champion
    pace = {"minimumDuration": "1s", "minimumRequests": 50, "maximumDuration": "5m", "readyTimeout": "45s"}
    site.deploy(cluster_policy(pace=pace))
    with site.traffic() as traffic:
        version = site.challenger("broken", handled_by(BROKEN)).version
        site.until("rolled back", lambda: site.taken_back(version), 300)
        site.until("it is gone", lambda: site.settled(before), 120)
        traffic.wait_for(50)
    assert traffic.failed == 0
    assert set(traffic.versions) == {before}
    words = site.taken_back(version) or ""
    assert words.startswith(f"version {version} was not ready for 45s: kserve-container of pod {NAME}-v{version}-")
    assert "this version cannot be loaded" in words


def test_an_archive_that_was_swapped_never_serves(site: ClusterSite) -> None:
    before = site.champion
    site.pause(True)
    site.deploy(cluster_policy())
    version = site.challenger("swapped", harmless)
    command = ["find", tempfile.gettempdir(), "-path", f"*{version.run}*", "-name", version.archive]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    places = [Path(each) for each in found.stdout.split()]
    assert places, "the testbed's registry keeps the archive on this machine"
    for place in places:
        place.write_bytes(b"something else")
    site.pause(False)
    with site.traffic() as traffic:
        site.until("taken back", lambda: site.taken_back(version.version), 300)
        site.until("it is gone", lambda: site.settled(before), 120)
    assert "cannot be served" in (site.taken_back(version.version) or "")
    assert (traffic.failed, set(traffic.versions)) == (0, {before})
    assert site.champion == before


def test_a_route_that_was_changed_by_hand_is_set_right(site: ClusterSite) -> None:
    before = site.found(HTTP_ROUTE)["spec"]
    site.kubectl(
        "patch", "httproute", NAME, f"--namespace={site.namespace}", "--type=json",
        '--patch=[{"op": "replace", "path": "/spec/hostnames", "value": ["elsewhere.example"]}]',
    )  # fmt: skip
    site.until("set right", lambda: site.found(HTTP_ROUTE)["spec"] == before, 60)


def test_an_operator_that_is_killed_is_followed_by_one_that_goes_on(
    site: ClusterSite, operator: OperatorProcess
) -> None:
    before = site.champion
    site.deploy(cluster_policy(shadow={"percent": 100}, steps=[20, 50]))
    with site.traffic() as traffic:
        version = site.challenger("after-a-crash", harmless).version
        for action in ("start", "advance"):
            site.until(action, lambda action=action: site.last_action() == action, 300)
            operator.kill()
            operator.start()
        # And wherever it happens to be, from its first second on.
        moments = random.Random(SEED)
        for _ in range(KILLS):
            traffic.wait_for(moments.randrange(50, 800))
            operator.kill()
            operator.start()
        site.until("promoted", lambda: site.status().get("stable") == version)
        site.until("the old version is gone", lambda: site.settled(version), 120)
    assert traffic.failed == 0, traffic.errors()
    assert set(traffic.versions) == {before, version}
    site.require_ledger()
