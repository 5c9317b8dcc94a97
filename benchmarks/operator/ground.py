"""The control plane and what the operator rests on: the testbed's own, and kwok for nodes and pods."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.operator.fleet import Fleet
from tests.cluster.testbed import backing
from tests.cluster.testbed.cluster import Cluster
from tests.cluster.testbed.modules import documents, download
from tests.cluster.testbed.processes import Server
from tests.cluster.testbed.site import ADDRESS, API, SYSTEM, Document, Site, write
from tests.cluster.tools import WATCHED, program

ROOT = Path(__file__).parents[2]
WORLD_PORT = 9109
SCRAPE = 5
"""Seconds between two scrapes."""
FLOW = "serinus-operator"
"""The flow of the operator's requests, by which the API server counts them."""

_ACCOUNT = "serinus-operator"


@dataclass(frozen=True)
class Ground:
    """Where everything is.

    Attributes:
        cluster: the testbed at level `control`, one of this benchmark's own.
        definitions: of KServe and of the Gateway API.
        kwok: the program.
    """

    cluster: Cluster
    definitions: list[Document]
    kwok: Path

    @classmethod
    def prepared(cls) -> Ground:
        """Have everything that must be downloaded or compiled, which takes minutes the first time.

        Raises:
            RuntimeError: something cannot be had.
        """
        if shutil.which("prometheus") is None:
            raise RuntimeError("there is no prometheus: install the Debian package")
        found = []
        for module, path in WATCHED:
            # KServe has its definitions with and without a schema: with it, the API server is kept busy by the schema.
            path = path.replace("/full/", "/minimal/")
            found.extend(documents((download(module) / path).read_text(encoding="utf-8")))
        return cls(Cluster("control", Path(__file__).parent), found, program("kwok"))

    @property
    def operator(self) -> Path:
        """The operator's kubeconfig."""
        return self.cluster.state / "operator.kubeconfig"

    def up(self, fleet: Fleet) -> Iterator[str]:
        """Start everything but what plays KServe and the Gateway, and the operator."""
        yield from self.cluster.up()
        site = self.cluster.site()
        backing.start_databases(site)
        crds = sorted((ROOT / "manifests" / "base" / "crds").glob("*.yaml"))
        own = [each for path in crds for each in documents(path.read_text(encoding="utf-8"))]
        kinds = [*self.definitions, *own]
        site.create(kinds)
        yield from site.wait("definitions", lambda: site.established(kinds))
        site.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}])
        site.apply([*_rights(), _flow()])
        self._let_in(site)
        _start_prometheus(site)
        yield from backing.start_mlflow(site)
        site.create(fleet.objects())
        self._start_kwok(site)
        url = f"http://{ADDRESS}:{backing.PORTS['mlflow']}/health"
        yield from site.wait("MLflow ready", lambda: site.serves(url))
        account = ("get", "serviceaccount", f"--namespace={fleet.namespaces[-1]}", "default")
        yield from site.wait("namespaces ready", lambda: site.answers(*account))

    def _start_kwok(self, site: Site) -> None:
        command = [
            str(self.kwok),
            f"--kubeconfig={site.kubeconfig()}",
            "--manage-all-nodes=true",
            "--cidr=10.96.0.0/16",
        ]
        command += [f"--node-ip={ADDRESS}", "--node-lease-duration-seconds=40"]
        # It looks for a configuration in the user's home.
        site.servers.start(Server("kwok", command, site.inside, {"HOME": str(site.state)}))

    def _let_in(self, site: Site) -> None:
        """A kubeconfig with the operator's own account: it has no other rights than on any cluster."""
        token = site.kubectl("create", "token", f"--namespace={SYSTEM}", _ACCOUNT, "--duration=2h").strip()
        cluster = {"server": API, "certificate-authority": str(site.pki / "ca.crt")}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "bench", "cluster": cluster}],
            "users": [{"name": _ACCOUNT, "user": {"token": token}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": _ACCOUNT}}],
            "current-context": "bench",
        }
        write(self.operator, json.dumps(document))


def _rights() -> list[Document]:
    folder = ROOT / "manifests" / "base" / "operator"
    return [each for name in ("account", "rbac") for each in documents((folder / f"{name}.yaml").read_text("utf-8"))]


def _flow() -> Document:
    """Requests of the operator are counted apart, and served as those of any account."""
    account = {"kind": "ServiceAccount", "serviceAccount": {"name": _ACCOUNT, "namespace": SYSTEM}}
    every = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": True}
    return {
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": "FlowSchema",
        "metadata": {"name": FLOW},
        "spec": {
            "matchingPrecedence": 100,
            "priorityLevelConfiguration": {"name": "workload-low"},
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [
                {
                    "subjects": [account],
                    "resourceRules": [every],
                    "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                }
            ],
        },
    }


def _start_prometheus(site: Site) -> None:
    config = {
        "global": {"scrape_interval": f"{SCRAPE}s", "scrape_timeout": f"{SCRAPE}s"},
        "scrape_configs": [
            {
                "job_name": "pods",
                "honor_labels": True,
                "http_sd_configs": [{"url": f"http://{ADDRESS}:{WORLD_PORT}/targets", "refresh_interval": "5s"}],
            }
        ],
    }
    program = shutil.which("prometheus")
    assert program is not None
    options = {
        "config.file": write(site.state / "prometheus.yaml", yaml.safe_dump(config)),
        "storage.tsdb.path": site.state / "prometheus",
        "web.listen-address": f"{ADDRESS}:{backing.PORTS['prometheus']}",
    }
    command = [program, *(f"--{key}={value}" for key, value in options.items())]
    site.servers.start(Server("prometheus", command, site.inside))
