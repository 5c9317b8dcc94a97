"""One command up, one down, and one that does both around another: `run -- pytest tests/cluster`. Two more are for the
while between: `load-image` gives an image to the node, `stop` ends a program, which `up` starts again.

Where KUBECONFIG is set there is a cluster already: `run` then only runs the command. A testbed that was up before `run`
stays up, so that one can look into it between two runs.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tests.cluster.testbed.cluster import Cluster, told
from tests.cluster.testbed.levels import LEVELS, VARIABLE, includes
from tests.cluster.testbed.node import load_image

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[2]


def main() -> int:
    """The exit code: of the command that is run, or 1 when the testbed cannot be had."""
    options = _parser().parse_args()
    os.environ[VARIABLE] = options.level
    if options.verb == "run" and os.environ.get("KUBECONFIG"):
        _say(f"using the cluster of KUBECONFIG={os.environ['KUBECONFIG']}")
        return subprocess.run(options.command, check=False).returncode
    # What ends this process must still take the testbed down.
    signal.signal(signal.SIGTERM, _leave)
    cluster = Cluster(options.level, CHECKOUT)
    try:
        verbs = {"up": _up, "down": _down, "load-image": _load_image, "stop": _stop}
        if options.verb == "run":
            return _run(cluster, options.command, options.image)
        return verbs[options.verb](cluster, options.command)
    except RuntimeError as error:
        _say(f"testbed: {error}")
        return 1


@contextmanager
def _alone() -> Iterator[None]:
    """Nobody else brings this checkout's testbed up or down meanwhile. The lock is on a folder: it leaves no file."""
    folder = os.open(HERE, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _up(cluster: Cluster, _: list[str]) -> int:
    with _alone():
        told(cluster.up(), _say)
    enter = " ".join(cluster.network.inside("env", f"KUBECONFIG={cluster.kubeconfig}", f"{cluster.path()}/kubectl"))
    _say(f"kubectl: {enter}")
    return 0


def _down(cluster: Cluster, _: list[str]) -> int:
    with _alone():
        cluster.down()
    return 0


def _load_image(cluster: Cluster, archives: list[str]) -> int:
    if not includes(cluster.level, "node") or not cluster.is_up:
        raise RuntimeError("there is no node to take an image: bring it up with --level node first")
    for archive in archives:
        _say(load_image(cluster.site(), Path(archive)))
    return 0


def _stop(cluster: Cluster, names: list[str]) -> int:
    with _alone():
        cluster.stop(*names)
    return 0


def _run(cluster: Cluster, command: list[str], archives: list[str]) -> int:
    was_up = True
    try:
        with _alone():
            was_up = cluster.is_up
            told(cluster.up(), _say)
        if archives:
            _load_image(cluster, archives)
        settings = {
            "KUBECONFIG": str(cluster.kubeconfig),
            # Kubectl's, which would stay in the user's home.
            "KUBECACHEDIR": str(cluster.state / "kubectl"),
            "PATH": f"{cluster.path()}:{os.environ['PATH']}",
        }
        inside = cluster.network.inside(*command)
        return subprocess.run(inside, env={**os.environ, **settings}, check=False).returncode
    finally:
        if not was_up:
            _down(cluster, [])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.testbed", description=__doc__)
    parser.add_argument("--level", choices=LEVELS, default="api", help="how much of a cluster (default: api)")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, words in (("up", "bring it up, and say how to reach it"), ("down", "take it down")):
        verbs.add_parser(name, help=words).set_defaults(command=[])
    load = verbs.add_parser("load-image", help="give the node images, from archives or OCI layouts")
    load.add_argument("command", nargs="+", metavar="ARCHIVE")
    stop = verbs.add_parser("stop", help="end programs, such as redis or kubelet")
    stop.add_argument("command", nargs="+", metavar="NAME")
    run = verbs.add_parser("run", help="run a command beside it, and take it down again")
    run.add_argument("--image", action="append", default=[], metavar="ARCHIVE", help="give the node this image first")
    run.add_argument("command", nargs="+", help="the command, after --")
    return parser


def _leave(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
