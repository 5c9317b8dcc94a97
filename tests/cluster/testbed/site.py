"""What the parts of one cluster share: its addresses, where its state lies, and how programs are started, asked and
waited for."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serinus.engines.waiting import wait_until
from tests.cluster.testbed.processes import Server, Servers

ADDRESS = "10.99.0.1"
"""Where everything of the machine is found, from its own processes as from pods."""
NODE = "testbed"
PODS = "10.98.0.0/24"
SERVICES = "10.97.0.0/16"
FIRST_SERVICE = "10.97.0.1"
NAME_SERVER = "10.97.0.10"
API = f"https://{ADDRESS}:6443"
SYSTEM = "serinus-system"
"""The namespace of what serves models but is not one."""

READY_SECONDS = 180

Document = dict[str, Any]


@dataclass(frozen=True)
class Site:
    """Where one cluster is.

    Attributes:
        programs: the folder with its programs.
        state: the folder with everything that it writes.
        servers: its processes.
        inside: what goes before a command that is to run in its network.
        inside_node: the same for those that also need the node's mounts.
    """

    programs: Path
    state: Path
    servers: Servers
    inside: Sequence[str]
    inside_node: Sequence[str]

    @property
    def pki(self) -> Path:
        """The folder of certificates and kubeconfigs."""
        return self.state / "pki"

    def kubeconfig(self, name: str = "admin") -> Path:
        """With which a client talks to the API server."""
        return self.pki / f"{name}.kubeconfig"

    def start(
        self, name: str, options: Mapping[str, str], environment: Mapping[str, str] | None = None, on_node: bool = False
    ) -> None:
        """Start one of its programs with `--key=value` options, unless it runs so already."""
        command = [str(self.programs / name), *(f"--{key}={value}" for key, value in options.items())]
        inside = self.inside_node if on_node else self.inside
        self.servers.start(Server(name, command, inside, environment or {}))

    def run(self, *command: str, stdin: str | None = None) -> str:
        """What a command in its network says on standard output.

        Raises:
            RuntimeError: it failed, with what it said.
        """
        done = subprocess.run([*self.inside, *command], input=stdin, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl says, run by the administrator."""
        own = (f"--kubeconfig={self.kubeconfig()}", f"--cache-dir={self.state / 'kubectl'}")
        return self.run(str(self.programs / "kubectl"), *own, *arguments, stdin=stdin)

    def apply(self, documents: Iterable[Document]) -> None:
        """Make the objects be as they are here."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=_listed(documents))

    def create(self, documents: Iterable[Document]) -> None:
        """Make objects that are not there, which takes less time: nothing is compared, and nothing doubted."""
        self.kubectl("create", "--validate=false", "--filename=-", stdin=_listed(documents))

    def wait(self, what: str, condition: Callable[[], bool]) -> Iterator[str]:
        """Wait until something holds, while all that was started still runs; then tell it.

        Raises:
            RuntimeError: a program has ended, or the time is up.
        """

        def holds() -> bool:
            self.servers.check()
            return condition()

        if not wait_until(holds, READY_SECONDS, every=0.1):
            raise RuntimeError(f"not within {READY_SECONDS} s: {what} (see {self.state / 'log'})")
        yield what

    def answers(self, *arguments: str) -> bool:
        """Whether kubectl succeeds."""
        try:
            self.kubectl(*arguments)
        except RuntimeError:
            return False
        return True

    def established(self, definitions: Iterable[Document]) -> bool:
        """Whether the API server knows kinds. One that it has only just taken has no conditions yet, which kubectl
        takes for an error instead of waiting: ask again."""
        names = [f"crd/{each['metadata']['name']}" for each in definitions]
        return self.answers("wait", "--for=condition=Established", "--timeout=5s", *names)

    def serves(self, url: str) -> bool:
        """Whether a web server in its network answers with success."""
        try:
            self.run("curl", "--silent", "--fail", "--insecure", "--max-time", "5", "--output", "/dev/null", url)
        except RuntimeError:
            return False
        return True

    def listens(self, port: int) -> bool:
        """Whether something accepts connections there, that speaks no HTTP."""
        command = ["socat", "-u", "OPEN:/dev/null", f"TCP:{ADDRESS}:{port}"]
        return subprocess.run([*self.inside, *command], capture_output=True, check=False).returncode == 0


def _listed(documents: Iterable[Document]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)})


def service(name: str, port: int, namespace: str = SYSTEM, at: int | None = None) -> list[Document]:
    """A Service without a selector, and the address that it stands for: a program of this machine.

    Args:
        name: of the Service.
        port: where pods ask for it.
        namespace: of the Service.
        at: where the program listens, if that is another port.
    """
    where = {"name": name, "namespace": namespace}
    ports = [{"name": name, "port": port, "protocol": "TCP", "targetPort": at or port}]
    labels = {"kubernetes.io/service-name": name}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": where, "spec": {"ports": ports}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**where, "labels": labels},
            "addressType": "IPv4",
            "ports": [{"name": name, "port": at or port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [ADDRESS], "conditions": {"ready": True}}],
        },
    ]


def write(path: Path, text: str) -> Path:
    """Write a file where it differs: kube-proxy ends when its configuration is written, even with the same text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return path
