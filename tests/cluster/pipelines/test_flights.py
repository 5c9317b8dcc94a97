"""The flights example on an empty cluster, as docs/install.md and its README have it: `standalone` is applied, then the
example's two resources. Kubeflow Pipelines trains on real flights in pods of the example's own image, KServe serves
what was registered, and the Gateway answers for real flights with features from Redis."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pandas as pd
import pytest
import yaml

from serinus.control.ask import tensors
from serinus.engines.kubernetes import CONTINUOUS_TRAINING, MODEL_DEPLOYMENT, Cluster, Kind
from serinus.training.project import load_project
from tests.cluster.conftest import ROOT, Kubectl
from tests.cluster.node.conftest import Gateway
from tests.cluster.testbed import pipelines
from tests.support import eventually
from tests.support_cluster import jsonable
from tests.support_install import FLIGHTS, address, require_images, standalone

pytestmark = [pytest.mark.timeout(2400), pytest.mark.usefixtures("definitions")]

NAME = NAMESPACE = "flights"
SPEC = ROOT / "examples" / "flights" / "serinus.yaml"
AS_OF = "2013-08-02T12:00:00Z"
DAY = ("2013-07-15T00:00:00Z", "2013-07-16T00:00:00Z")


@pytest.fixture(scope="module")
def installed(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`standalone`, told where Kubeflow Pipelines is, whose namespace is told where the engines are."""
    require_images(kubectl, FLIGHTS)
    where = {"SERINUS_PIPELINES_URL": f"http://ml-pipeline.{pipelines.NAMESPACE}.svc:8888"}
    with standalone(kubectl, tmp_path_factory.mktemp("install"), where):
        engines = ROOT / "manifests" / "namespace" / "standalone" / "platform.yaml"
        secret = ("secret", "serinus-platform", f"--namespace={pipelines.NAMESPACE}")
        kubectl("delete", *secret, "--ignore-not-found")
        kubectl("create", "secret", "generic", *secret[1:], f"--from-file={engines}")
        yield
        kubectl("delete", *secret)


def resources() -> list[dict[str, Any]]:
    """The example's, with our image, a first run as of a day of 2013, and features that may be as old as that."""
    training, deployment = jsonable(list(yaml.safe_load_all(SPEC.read_text(encoding="utf-8"))))
    training["spec"]["project"]["image"] = FLIGHTS
    # Kubeflow may know a run of an earlier installation by the same name, which would not be made again.
    training["metadata"]["annotations"] = {"serinus.dev/run": f"{AS_OF}#{uuid4().hex[:8]}"}
    deployment["spec"]["features"]["default"]["maximumAge"] = "36500d"
    return [training, deployment]


@pytest.fixture(scope="module")
def applied(installed: None, kubectl: Kubectl) -> Iterator[None]:
    """The two resources, until a version answers."""
    there = f"--namespace={NAMESPACE}"
    kubectl("apply", "--server-side", there, "--filename=-", stdin=yaml.safe_dump_all(resources()))
    try:
        _until(kubectl, "trained", lambda: status(CONTINUOUS_TRAINING).get("lastRun", {}).get("result") == "registered")
        _until(kubectl, "fresh", lambda: condition(CONTINUOUS_TRAINING, "FeaturesFresh") == "True")
        _until(kubectl, "served", lambda: condition(MODEL_DEPLOYMENT, "Ready") == "True")
        yield
    finally:
        kubectl("delete", there, "continuoustraining,modeldeployment", NAME, "--wait", "--ignore-not-found")


def status(kind: Kind) -> dict[str, Any]:
    """Of one of the two resources."""
    found = Cluster.connect().get(kind, NAMESPACE, NAME)
    assert found is not None
    return dict(found.get("status", {}))


def condition(kind: Kind, name: str) -> str | None:
    """The status of one of its conditions."""
    return next((each["status"] for each in status(kind).get("conditions", ()) if each["type"] == name), None)


