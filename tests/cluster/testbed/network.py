"""A network namespace of its own: no way out of it, so nothing in it can reach a foreign address, and two clusters can
stand side by side with the same addresses."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

_NAMESPACES = Path("/run/netns")


class Network:
    """A named network namespace that holds nothing but its loopback interface and one address on it."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self._address = address

    @property
    def exists(self) -> bool:
        """Whether it is there."""
        return (_NAMESPACES / self.name).exists()

    def up(self) -> None:
        """Make it, where it is not there yet."""
        if not self.exists:
            _run("ip", "netns", "add", self.name)
        _run(*self.inside("ip", "link", "set", "lo", "up"))
        # The API server refuses to advertise an address of 127.0.0.0/8; any other one on the same interface will do.
        _run(*self.inside("ip", "address", "replace", f"{self._address}/32", "dev", "lo"))

    def down(self) -> None:
        """Remove it."""
        if self.exists:
            _run("ip", "netns", "delete", self.name)

    def inside(self, *command: str) -> list[str]:
        """The command that runs another one in the namespace, as the same process. (`ip netns exec` would also mount
        a fresh /sys, without the control groups that a kubelet needs.)"""
        return ["nsenter", f"--net={_NAMESPACES / self.name}", *command]


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise RuntimeError(f"there is no {command[0]}: install iproute2 and util-linux") from None
    except subprocess.CalledProcessError as error:
        hint = "a network namespace needs root; or set KUBECONFIG to use a cluster"
        raise RuntimeError(f"{_shown(command)}: {error.stderr.strip()} ({hint})") from error


def _shown(command: Sequence[str]) -> str:
    return " ".join(command)
