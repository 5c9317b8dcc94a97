"""The tiny project served on a cluster: trained here, registered in the cluster's registry, its features in Redis."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import yaml

from serinus.control.commands_cluster import AnnotationCommands
from serinus.control.evidence import parse
from serinus.control.refresh import fill
from serinus.core.platform import Platform
from serinus.core.rollout import Command, Shares
from serinus.core.signature import Signature
from serinus.core.times import utc
from serinus.core.version import CHAMPION, ModelVersion, RunRecord
from serinus.engines import kubernetes_gateway as gateway_engine
from serinus.engines.archive import SIGNATURE, read_archive
from serinus.engines.feast import FeatureStore
from serinus.engines.kubernetes import HTTP_ROUTE, INFERENCE_SERVICE, LEASE, MODEL_DEPLOYMENT, Cluster, Kind
from serinus.engines.ledger_sql import LedgerDatabase, SqlLedger
from serinus.engines.mlflow import Registry
from serinus.engines.ports import free_ports
from serinus.operator.deployments import PAUSE_ANNOTATION
from serinus.operator.main import LEASE_NAME
from serinus.training.project import load_project
from tests.cluster.testbed.site import ADDRESS, SYSTEM
from tests.support import eventually
from tests.support_orders import Traffic
from tests.support_platform import PODS, platform, secret, text
from tests.support_rollout_laptop import AS_OF, NAME, Site, policy
from tests.support_variants import Change, challenger, harmless, register

DOMAIN = "models.example"
OLD = {"maximumAge": "36500d"}
"""The tiny project's features are of 2020: young enough here, so that they are served."""

Kubectl = Any


def cluster_policy(**changes: Any) -> dict[str, Any]:
    """A rollout that is judged by what Prometheus counts alone."""
    own = policy(confirmation=None, **{"interval": "2s", **changes})
    own["guards"]["quality"] = {"enabled": False}
    # Two processors run the whole cluster: a pod that has just come may wait for one of them.
    own["guards"]["slow"] = {"threshold": "1s", "ratio": 3, "margin": 0.2}
    return own


def patient_policy(**changes: Any) -> dict[str, Any]:
    """One that gives a canary half of the requests, and the rest once somebody has approved."""
    pace = {"minimumDuration": "1s", "minimumRequests": 50, "maximumDuration": "2h", "readyTimeout": "10m"}
    return cluster_policy(**{"steps": [50], "approvals": [100], "pace": pace, **changes})


