"""The cluster: what a level of it is made of, and how it goes up and down."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.cluster.testbed import backing, build, control, gateway, kserve, kubeflow, node, pipelines, storage
from tests.cluster.testbed.cgroups import ControlGroups
from tests.cluster.testbed.levels import LEVELS, includes
from tests.cluster.testbed.mounts import Mounts
from tests.cluster.testbed.network import Network
from tests.cluster.testbed.processes import Servers
from tests.cluster.testbed.site import ADDRESS, SERVICES, SYSTEM, Site


class Cluster:
    """One cluster a checkout. Everything it has is below `state`, in namespaces, or a process of its own."""

    def __init__(self, level: str, checkout: Path) -> None:
        name = f"serinus-testbed-{hashlib.sha256(str(checkout.resolve()).encode()).hexdigest()[:8]}"
        self.state = Path(tempfile.gettempdir()) / name
        self.network = Network(name, ADDRESS)
        self._level = self.state / "level"
        # What is up at a higher level is what was asked for and more.
        self.level = max(level, self._recorded(), key=LEVELS.index)
        self._mounts = Mounts(self.state / "mounts")
        self._groups = ControlGroups(name)
        self._servers = Servers(self.state)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.state / "pki" / "admin.kubeconfig"

    @property
    def is_up(self) -> bool:
        """Whether anything of it is there."""
        return bool(self._servers.recorded())

    def up(self) -> Iterator[str]:
        """Bring it up, in steps that are told as they are done. What runs stays, and what has ended starts again."""
        if self._has("node"):
            node.check_machine()
            build.base_image()
        if self._has("pipelines"):
            node.check_machine(pipelines.PACKAGES)
            yield f"programs of Kubeflow Pipelines: {build.pipelines()}"
        site = self.site()
        yield f"programs of level {self.level}: {site.programs}"
        self.network.up()
        self.state.mkdir(exist_ok=True)
        self._level.write_text(self.level, encoding="ascii")
        self._servers.forget_ended()
        control.sign(site)
        yield f"network {self.network.name}, certificates"
        control.start_storage(site)
        if self._has("node"):
            yield from self._node(site)
        else:
            yield from control.storage_ready(site)
            if self._has("control"):
                control.start_controllers(site)
                yield from control.controllers_ready(site)
        self._servers.check()

    def down(self) -> None:
        """Take it down, and leave nothing behind."""
        # First, for it starts containers again.
        self._servers.stop("kubelet")
        self._groups.down()
        # Last, for the API server takes its leave of it.
        self._servers.stop_all("kube-apiserver", "etcd")
        self._mounts.down()
        self.network.down()
        shutil.rmtree(self.state, ignore_errors=True)

    def stop(self, *names: str) -> None:
        """End some of its programs, as a fault would; `up` starts them again.

        Raises:
            RuntimeError: one does not run.
        """
        if unknown := set(names) - set(self._servers.recorded()):
            raise RuntimeError(f"{', '.join(unknown)} does not run; there are {', '.join(self._servers.recorded())}")
        self._servers.stop(*names)

    def start(self, name: str) -> None:
        """Start one of those programs again that tests stop, and wait for it where others do not."""
        site = self.site()
        if name == "kube-apiserver":
            control.start_storage(site)
            told(control.storage_ready(site), lambda _: None)
        else:
            _AGAIN[name](site)

    def path(self) -> Path:
        """The folder of its programs, for PATH."""
        return build.programs(self.level)

    def site(self) -> Site:
        """Where it is."""
        network, mounts = self.network.inside(), self._mounts.inside()
        # In this order: where the mounts are others, the network's file is not seen.
        return Site(build.programs(self.level), self.state, self._servers, network, [*network, *mounts])

    def _node(self, site: Site) -> Iterator[str]:
        """All of it. What takes long to start is started early, and waited for late."""
        self.network.carry_pods(SERVICES)
        self._mounts.up()
        self._groups.up()
        node.start_runtime(site)
        backing.start_databases(site)
        archives = {name: site.programs / f"{name}.tar" for name in ("pause", "coredns")}
        archives["base"] = build.base_image()
        if self._has("pipelines"):
            storage.start(site, build.pipelines())
            archives |= {name: build.pipelines() / f"{name}.tar" for name in (kubeflow.PROGRAMS, kubeflow.STEP)}
        yield from backing.start_mlflow(site)
        yield from node.load_images(site, archives)
        yield from control.storage_ready(site)
        control.start_controllers(site)
        control.start_scheduler(site)
        node.join(site)
        kinds = pipelines.definitions(build.pipelines()) if self._has("pipelines") else []
        yield from kserve.define(site, *gateway.definitions(site), *kinds)
        site.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}])
        gateway.start(site)
        backing.start_prometheus(site)
        yield from kserve.start(site)
        yield from gateway.ready(site)
        yield from control.controllers_ready(site)
        yield from node.node_ready(site)
        yield from backing.ready(site)
        if self._has("pipelines"):
            yield from storage.ready(site)
            pipelines.start(site, build.pipelines())
            yield from pipelines.ready(site)

    def _has(self, part: str) -> bool:
        return includes(self.level, part)

    def _recorded(self) -> str:
        return self._level.read_text(encoding="ascii") if self._level.is_file() else LEVELS[0]


_AGAIN = {"kubelet": node.join, "prometheus": backing.start_prometheus, "redis": backing.start_databases}


def told(steps: Iterator[str], say: Callable[[str], None]) -> None:
    """Go through the steps and say each with the seconds since the first."""
    began = time.monotonic()
    for step in steps:
        say(f"{time.monotonic() - began:6.1f} s  {step}")
