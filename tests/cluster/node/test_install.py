"""`kubectl apply -k manifests/overlays/standalone` on a cluster that has KServe and a Gateway's controller, as
docs/install.md has it, until a model answers through the Gateway; all that it needs is in the overlay's own stores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fsspec
import httpx
import pytest
import redis

from serinus.engines.prediction_store import PredictionStore
from tests.cluster.conftest import Kubectl
from tests.cluster.node.conftest import Gateway
from tests.cluster.objects import SYSTEM
from tests.support import eventually
from tests.support_install import InstalledSite, address, forwarded, require_images, rolled_out, standalone
from tests.support_rollout_laptop import NAME
from tests.support_variants import harmless

pytestmark = [pytest.mark.timeout(1500), pytest.mark.usefixtures("definitions")]

LOG = "s3://serinus/log"
MLFLOW = 5000


@pytest.fixture(scope="module")
def installed(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All of it, ready."""
    require_images(kubectl)
    with standalone(kubectl, tmp_path_factory.mktemp("install")):
        yield


@pytest.fixture(scope="module")
def site(
    installed: None, kubectl: Kubectl, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InstalledSite]:
    """A first version that answers through the Gateway."""
    folder = tmp_path_factory.mktemp("models")
    # MLflow answers to names that it knows alone, this one among them.
    with forwarded("mlflow", 5000, MLFLOW):
        found = InstalledSite(folder, kubectl, "flights", gateway.address, mlflow=MLFLOW)
        deploy(found)
        found.until("the first version answers", lambda: found.condition("Ready").get("status") == "True", 300)
        yield found
        kubectl("delete", "modeldeployment", NAME, "--namespace=flights", "--wait")


def deploy(site: InstalledSite, **rollout: Any) -> None:
    site.put(rollout, destination=LOG, segmentAge="1s")


def test_a_model_answers_and_all_that_it_needs_is_in_the_stores(site: InstalledSite) -> None:
    with site.traffic() as traffic:
        traffic.wait_for(200)
    assert (traffic.failed, set(traffic.versions)) == (0, {site.champion}), traffic.errors()
    options = site.platform.options_for(LOG)
    bucket = fsspec.filesystem("s3", **options)
    assert [each for each in bucket.find("serinus/mlflow") if each.endswith(".mar")]
    assert [each for each in bucket.find(f"serinus/features/{NAME}") if each.endswith(".parquet")]
    eventually(lambda: PredictionStore(LOG, options).files("predictions"), timeout=60)


def test_what_is_installed_is_scraped(site: InstalledSite, kubectl: Kubectl) -> None:
    url = f"http://{address(kubectl, 'prometheus')}:9090/api/v1/query"

    def of(query: str) -> set[str]:
        answer = httpx.get(url, params={"query": query}).json()
        return {each["metric"]["namespace"] for each in answer["data"]["result"]}

    with site.traffic() as traffic:
        traffic.wait_for(50)
    eventually(lambda: "flights" in of("serinus_requests_total"), timeout=60)
    eventually(lambda: of("serinus_operator_leading == 1") == {SYSTEM}, timeout=60)


def test_a_better_version_is_promoted_by_what_was_counted(site: InstalledSite) -> None:
    before = site.champion
    deploy(site, shadow={"percent": 100}, steps=[50])
    with site.traffic() as traffic:
        version = site.challenger("good", harmless).version
        site.until("promoted", lambda: site.status().get("stable") == version)
        site.until("the old version is gone", lambda: site.versions() == {version}, 120)
    assert (traffic.failed, set(traffic.versions)) == (0, {before, version}), traffic.errors()
    site.require_ledger()


def test_stores_keep_what_they_have_when_their_pods_end(site: InstalledSite, kubectl: Kubectl) -> None:
    """A trial has one of each, and its node may be restarted."""

    def kept() -> tuple[int, list[str]]:
        password = site.platform.storage_options["secret"]
        features = redis.Redis(address(kubectl, "redis"), password=str(password)).dbsize()
        models = fsspec.filesystem("s3", **site.platform.storage_options, skip_instance_cache=True)
        return features, models.find("serinus/mlflow")

    before = kept()
    kubectl("delete", "pods", f"--namespace={SYSTEM}", "postgres-0", "redis-0", "s3-0", "--wait")
    rolled_out(kubectl, SYSTEM)
    assert (before[0] > 0, kept()) == (True, before)
    with site.traffic() as traffic:
        traffic.wait_for(50)
    assert site.champion == site.status()["stable"]
    site.require_ledger()
