"""A network namespace of its own: no way out of it, so nothing in it can reach a foreign address, and two clusters can
stand side by side with the same addresses. (That also spares the rules which would keep pods from a machine's own
interfaces: there are none in it.)"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

_NAMESPACES = Path("/run/netns")
_BRIDGE = "node"


class Network:
    """A named network namespace that holds nothing but its loopback interface and one address on it."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.path = _NAMESPACES / name
        self._address = address

    @property
    def exists(self) -> bool:
        """Whether it is there."""
        return self.path.exists()

    def up(self) -> None:
        """Make it, where it is not there yet."""
        if not self.exists:
            run("ip", "netns", "add", self.name)
        run(*self.inside("ip", "link", "set", "lo", "up"))
        # The API server refuses to advertise an address of 127.0.0.0/8; any other one on the same interface will do.
        run(*self.inside("ip", "address", "replace", f"{self._address}/32", "dev", "lo"))

    def carry_pods(self, services: str) -> None:
        """Let pods be reached: those of one bridge by one another, and services by the rules of kube-proxy.

        Args:
            services: the addresses of services. No interface has them, and yet they need a route to begin with: rules
                turn them into pods' addresses only on the way.
        """
        if not (Path("/proc/sys/net/bridge").exists() or _loads("br_netfilter")):
            raise RuntimeError("the kernel has no br_netfilter, without which pods do not reach services")
        if subprocess.run(self.inside("ip", "link", "show", _BRIDGE), capture_output=True, check=False).returncode:
            run(*self.inside("ip", "link", "add", _BRIDGE, "type", "bridge"))
        run(*self.inside("ip", "link", "set", _BRIDGE, "up"))
        run(*self.inside("ip", "route", "replace", services, "dev", _BRIDGE, "src", self._address))
        for setting in ("net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1"):
            run(*self.inside("sysctl", "--quiet", "--write", setting))

    def down(self) -> None:
        """Remove it."""
        if self.exists:
            run("ip", "netns", "delete", self.name)

    def inside(self, *command: str) -> list[str]:
        """The command that runs another one in the namespace, as the same process. (`ip netns exec` would also mount
        a fresh /sys, without the control groups that a kubelet needs.)"""
        return ["nsenter", f"--net={self.path}", *command]


def run(*command: str) -> None:
    """Run a command that changes the machine.

    Raises:
        RuntimeError: it could not.
    """
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise RuntimeError(f"there is no {command[0]}: install iproute2, procps and util-linux") from None
    except subprocess.CalledProcessError as error:
        hint = "namespaces need root; or set KUBECONFIG to use a cluster"
        raise RuntimeError(f"{_shown(command)}: {error.stderr.strip()} ({hint})") from error


def _loads(module: str) -> bool:
    try:
        return subprocess.run(["modprobe", module], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _shown(command: Sequence[str]) -> str:
    return " ".join(command)