@dataclass
class ClusterSite:
    """One ModelDeployment in a namespace of its own."""

    folder: Path
    kubectl: Kubectl
    namespace: str
    gateway: str
    cluster: Cluster = field(init=False)
    registry: Registry = field(init=False)
    first: ModelVersion = field(init=False)

    def __post_init__(self) -> None:
        self.cluster = Cluster.connect()
        laptop = Site(self.folder / NAME, 0)
        self.file = laptop.file
        self.platform = self.engines()
        self.registry = Registry(self.platform.tracking_uri, self.platform.artifact_uri)
        path = laptop.registry.fetch(laptop.first, self.folder)
        record = RunRecord(name=NAME, lineage=laptop.first.lineage, accepted=True, metrics={}, card="# tiny\n")
        self.first = self.registry.register(record, path, laptop.first.digest)
        self.registry.promote(NAME, self.first.version)
        self.fill()
        self.prepare()

    def fill(self) -> None:
        """Bring the features into Redis, as a CronJob does it."""
        fill(load_project(self.file), FeatureStore.open(self.platform, NAME), utc(AS_OF))

    def prepare(self) -> None:
        """Tell pods of the namespace where they find the engines."""
        self.apply(secret(self.namespace, platform(*PODS)))

    def elsewhere(self, namespace: str) -> ClusterSite:
        """The same model in another namespace."""
        found = copy.copy(self)
        found.namespace = namespace
        return found

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """As the administrator."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=yaml.safe_dump_all(documents))

    def deploy(self, rollout: Mapping[str, Any] | None, version: int | str = "champion", **spec: Any) -> None:
        """Apply the ModelDeployment with a rollout."""
        _, document = yaml.safe_load_all(self.file.read_text())
        document["metadata"]["namespace"] = self.namespace
        own = {"features": {"default": OLD}, "log": {"enabled": False}, "predictor": SMALL, **spec}
        document["spec"] = {"model": {"name": NAME, "version": version}, **own}
        if rollout is not None:
            document["spec"]["rollout"] = dict(rollout)
        self.apply(document)

    def ask(self, verb: str, **details: Any) -> None:
        """Ask for something, as `serinus rollout VERB --cluster` does."""
        said = {"id": uuid4().hex, "verb": verb, "who": "ada", "why": "as the test wants it", "at": datetime.now(UTC)}
        AnnotationCommands(self.cluster, self.namespace, NAME).post(Command.model_validate({**said, **details}))

    def halfway(self) -> int:
        """The version that has half of the requests and waits for an approval; one is rolled out where there is none,
        which takes half a minute."""
        if not self.waits():
            self.calm()
            self.deploy(patient_policy())
            with self.traffic():
                self.challenger(f"halfway-{uuid4().hex[:8]}", harmless)
                self.until("a version waits for an approval", self.waits)
        found = self.ledger.head().state
        assert found is not None
        assert found.canary is not None
        return found.canary.version

    def waits(self) -> bool:
        """Whether all is well, and an approval is what is missing."""
        return "100 % waits for `serinus rollout approve 100`" in " ".join(self.last_reasons())

    def calm(self) -> None:
        """Let no rollout be on."""
        state = self.ledger.head().state
        if state is not None and state.canary is not None:
            self.ask("rollback")
        self.until("no rollout is on", lambda: self.settled(self.champion))

    def shares(self) -> Shares | None:
        """What is in force."""
        return gateway_engine.shares_of(self.found(HTTP_ROUTE))

    def settled(self, version: int) -> bool:
        """Whether a version is alone."""
        return self.shares() == Shares(stable=version) and self.versions() == {version}

    def pause(self, wanted: bool) -> None:
        """Have the operator leave the ModelDeployment alone, or not any more."""
        annotation = {PAUSE_ANNOTATION: "true" if wanted else None}
        self.cluster.merge(MODEL_DEPLOYMENT, self.namespace, NAME, {"metadata": {"annotations": annotation}})

    def challenger(self, name: str, change: Change) -> ModelVersion:
        """Register a variant of the first version and make it the challenger."""
        return challenger(self.registry, self.first, self.folder / "variants", (name, change))

    def registered(self, name: str, change: Change) -> ModelVersion:
        """Register a variant of the first version, and that is all."""
        return register(self.registry, self.first, self.folder / "variants", (name, change))

    @property
    def champion(self) -> int:
        return self.registry.get(NAME, CHAMPION).version

    @property
    def host(self) -> str:
        return f"{NAME}.{self.namespace}.{DOMAIN}"

    def engines(self) -> Platform:
        """Where they are, as seen from here."""
        return platform(self.folder / "state")

    def traffic(self) -> Traffic:
        """Orders sent through the Gateway."""
        with read_archive(self.registry.fetch(self.first, self.folder), self.first.digest) as archive:
            signature = Signature.model_validate_json(archive.read(SIGNATURE))
        return Traffic(self.gateway, signature, self.host, pace=_PACE)

    @property
    def ledger(self) -> SqlLedger:
        assert self.platform.ledger_uri is not None
        return LedgerDatabase(self.platform.ledger_uri).ledger(f"{self.namespace}/{NAME}")

    def found(self, kind: Kind, name: str = NAME) -> dict[str, Any]:
        """An object. Not by kubectl, whose start takes a third of a second of a processor that pods need."""
        document = self.cluster.get(kind, self.namespace, name)
        assert document is not None, f"there is no {kind.name} {name}"
        return document

    def status(self) -> dict[str, Any]:
        """The ModelDeployment's status."""
        found: dict[str, Any] = self.found(MODEL_DEPLOYMENT).get("status", {})
        return found

    def condition(self, name: str) -> dict[str, Any]:
        """One of its conditions."""
        return next((each for each in self.status().get("conditions", ()) if each["type"] == name), {})

    def until(self, words: str, condition: Any, seconds: float = 300) -> None:
        """Wait for something, and show the status if it does not come."""
        try:
            eventually(condition, seconds, interval=1.0)
        except AssertionError as error:
            pods = self.kubectl("get", "pods", f"--namespace={self.namespace}")
            raise AssertionError(
                f"not within {seconds} s: {words}\n{json.dumps(self.status(), indent=1)}\n{pods}"
            ) from error

    def actions(self) -> list[str]:
        """What was decided in this namespace, but for holding."""
        return [each.action for each in self.ledger.entries() if each.action not in ("hold", "adopt")]

    def last_action(self) -> str:
        """What was decided last, but for holding."""
        return next((each.action for each in self.ledger.newest_first() if each.action != "hold"), "")

    def last_reasons(self) -> tuple[str, ...]:
        """Why the newest decision is what it is."""
        return next((each.reasons for each in self.ledger.newest_first()), ())

    def taken_back(self, version: int) -> str | None:
        """Why a version was taken back, if it was."""
        state = self.ledger.head().state
        ended = state.refusal(version) if state is not None else None
        return ended.why if ended is not None else None

    def versions(self) -> set[int]:
        """Versions that have an InferenceService."""
        found = self.cluster.all(INFERENCE_SERVICE, self.namespace)
        return {int(each["metadata"]["labels"]["serinus.dev/version"]) for each in found}

    def events(self) -> set[str]:
        """Reasons of the events in the namespace."""
        content = self.kubectl("get", "events.events.k8s.io", f"--namespace={self.namespace}", "--output=json")
        return {each.get("reason", "") for each in json.loads(content)["items"]}

    def decides(self, seconds: float = 60) -> None:
        """Wait until a decision is made that is not there yet."""
        before = self.ledger.count()
        self.until("another decision", lambda: self.ledger.count() > before, seconds)

    def leader(self) -> str:
        """Which operator decides."""
        found = self.cluster.get(LEASE, SYSTEM, LEASE_NAME)
        return str(found["spec"].get("holderIdentity", "")) if found is not None else ""

    def require_ledger(self) -> None:
        """The ledger is whole, and all decisions come out again."""
        entries = self.ledger.count()
        for checked in (self.ledger.verify(), self.ledger.replay()):
            assert (checked.broken, checked.entries) == (None, entries)


