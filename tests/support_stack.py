"""A served model of a few lines, for tests of the processes around it: it needs no feature store and no training."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from serinus.control.instance import Serving
from serinus.core.platform import Platform
from serinus.core.signature import Column, Signature
from serinus.core.spec.deployment import Batching, ModelDeploymentSpec, ModelRef, Predictor
from serinus.core.version import Lineage, ModelVersion
from serinus.engines.archive import HANDLER, MODEL, PROFILE, SIGNATURE, write_archive

# Answers what it was sent: the stack is under test here, not the model.
ECHO = """
import json, os, time

class Echo:
    def initialize(self, context):
        self.version = json.load(open(os.environ["SERINUS_SERVING"]))["version"]
        self.asked = 0

    def handle(self, data, context):
        answers = []
        for position, row in enumerate(data):
            body = row.get("body")
            body = None if isinstance(body, (bytes, bytearray)) else body
            if isinstance(body, dict) and body.get("crash"):
                os._exit(3)
            if isinstance(body, dict) and "seconds" in body:
                time.sleep(body["seconds"])
            header = lambda name: context.get_request_header(position, name)
            context.set_response_content_type(position, "application/json")
            answers.append(json.dumps({
                "version": self.version, "pid": os.getpid(), "parent": os.getppid(), "body": body,
                "protocol": header("x-serinus-protocol"), "before": self.asked, "request_id": header("x-request-id"),
                "temporary": os.environ["TMPDIR"], "metrics": os.environ["PROMETHEUS_MULTIPROC_DIR"],
            }))
            self.asked += 1
        return answers
"""

BROKEN = """
class Broken:
    def initialize(self, context):
        raise ValueError("there is no feature service flights_v9")

    def handle(self, data, context):
        return data
"""

SIGNATURE_OF_TINY = Signature(
    model="tiny",
    feature_service="tiny_v1",
    join_keys={"origin": "String"},
    views=(),
    columns=(Column(name="distance", kind="number", dtype="Float64"),),
)


class Shelf:
    """Packaged versions in a folder; `fetch` brings one, as the registry does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.fetched: list[Path] = []

    def version(self, number: int, handler: str = ECHO) -> ModelVersion:
        parts = self._folder / str(number)
        parts.mkdir(parents=True)
        contents = {
            MODEL: f"weights {number}",
            SIGNATURE: SIGNATURE_OF_TINY.model_dump_json(),
            PROFILE: "{}",
            HANDLER: handler,
        }
        for name, text in contents.items():
            (parts / name).write_text(text)
        digest = write_archive(self._path(number), "tiny", {name: parts / name for name in contents})
        return ModelVersion(
            name="tiny", version=number, archive="tiny.mar", digest=digest, run=f"run-{number}", lineage=LINEAGE
        )

    def fetch(self, version: ModelVersion, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{version.name}-{version.version}.mar"
        shutil.copyfile(self._path(version.version), target)
        self.fetched.append(target)
        return target

    def _path(self, number: int) -> Path:
        return self._folder / f"tiny-{number}.mar"


def serving(state: Path) -> Serving:
    """How the tiny model is served below a state folder."""
    # A worker's successor may take longer than the usual ten seconds where other tests use the cores too.
    batching = Batching(max_size=8, max_delay=timedelta(milliseconds=2))
    predictor = Predictor(workers=1, batching=batching, timeout=timedelta(seconds=60))
    deployment = ModelDeploymentSpec(model=ModelRef(name="tiny"), predictor=predictor)
    return Serving(platform=Platform.local(state), deployment=deployment, feature_project="tiny")


LINEAGE = Lineage(
    as_of=datetime(2013, 8, 2, 12, tzinfo=UTC),
    data_digest="sha256:data",
    code_digest="sha256:code",
    schema_digest="sha256:schema",
    parameters={},
    pipeline_run="run-1",
)
