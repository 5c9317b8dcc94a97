"""The tiny project trained on a cluster: its resources applied there, its features in S3 and Redis."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import yaml

from serinus.core.platform import Platform
from serinus.engines.kfp_cluster import Pipelines, PipelineServer
from serinus.engines.kubernetes import CONTINUOUS_TRAINING, MODEL_DEPLOYMENT, Cluster, Kind
from serinus.engines.mlflow import Registry
from serinus.operator.trainings import RUN_ANNOTATION
from tests import support_platform
from tests import support_rollout_cluster as serving
from tests.cluster.conftest import ROOT
from tests.cluster.testbed import pipelines, storage
from tests.cluster.testbed.site import ADDRESS
from tests.support import eventually
from tests.support_cluster import jsonable

IMAGE = os.environ.get("SERINUS_PROJECT_IMAGE", "localhost/serinus-tiny:dev")
"""Serinus' pipeline image with the tiny project in /project: `make images TARGETS="pipeline tiny"`."""
NAME = "learned"
AS_OF = "2020-02-15T00:00:00Z"

Kubectl = Any


def platform(folder: Path, host: str = ADDRESS) -> Platform:
    """The testbed's engines, with features in its bucket."""
    endpoint = f"http://{host.format('s3')}:{storage.S3}"
    options = {"key": storage.KEY, "secret": storage.SECRET, "endpoint_url": endpoint}
    found = support_platform.platform(folder, host)
    return found.model_copy(update={"offline_uri": f"s3://{storage.BUCKET}/features", "storage_options": options})


@dataclass
class TrainingSite:
    """The two resources in a namespace, and what came of them."""

    folder: Path
    kubectl: Kubectl
    namespace: str
    cluster: Cluster = field(init=False)
    registry: Registry = field(init=False)
    engine: Pipelines = field(init=False)

    def __post_init__(self) -> None:
        self.cluster = Cluster.connect()
        here = platform(self.folder / "state")
        self.registry = Registry(here.tracking_uri, here.artifact_uri)
        self.engine = Pipelines(PipelineServer(pipelines.URL))
        inside = platform(*support_platform.PODS)
        self.apply(*(support_platform.secret(each, inside) for each in (self.namespace, pipelines.NAMESPACE)))

    @property
    def experiment(self) -> str:
        """Where the operator's runs are."""
        return f"{self.namespace}.{NAME}"

    def file(self) -> Path:
        """The spec, as a data scientist has it."""
        path = self.folder / "serinus.yaml"
        path.write_text(yaml.safe_dump_all(self.documents()), encoding="utf-8")
        return path

    def documents(self) -> list[dict[str, Any]]:
        """The tiny project's two resources, under another name and in this namespace."""
        text = (ROOT / "tests" / "projects" / "tiny" / "serinus.yaml").read_text(encoding="utf-8")
        training, deployment = jsonable(list(yaml.safe_load_all(text)))
        for each in (training, deployment):
            each["metadata"] = {"name": NAME, "namespace": self.namespace}
        training["spec"]["deployment"] = NAME
        training["spec"]["project"]["image"] = IMAGE
        deployment["spec"] = {
            "model": {"name": NAME, "version": "champion"},
            "features": {"default": serving.OLD},
            "log": {"enabled": False},
            "predictor": serving.SMALL,
        }
        return [training, deployment]

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """As the administrator."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=yaml.safe_dump_all(documents))

    def ask(self, request: str) -> None:
        """Ask for a run."""
        patch = {"metadata": {"annotations": {RUN_ANNOTATION: request}}}
        self.cluster.merge(CONTINUOUS_TRAINING, self.namespace, NAME, patch)

    def change(self, **spec: Any) -> None:
        """Change some of the ContinuousTraining."""
        self.cluster.merge(CONTINUOUS_TRAINING, self.namespace, NAME, {"spec": spec})

    def status(self, kind: Kind = CONTINUOUS_TRAINING) -> dict[str, Any]:
        found = self.cluster.get(kind, self.namespace, NAME)
        assert found is not None
        status: dict[str, Any] = found.get("status", {})
        return status

    def condition(self, name: str, kind: Kind = CONTINUOUS_TRAINING) -> str | None:
        """The status of one condition."""
        return next((each["status"] for each in self.status(kind).get("conditions", ()) if each["type"] == name), None)

    def run_of(self, request: str, seconds: float = 600) -> dict[str, Any]:
        """What came of the run that was asked for, waited for."""

        def over() -> bool:
            status = self.status()
            return status.get("requested") == request and status["lastRun"]["result"] != "running"

        self.until(f"the run {request} is over", over, seconds)
        found: dict[str, Any] = self.status()["lastRun"]
        return found

    def until(self, words: str, condition: Any, seconds: float) -> None:
        """Wait for something, and show what there is if it does not come."""
        try:
            eventually(condition, seconds, interval=1.0)
        except AssertionError as error:
            shown = json.dumps([self.status(), self.status(MODEL_DEPLOYMENT)], indent=1)
            where = (f"--namespace={self.namespace}", f"--namespace={pipelines.NAMESPACE}")
            pods = "\n".join(self.kubectl("get", "pods", each) for each in where)
            raise AssertionError(f"not within {seconds} s: {words}\n{shown}\n{pods}") from error

    def events(self) -> set[str]:
        """Reasons of the events about the ContinuousTraining."""
        content = self.kubectl("get", "events.events.k8s.io", f"--namespace={self.namespace}", "--output=json")
        items = json.loads(content)["items"]
        return {each.get("reason", "") for each in items if each["regarding"]["kind"] == CONTINUOUS_TRAINING.name}


@contextmanager
def guarded(url: str, token: str) -> Iterator[str]:
    """A door before a server that only lets in who has a token, as those of a Kubeflow with users do: its URL."""

    class Door(BaseHTTPRequestHandler):
        def _pass(self) -> None:
            if self.headers.get("authorization") != f"Bearer {token}":
                self.send_error(401)
                return
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host",)}
            answer = httpx.request(self.command, url + self.path, headers=headers, content=body, timeout=60)
            self.send_response(answer.status_code)
            self.send_header("content-type", answer.headers.get("content-type", "application/json"))
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_DELETE = _pass  # noqa: N815 - as the base class calls them

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
