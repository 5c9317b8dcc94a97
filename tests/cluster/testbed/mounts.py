"""A mount namespace of its own for containerd and kubelet. Nothing that they mount (containers' file systems, volumes,
pods' network namespaces) is seen outside, all of it is gone with the last process, and what they write at places that
no option moves (/run/containerd, /var/lib/cni, /var/log/containers) ends in the cluster's own folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.cluster.testbed.network import run

# Written to by the programs, whatever their options.
_SHARED = ("/var/lib", "/var/log")


class Mounts:
    """A mount namespace that is kept by a file in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "namespace"

    @property
    def exists(self) -> bool:
        """Whether it is there."""
        return subprocess.run(["mountpoint", "--quiet", self._file], check=False).returncode == 0

    def up(self) -> None:
        """Make it, where it is not there yet."""
        if self.exists:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        # The kernel keeps a mount namespace by a file only where the file's mount is seen in no other namespace.
        run("mount", "--bind", str(self._folder), str(self._folder))
        run("mount", "--make-private", str(self._folder))
        self._file.touch()
        run("unshare", f"--mount={self._file}", "--propagation=slave", "true")
        run(*self.inside("mount", "-t", "tmpfs", "run", "/run"))
        for place in _SHARED:
            upper, work = (self._folder / kind / place.replace("/", "_") for kind in ("upper", "work"))
            upper.mkdir(parents=True)
            work.mkdir(parents=True)
            layers = f"lowerdir={place},upperdir={upper},workdir={work}"
            run(*self.inside("mount", "-t", "overlay", "-o", layers, "overlay", place))

    def down(self) -> None:
        """Remove it, once no process is in it."""
        for path in (self._file, self._folder):
            if subprocess.run(["mountpoint", "--quiet", path], check=False).returncode == 0:
                run("umount", str(path))

    def inside(self, *command: str) -> list[str]:
        """The command that runs another one in the namespace, as the same process."""
        return ["nsenter", f"--mount={self._file}", *command]