# A hundred requests a second: pods that are being started need the processors, too.
_PACE = 0.5
_LOOKS = "serinus_operator_reconcile_seconds_count"
SMALL = {
    "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
    "batching": {"maxSize": 16, "maxDelay": "2ms"},
}


class OperatorProcess:
    """`serinus operator` as a process of its own, which is started again when it ends, as a Deployment does it."""

    def __init__(self, folder: Path, identity: str = "one", **settings: str) -> None:
        self.identity = identity
        self.log = folder / f"operator-{identity}.log"
        self.restarts = 0
        self._port, self._health = free_ports(2)
        self._environment = {
            **os.environ,
            "SERINUS_PLATFORM": text(platform(folder / f"state-{identity}")),
            "SERINUS_PROMETHEUS_URL": f"http://{ADDRESS}:9090",
            "SERINUS_SCRAPE_INTERVAL": "1s",
            "SERINUS_DOMAIN": DOMAIN,
            "SERINUS_RESYNC": "5s",
            "SERINUS_IDENTITY": identity,
            **settings,
        }
        self._leave = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None

    def start(self) -> None:
        """Start it, and again whenever it ends by itself."""
        self._leave.clear()
        self._launch()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def kill(self) -> None:
        """As a node's crash does."""
        self._end(signal.SIGKILL)

    def stop(self) -> int | None:
        """As a Deployment does; its exit code."""
        return self._end(signal.SIGTERM)

    def freeze(self, wanted: bool) -> None:
        """Let it stand still in the midst of what it does, or go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if wanted else signal.SIGCONT)

    def counted(self, name: str) -> float:
        """The sum of one of its own metrics over all labels."""
        try:
            answer = httpx.get(f"http://127.0.0.1:{self._port}/metrics", timeout=10)
        except httpx.TransportError as error:
            raise AssertionError(f"operator {self.identity} does not answer") from error
        return sum(each.value for each in parse(answer.text) if each.name == name)

    def looks(self, more: int, seconds: float = 60) -> None:
        """Wait until it has looked at so many resources more."""
        before = eventually(lambda: (self.counted(_LOOKS),), seconds, interval=1.0)[0]
        eventually(lambda: self.counted(_LOOKS) >= before + more, seconds, interval=1.0)

    def _launch(self) -> None:
        ports = ("--port", str(self._health), "--metrics-port", str(self._port))
        command = [sys.executable, "-P", "-m", "serinus", "operator", *ports]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)

    def _keep(self) -> None:
        while self._process is not None:
            self._process.wait()
            if self._leave.wait(1.0):
                return
            with self._lock:
                if self._leave.is_set():
                    return
                self.restarts += 1
                self._launch()

    def _end(self, number: signal.Signals) -> int | None:
        if self._process is None or self._keeper is None:
            return None
        with self._lock:
            self._leave.set()
            self._process.send_signal(number)
        code = self._process.wait(60)
        self._keeper.join()
        self._process = None
        return code
