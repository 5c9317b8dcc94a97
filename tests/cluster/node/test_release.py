"""The chart as a release: installed, tested, upgraded from the chart before while a rollout is on, and gone again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import ROOT, Kubectl
from tests.cluster.node.conftest import Gateway
from tests.cluster.tools import program
from tests.support_install import IMAGES, require_images, rolled_out
from tests.support_platform import PODS, platform, text
from tests.support_rollout_cluster import DOMAIN, ClusterSite
from tests.support_rollout_laptop import NAME, policy
from tests.support_variants import harmless

pytestmark = [pytest.mark.timeout(1500), pytest.mark.usefixtures("definitions")]

CHART = ROOT / "charts" / "serinus"
PREVIOUS = Path(__file__).parent / "serinus-0.1.0.tgz"
"""The chart before the present one, as `helm package` made it."""
RELEASE = "serinus"


class Helm:
    """Helm, for one release in one namespace."""

    def __init__(self, namespace: str, values: Path) -> None:
        self.namespace = namespace
        self._values = values

    def __call__(self, verb: str, *arguments: str | Path) -> str:
        """What it says."""
        command = [program("helm"), verb, RELEASE, *arguments, f"--namespace={self.namespace}"]
        done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"helm {verb}: {done.stdout}{done.stderr}"
        return done.stdout

    def put(self, verb: str, chart: Path, *more: str) -> None:
        """Install or upgrade. On a cluster where there are definitions already they become the release's."""
        self(verb, chart, f"--values={self._values}", "--take-ownership", "--force-conflicts", *more)


@pytest.fixture
def models(kubectl: Kubectl) -> Iterator[str]:
    """A namespace for a model, as the release's ledger knows none yet."""
    yield from _namespace(kubectl, "serinus-models-")


@pytest.fixture
def home(kubectl: Kubectl) -> Iterator[str]:
    """A namespace for the release."""
    yield from _namespace(kubectl, "serinus-release-")


def _namespace(kubectl: Kubectl, prefix: str) -> Iterator[str]:
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": prefix}}
    name = kubectl("create", "--filename=-", "--output=jsonpath={.metadata.name}", stdin=json.dumps(made))
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def values(folder: Path, **changes: Any) -> Path:
    """Our images, and the testbed's Gateway and Prometheus."""
    prefix, _, tag = IMAGES["operator"].rpartition(":")
    usual = {
        "images": {"prefix": prefix.removesuffix("serinus-operator"), "tag": tag},
        "gateway": {"namespace": "serinus-system", "domain": DOMAIN},
        "prometheus": {"url": "http://prometheus.serinus-system.svc:9090", "scrapeInterval": "1s"},
    }
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(usual | changes))
    return path


def test_an_upgrade_goes_on_where_the_chart_before_was(
    kubectl: Kubectl, gateway: Gateway, home: str, models: str, tmp_path: Path
) -> None:
    require_images(kubectl)
    engines = f"--from-literal=platform.yaml={text(platform(*PODS))}"
    kubectl("create", "secret", "generic", "serinus-platform", f"--namespace={home}", engines)
    helm = Helm(home, values(tmp_path, operator={"namespaces": [models]}))
    helm.put("install", PREVIOUS)
    try:
        rolled_out(kubectl, home)
        site = ClusterSite(tmp_path, kubectl, models, gateway.address)
        site.deploy(_watched())
        site.until("the first version answers", lambda: site.condition("Ready").get("status") == "True")
        assert "Phase:          Succeeded" in helm("test")
        with site.traffic() as traffic:
            before, version = site.champion, site.challenger("good", harmless).version
            site.until("the rollout is on", lambda: site.last_action() == "advance")
            helm.put("upgrade", CHART)
            rolled_out(kubectl, home)
            site.until("promoted", lambda: site.status().get("stable") == version)
            site.until("the old version is gone", lambda: site.versions() == {version}, 120)
        assert (traffic.failed, set(traffic.versions)) == (0, {before, version}), traffic.errors()
        assert "Phase:          Succeeded" in helm("test")
        site.require_ledger()
    finally:
        helm("uninstall", "--wait")
    # What was served is served still, and what users asked for is there still.
    with site.traffic() as traffic:
        traffic.wait_for(50)
    assert (traffic.failed, set(traffic.versions)) == (0, {version}), traffic.errors()
    kubectl("delete", "modeldeployment", NAME, f"--namespace={models}", "--wait")


def _watched() -> dict[str, Any]:
    """A rollout that takes long enough to change the operator meanwhile."""
    pace = {"minimumDuration": "10s", "minimumRequests": 50, "maximumDuration": "10m", "readyTimeout": "5m"}
    own = policy(confirmation=None, interval="2s", shadow={"percent": 100}, steps=[20, 50], pace=pace)
    own["guards"]["quality"] = {"enabled": False}
    # Two processors run all of it: a pod that has just come may wait for one of them.
    own["guards"]["slow"] = {"threshold": "1s", "ratio": 3, "margin": 0.2}
    return own


def test_a_release_that_goes_leaves_definitions_and_passwords(kubectl: Kubectl, home: str, tmp_path: Path) -> None:
    """The databases remember their password, and with the definitions would go every ModelDeployment."""
    helm = Helm(home, values(tmp_path, standalone={"enabled": True}))
    found = []
    for _ in range(2):
        helm.put("install", CHART)
        secret = ("get", "secret", "serinus-stores", f"--namespace={home}", "--output=jsonpath={.data.password}")
        found.append(kubectl(*secret))
        helm("uninstall", "--wait")
        left = kubectl("get", "secrets", f"--namespace={home}", "--output=name").split()
        assert {"secret/serinus-stores", "secret/serinus-platform"} <= set(left)
        kubectl("get", "crd", "modeldeployments.serinus.dev", "continuoustrainings.serinus.dev")
        assert kubectl("get", "deployments,statefulsets", f"--namespace={home}", "--output=name") == ""
    assert found[0] == found[1] != ""
