"""The guard on quality on a cluster, all of it installed: pods log to S3, outcomes come through the Gateway, the scorer
scores what was logged, and the operator decides by what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from serinus.core.ledger import Entry
from tests.cluster.conftest import Kubectl
from tests.cluster.node.conftest import Gateway
from tests.cluster.testbed.site import SYSTEM
from tests.support_install import InstalledSite, forwarded, require_images, standalone
from tests.support_rollout_laptop import NAME, policy
from tests.support_variants import harmless, mixed_up

pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("definitions")]

LOG = {"destination": "s3://serinus/log", "segmentAge": "1s"}
# A version that mixes channels up loses some .05 more a row: with a margin of .1 that would be safe.
QUALITY = {"blocking": True, "margin": 0.02, "estimatedTolerance": 0.9, "earlyOutcomes": True}
PACE = {"minimumDuration": "1s", "minimumRequests": 50, "maximumDuration": "20m", "readyTimeout": "10m"}
MLFLOW = 5000
SCORER = "deployment/serinus-scorer"


def judged() -> dict[str, Any]:
    """A rollout no step of which is taken, and no promotion of which is confirmed, without outcomes."""
    confirmation = {"minimumLabels": 300, "maximumDuration": "20m", "inconclusive": "undo"}
    own = policy(interval="5s", pace=PACE, confirmation=confirmation, guards={"quality": QUALITY})
    # Two processors run all of it: a pod that has just come may wait for one of them.
    own["guards"]["slow"] = {"threshold": "1s", "ratio": 3, "margin": 0.2}
    return own


@pytest.fixture(scope="module")
def site(kubectl: Kubectl, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InstalledSite]:
    """A first version that answers through the Gateway, and a log in the overlay's own S3."""
    require_images(kubectl)
    with standalone(kubectl, tmp_path_factory.mktemp("install")), forwarded("mlflow", 5000, MLFLOW):
        folder = tmp_path_factory.mktemp("models")
        found = InstalledSite(folder, kubectl, "flights", gateway.address, mlflow=MLFLOW)
        found.deploy(judged(), log=LOG)
        found.until("the first version answers", lambda: found.condition("Ready").get("status") == "True", 300)
        yield found
        kubectl("delete", "modeldeployment", NAME, "--namespace=flights", "--wait")


def scaled(kubectl: Kubectl, replicas: int) -> None:
    kubectl("scale", SCORER, f"--namespace={SYSTEM}", f"--replicas={replicas}")
    kubectl("rollout", "status", SCORER, f"--namespace={SYSTEM}", "--timeout=180s")


def quality_says(site: InstalledSite) -> str:
    """What the status tells of the guard."""
    return " ".join(each["text"] for each in site.status().get("evidence", ()) if each["guard"] == "quality")


def newest(site: InstalledSite, action: str) -> Entry:
    return next(each for each in site.ledger.newest_first() if each.action == action)


def require_whole(entry: Entry) -> None:
    """What was decided rests on rows with outcomes, and nothing was missing."""
    quality = entry.situation.quality
    assert quality is not None
    assert quality.missing == ()
    assert quality.labelled.rows >= 100


def test_a_version_that_predicts_worse_is_rolled_back_for_it(site: InstalledSite) -> None:
    before = site.champion
    with site.traffic() as traffic:
        traffic.telling = True
        version = site.challenger("mixed-up", mixed_up).version
        site.until("rolled back", lambda: site.taken_back(version), 900)
        site.until("it is gone", lambda: site.versions() == {before}, 120)
    assert (site.taken_back(version) or "").startswith("quality: log loss")
    assert site.champion == before
    assert (traffic.failed, set(traffic.versions)) == (0, {before, version}), traffic.errors()
    require_whole(newest(site, "rollback"))
    site.require_ledger()


def test_a_good_version_waits_for_the_scorer_and_is_promoted_and_confirmed(
    site: InstalledSite, kubectl: Kubectl
) -> None:
    before = site.champion
    scaled(kubectl, 0)
    with site.traffic() as traffic:
        traffic.telling = True
        version = site.challenger("good", harmless).version
        site.until("it says who is missing", lambda: "the scorer has not answered yet" in quality_says(site), 300)
        scaled(kubectl, 1)
        site.until("confirmed", lambda: site.champion == version, 900)
        site.until("the old version is gone", lambda: site.versions() == {version}, 120)
    assert (traffic.failed, set(traffic.versions)) == (0, {before, version}), traffic.errors()
    assert site.actions()[-4:] == ["start", "advance", "promote", "confirm"]
    for action in ("promote", "confirm"):
        require_whole(newest(site, action))
    site.require_ledger()
