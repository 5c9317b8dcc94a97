"""The cluster: which programs a level of it runs, with which options, and how it goes up and down.

The options are those that differ from what a distribution would choose: no TLS between API server and etcd, which share
a network namespace with nobody, and no fsync, for the state is thrown away.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from serinus.engines.waiting import wait_until
from tests.cluster.testbed.build import programs
from tests.cluster.testbed.network import Network
from tests.cluster.testbed.pki import Authority
from tests.cluster.testbed.processes import Servers

LEVELS = {
    "api": ("etcd", "kube-apiserver"),
    "control": ("etcd", "kube-apiserver", "kube-controller-manager"),
}
"""What each level runs, in the order of starting. `api` is enough for definitions, validation and RBAC; `control` also
collects garbage, ends namespaces and makes service accounts."""

ADDRESS = "10.99.0.1"
SERVICES = "10.97.0.0/24"
FIRST_SERVICE = "10.97.0.1"
SERVER = f"https://{ADDRESS}:6443"
ETCD = "http://127.0.0.1:2379"
ISSUER = "https://kubernetes.default.svc.cluster.local"
HOSTS = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
READY_SECONDS = 180


class Cluster:
    """One cluster a checkout. Everything it has is below `state`, in a network namespace, or a process of its own."""

    def __init__(self, level: str, checkout: Path) -> None:
        name = f"serinus-testbed-{hashlib.sha256(str(checkout.resolve()).encode()).hexdigest()[:8]}"
        self.level = level
        self.state = Path(tempfile.gettempdir()) / name
        self.network = Network(name, ADDRESS)
        self._pki = self.state / "pki"
        self._servers = Servers(self.state)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self._pki / "admin.kubeconfig"

    @property
    def is_up(self) -> bool:
        """Whether anything of it is there."""
        return bool(self._servers.recorded())

    def up(self) -> Iterator[str]:
        """Bring it up, in steps that are told as they are done. What is up already stays as it is."""
        folder = programs(self.level)
        yield f"programs of level {self.level}: {folder}"
        self.network.up()
        self._sign()
        yield f"network {self.network.name}, certificates"
        for name in LEVELS[self.level]:
            options = getattr(self, f"_{name.removeprefix('kube-').replace('-', '_')}")()
            command = [str(folder / name), *(f"--{key}={value}" for key, value in options.items())]
            self._servers.start(name, command, self.network.inside())
            if name == "kube-apiserver":
                yield from self._wait("API server ready", folder, "get", "--raw=/readyz")
            elif name == "kube-controller-manager":
                yield from self._wait(
                    "controllers work", folder, "get", "serviceaccount", "--namespace=default", "default"
                )
        self._servers.check()

    def down(self) -> None:
        """Take it down, and leave nothing behind."""
        known = [name for name in LEVELS["control"] if name in self._servers.recorded()]
        self._servers.stop(*reversed(known))
        self.network.down()
        shutil.rmtree(self.state, ignore_errors=True)

    def path(self) -> Path:
        """The folder of its programs, for PATH."""
        return programs(self.level)

    def _sign(self) -> None:
        if self.kubeconfig.is_file():
            return
        authority = Authority(self._pki)
        authority.server("apiserver", [*HOSTS, "localhost"], [ADDRESS, FIRST_SERVICE, "127.0.0.1"])
        authority.signing_keys("tokens")
        authority.client("controllers", "system:kube-controller-manager", server=SERVER)
        # Last, for its file says that all are there.
        authority.client("admin", "admin", "system:masters", server=SERVER)

    def _wait(self, what: str, folder: Path, *arguments: str) -> Iterator[str]:
        command = self.network.inside(str(folder / "kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments)

        def answers() -> bool:
            self._servers.check()
            return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0

        if not wait_until(answers, READY_SECONDS, every=0.2):
            raise RuntimeError(f"not within {READY_SECONDS} s: {what} (see {self.state / 'log'})")
        yield what

    def _etcd(self) -> dict[str, str]:
        peers = "http://127.0.0.1:2380"
        return {
            "name": "testbed",
            "data-dir": str(self.state / "etcd"),
            "listen-client-urls": ETCD,
            "advertise-client-urls": ETCD,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"testbed={peers}",
            "unsafe-no-fsync": "true",
            "log-level": "warn",
        }

    def _apiserver(self) -> dict[str, str]:
        return {
            "etcd-servers": ETCD,
            "bind-address": ADDRESS,
            "advertise-address": ADDRESS,
            "secure-port": "6443",
            "service-cluster-ip-range": SERVICES,
            "authorization-mode": "Node,RBAC",
            "client-ca-file": str(self._pki / "ca.crt"),
            "tls-cert-file": str(self._pki / "apiserver.crt"),
            "tls-private-key-file": str(self._pki / "apiserver.key"),
            "service-account-issuer": ISSUER,
            "service-account-signing-key-file": str(self._pki / "tokens.key"),
            "service-account-key-file": str(self._pki / "tokens.pub"),
            "profiling": "false",
        }

    def _controller_manager(self) -> dict[str, str]:
        kubeconfig = str(self._pki / "controllers.kubeconfig")
        return {
            "kubeconfig": kubeconfig,
            "authentication-kubeconfig": kubeconfig,
            "authorization-kubeconfig": kubeconfig,
            "bind-address": "127.0.0.1",
            "leader-elect": "false",
            "use-service-account-credentials": "true",
            "service-account-private-key-file": str(self._pki / "tokens.key"),
            "root-ca-file": str(self._pki / "ca.crt"),
            "service-cluster-ip-range": SERVICES,
            "profiling": "false",
        }


def told(steps: Iterator[str], say: Callable[[str], None]) -> None:
    """Go through the steps and say each with the seconds since the first."""
    began = time.monotonic()
    for step in steps:
        say(f"{time.monotonic() - began:6.1f} s  {step}")