def _until(kubectl: Kubectl, words: str, true: Any, seconds: float = 1200) -> None:
    def over() -> bool:
        result = status(CONTINUOUS_TRAINING).get("lastRun", {}).get("result")
        return result in ("failed", "refused") or true()

    eventually(over, seconds, interval=2.0)
    if not true():
        logs = kubectl("get", "pods", "--all-namespaces")
        shown = json.dumps([status(CONTINUOUS_TRAINING), status(MODEL_DEPLOYMENT)], indent=1)
        raise AssertionError(f"not {words}:\n{shown}\n{logs}")


@pytest.fixture(scope="module")
def answers(applied: None, gateway: Gateway, flights: pd.DataFrame) -> pd.DataFrame:
    """What is answered for the flights, as if they were asked for now: the features are the newest that there are."""
    headers = {"Host": f"{NAME}.{NAMESPACE}.serinus.example"}
    url = f"{gateway.address}/v2/models/{NAME}"
    inputs = httpx.get(url, headers=headers, timeout=10).json()["inputs"]
    wanted = {each["name"] for each in inputs} - {"event_timestamp"}
    rows = flights[[name for name in flights.columns if name in wanted]].to_dict("records")
    answer = httpx.post(f"{url}/infer", headers=headers, json={"inputs": tensors(rows, inputs)}, timeout=30)
    assert answer.status_code == httpx.codes.OK, answer.text
    content = answer.json()
    assert content["model_version"] == "1"
    return pd.DataFrame({each["name"]: each["data"] for each in content["outputs"]})


@pytest.fixture(scope="module")
def flights() -> pd.DataFrame:
    """A hundred real flights of a day in July, which no step of the training has fitted."""
    since, until = map(pd.Timestamp, DAY)
    return load_project(SPEC).project.requests(since, until).iloc[:100]


def test_a_model_is_trained_on_real_flights_and_registered(applied: None, kubectl: Kubectl) -> None:
    found = status(CONTINUOUS_TRAINING)["lastRun"]
    assert (found["result"], found["version"]) == ("registered", 1)
    shown = kubectl("get", "continuoustraining,modeldeployment", f"--namespace={NAMESPACE}")
    assert "registered" in shown
    assert status(MODEL_DEPLOYMENT)["stable"] == 1


def test_the_gateway_answers_for_real_flights_with_features_from_redis(answers: pd.DataFrame) -> None:
    assert len(answers) == 100
    assert answers["probability"].between(0, 1).all()
    assert answers["probability"].nunique() > 50
    assert answers["prediction_id"].nunique() == 100


def test_what_the_examples_readme_asks_is_answered(answers: pd.DataFrame, gateway: Gateway) -> None:
    text = (SPEC.parent / "README.md").read_text(encoding="utf-8")
    found = re.search(r"curl -H 'Host: (\S+)' http://GATEWAY(\S+) --json '([^']+)'", text)
    assert found is not None
    host, path, body = found.groups()
    answer = httpx.post(f"{gateway.address}{path}", headers={"Host": host}, json=json.loads(body), timeout=30)
    assert answer.status_code == httpx.codes.OK, answer.text
    assert 0 < answer.json()["predictions"][0]["probability"] < 1


def test_what_was_answered_is_in_prometheus(answers: pd.DataFrame, kubectl: Kubectl) -> None:
    url = f"http://{address(kubectl, 'prometheus')}:9090/api/v1/query"

    def value(query: str) -> float | None:
        result = httpx.get(url, params={"query": query}, timeout=10).json()["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    def total(name: str, labels: str = "") -> float | None:
        return value(f'sum({name}{{namespace="{NAMESPACE}",{labels}}})')

    eventually(lambda: (total("serinus_rows_total") or 0) >= 100, timeout=60)
    assert eventually(lambda: total("serinus_features_rows_total"), timeout=60) > 1000
    # Every flight has an airport and an airline, and what is known of these was found, and is not too old.
    known = 'view=~"origin_hourly|carrier_hourly"'
    assert not total("serinus_feature_missing_total", known)
    assert not total("serinus_feature_stale_total", known)
    assert (total("serinus_feature_cache_misses_total") or 0) > 0
