"""Continuous training on a real cluster: applied, trained by Kubeflow Pipelines in pods of our image, registered, and
served with features that another pod of ours keeps up to date."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from serinus.engines.kubernetes import CONTINUOUS_TRAINING, MODEL_DEPLOYMENT
from tests.cluster.conftest import Kubectl
from tests.cluster.node.conftest import Gateway
from tests.cluster.testbed import pipelines
from tests.cluster.testbed.site import ADDRESS
from tests.support import eventually
from tests.support_rollout_cluster import DOMAIN, OperatorProcess
from tests.support_training_cluster import AS_OF, IMAGE, NAME, TrainingSite, guarded

pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("definitions", "runtime")]

ASKED = {"id": "1", "event_timestamp": "2020-02-15T00:15:00Z", "shop": "shop-1", "city": "west", "channel": "web"}
ORDER = {
    "inputs": [{"name": name, "shape": [1], "datatype": "BYTES", "data": [value]} for name, value in ASKED.items()]
}


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    found = OperatorProcess(tmp_path_factory.mktemp("operator"), SERINUS_PIPELINES_URL=pipelines.URL)
    found.start()
    yield found
    assert found.stop() == 0


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, kubectl: Kubectl, namespace: str, operator: OperatorProcess
) -> Iterator[TrainingSite]:
    """The two resources are applied, with a first run as of a time for which there are data."""
    images = kubectl("get", "nodes", "--output=jsonpath={.items[*].status.images[*].names[*]}").split()
    if IMAGE.startswith("localhost/") and IMAGE not in images:
        pytest.fail(f'no node has {IMAGE}: `make images TARGETS="pipeline tiny"` makes it')
    found = TrainingSite(tmp_path_factory.mktemp("training"), kubectl, namespace)
    training, deployment = found.documents()
    training["metadata"]["annotations"] = {"serinus.dev/run": AS_OF}
    found.apply(training, deployment)
    yield found
    for kind in ("continuoustraining", "modeldeployment"):
        kubectl("delete", kind, NAME, f"--namespace={namespace}", "--wait")


@pytest.fixture(scope="module")
def trained(site: TrainingSite) -> dict[str, Any]:
    """The first run, which registered a version."""
    found = site.run_of(AS_OF, 900)
    assert found["result"] == "registered", found
    assert site.condition("LastRunSucceeded") == "True"
    return found


def test_what_is_applied_is_trained_registered_and_served(
    site: TrainingSite, trained: dict[str, Any], gateway: Gateway
) -> None:
    champion = site.registry.get(NAME, "champion")
    assert trained["version"] == champion.version == 1
    assert champion.lineage.pipeline_run == f"{NAME}-20200215-000000"
    assert champion.lineage.as_of == datetime(2020, 2, 15, tzinfo=UTC)
    assert {"RunStarted", "Registered"} <= site.events()
    site.until("features are kept up to date", lambda: site.condition("FeaturesFresh") == "True", 300)
    site.until("the version answers", lambda: site.condition("Ready", MODEL_DEPLOYMENT) == "True", 300)
    url = f"{gateway.address}/v2/models/{NAME}/infer"
    host = f"{NAME}.{site.namespace}.{DOMAIN}"

    def answered() -> dict[str, Any] | None:
        answer = httpx.post(url, headers={"Host": host}, json=ORDER, timeout=10)
        found: dict[str, Any] = answer.json() if answer.status_code == httpx.codes.OK else {}
        return found or None

    answer = eventually(answered, timeout=60)
    assert answer["model_version"] == "1"
    served = "sum(serinus_requests_total{" + f'namespace="{site.namespace}",model="{NAME}"' + "})"
    eventually(lambda: metric(served), timeout=60)
    lag = "serinus_features_lag_seconds{" + f'namespace="{site.namespace}"' + "}"
    assert 0 <= eventually(lambda: metric(lag), timeout=60) < 600


def metric(query: str) -> float | None:
    """A value that Prometheus has."""
    found = httpx.get(f"http://{ADDRESS}:9090/api/v1/query", params={"query": query}, timeout=10).json()
    result = found["data"]["result"]
    return float(result[0]["value"][1]) if result else None


def test_a_data_scientist_submits_the_pipeline(site: TrainingSite, trained: dict[str, Any], tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("let-me-in\n")
    with guarded(pipelines.URL, "let-me-in") as door:
        refused = submitted(site, "--endpoint", door, "--name", "by-hand")
        assert refused.returncode != 0
        assert "answered 401" in refused.stderr
        assert "give a token" in refused.stderr
        arguments = ("--endpoint", door, "--name", "by-hand", "--token-file", str(token))
        done = submitted(site, *arguments, "--as-of", AS_OF, "--pods", pipelines.NAMESPACE, "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["state"], told["accepted"]) == ("succeeded", True)
        assert told["results"]["register"] == "version 1, champion"
        again = submitted(site, *arguments, "--json")
        assert json.loads(again.stdout)["id"] == told["id"]
    assert site.registry.came_of(NAME, "by-hand") == site.registry.get(NAME, 1)


def submitted(site: TrainingSite, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "serinus", "submit", "--file", str(site.file()), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)


def test_a_refused_candidate_is_an_answer_and_an_operator_that_dies_starts_nothing_twice(
    site: TrainingSite, trained: dict[str, Any], operator: OperatorProcess
) -> None:
    request = f"{AS_OF}#hopeless"
    site.change(training={"epochs": 1, "learningRate": 0.000001})
    site.ask(request)
    site.until("the run is asked for", lambda: site.status().get("requested") == request, 60)
    operator.kill()
    operator.start()
    found = site.run_of(request)
    assert found["result"] == "refused"
    assert "version" not in found
    assert site.condition("LastRunSucceeded") == "True"
    names = [each.name for each in site.engine.runs(site.experiment)]
    assert names.count(f"{NAME}-20200215-000000-hopeless") == 1
    assert site.registry.get(NAME, "champion").version == 1


def test_a_run_that_fails_says_so_and_one_that_takes_too_long_is_stopped(
    site: TrainingSite, trained: dict[str, Any]
) -> None:
    site.change(limits={"maximumDuration": "1s", "keptRuns": 2})
    site.ask(f"{AS_OF}#slow")
    found = site.run_of(f"{AS_OF}#slow")
    assert found["result"] == "failed"
    assert "limits.maximumDuration" in found["message"]
    site.change(limits={"maximumDuration": "6h"}, windows={"start": "2020-02-14T00:00:00Z"})
    site.ask(f"{AS_OF}#empty")
    found = site.run_of(f"{AS_OF}#empty")
    assert found["result"] == "failed"
    assert "dataset" in found["message"]
    assert site.condition("LastRunSucceeded") == "False"
    site.until("the version answers all the same", lambda: site.condition("Ready", MODEL_DEPLOYMENT) == "True", 300)
    eventually(lambda: len(list(site.engine.runs(site.experiment))) <= 2, timeout=60)


def test_what_kubectl_shows(site: TrainingSite, trained: dict[str, Any], kubectl: Kubectl) -> None:
    shown = kubectl("get", "ct", NAME, f"--namespace={site.namespace}").splitlines()
    assert shown[0].split() == ["NAME", "DEPLOYMENT", "SCHEDULE", "LAST", "RUN", "RESULT", "AGE"]
    described = kubectl("describe", "ct", NAME, f"--namespace={site.namespace}")
    assert "Registered" in described
    assert site.cluster.get(CONTINUOUS_TRAINING, site.namespace, NAME) is not None
