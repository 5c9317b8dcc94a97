"""The testbed's Kubeflow Pipelines: steps are pods that hand artifacts on by the object store, a failure is told, and a
run ends when somebody wants it to."""

from __future__ import annotations

import json
from typing import Any

import kfp
from kubernetes import client
from pyarrow.fs import FileSelector, FileType, S3FileSystem

from tests.cluster.conftest import Kubectl
from tests.cluster.pipelines.conftest import Submit, outcome
from tests.cluster.pipelines.steps import asking, counting, hanging
from tests.cluster.testbed.pipelines import NAMESPACE
from tests.cluster.testbed.storage import BUCKET
from tests.support import eventually

THERE = f"--namespace={NAMESPACE}"
RUNNER = f"system:serviceaccount:{NAMESPACE}:pipeline-runner"


def pods(kubectl: Kubectl, run: str) -> list[dict[str, Any]]:
    """Those in which a run's own steps run, not the ones that prepare them."""
    found = json.loads(kubectl("get", "pods", THERE, f"--selector=pipeline/runid={run}", "--output=json"))["items"]
    return [each for each in found if any(one["name"] == "kfp-launcher" for one in each["spec"]["initContainers"])]


def test_steps_hand_on_an_artifact(
    pipelines_client: kfp.Client, kubectl: Kubectl, objects: S3FileSystem, submit: Submit
) -> None:
    run = submit(counting, rows=250, wanted=250)
    assert outcome(pipelines_client, run) == "SUCCEEDED"
    assert [each["spec"]["serviceAccountName"] for each in pods(kubectl, run)] == ["pipeline-runner"] * 3
    found = objects.get_file_info(FileSelector(f"mlpipeline/v2/artifacts/counting/{run}", recursive=True))
    (table,) = [each.path for each in found if each.type == FileType.File and each.base_name == "table"]
    with objects.open_input_stream(table) as content:
        assert content.read().decode().splitlines() == [str(row) for row in range(250)]


def test_a_failing_step_fails_the_run(pipelines_client: kfp.Client, kubectl: Kubectl, submit: Submit) -> None:
    run = submit(counting, rows=3, wanted=4)
    assert outcome(pipelines_client, run) == "FAILED"
    (failed,) = [each for each in pods(kubectl, run) if each["status"]["phase"] == "Failed"]
    said = kubectl("logs", THERE, failed["metadata"]["name"], "--container=main")
    assert "3 rows, not 4" in said


def test_a_run_can_be_ended(pipelines_client: kfp.Client, kubectl: Kubectl, submit: Submit) -> None:
    run = submit(hanging)
    eventually(lambda: [each["status"]["phase"] for each in pods(kubectl, run)] == ["Running"], timeout=120)
    pipelines_client.terminate_run(run)
    # The older ones say the one, the newer ones the other.
    assert outcome(pipelines_client, run) in {"FAILED", "CANCELED"}
    eventually(lambda: [each["status"]["phase"] for each in pods(kubectl, run)] != ["Running"], timeout=60)


def test_a_step_finds_the_api_by_name(pipelines_client: kfp.Client, kubectl: Kubectl, submit: Submit) -> None:
    run = submit(asking, address=f"http://ml-pipeline.{NAMESPACE}.svc:8888/apis/v2beta1/healthz")
    assert outcome(pipelines_client, run) == "SUCCEEDED"


def test_steps_have_the_least_rights(api: client.ApiClient) -> None:
    def may(verb: str, resource: str, group: str = "", name: str = "") -> bool:
        attributes = {"namespace": NAMESPACE, "verb": verb, "group": group, "resource": resource, "name": name}
        review = {"spec": {"user": RUNNER, "resourceAttributes": attributes}}
        return bool(client.AuthorizationV1Api(api).create_subject_access_review(review).status.allowed)

    assert may("create", "workflowtaskresults", "argoproj.io")
    assert may("get", "secrets", name="mlpipeline-minio-artifact")
    assert not may("get", "secrets", name="another")
    assert not may("list", "secrets")
    assert not may("create", "pods")
    assert not may("patch", "workflows", "argoproj.io")


def test_the_object_store_is_ours_too(objects: S3FileSystem) -> None:
    path = f"{BUCKET}/tests/greeting"
    with objects.open_output_stream(path) as content:
        content.write(b"hello")
    with objects.open_input_stream(path) as content:
        assert content.read() == b"hello"
    objects.delete_file(path)
