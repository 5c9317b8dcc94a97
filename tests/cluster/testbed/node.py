"""The node: containerd, kubelet and kube-proxy as processes of this machine, and the cluster's name server as a pod."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

from tests.cluster.testbed import images
from tests.cluster.testbed.modules import documents
from tests.cluster.testbed.site import ADDRESS, NAME_SERVER, NODE, PODS, Site, write

HERE = Path(__file__).parent
PLUGINS = Path("/usr/lib/cni")
# What must be there, and what has it.
PACKAGES = {
    str(PLUGINS / "bridge"): "containernetworking-plugins",
    "conntrack": "conntrack",
    "curl": "curl",
    "ethtool": "ethtool",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
    "modprobe": "kmod",
    "nft": "nftables",
    "psql": "postgresql",
    "runc": "runc",
    "socat": "socat",
    "sysctl": "procps",
}
# The limit of Linux is soon reached by programs that watch files: containerd, kubelet and each pod's log.
INOTIFY = {"max_user_instances": 8192, "max_user_watches": 524288}


def check_machine(packages: Mapping[str, str] = PACKAGES) -> None:
    """Say what is missing before a program does, which would say it in a log.

    Raises:
        RuntimeError: with the packages that have it.
    """
    if missing := [packages[name] for name in packages if shutil.which(name) is None and not Path(name).exists()]:
        raise RuntimeError(f"there is need of these Debian packages: {' '.join(dict.fromkeys(missing))}")


def start_runtime(site: Site) -> None:
    """Start containerd, which runs the containers."""
    for name, least in INOTIFY.items():
        limit = Path("/proc/sys/fs/inotify") / name
        if int(limit.read_text(encoding="ascii")) < least:
            limit.write_text(str(least), encoding="ascii")
    write(site.state / "cni" / "10-pods.conflist", json.dumps(_pod_network(site)))
    config = write(site.state / "containerd.toml", _containerd(site))
    # It looks for its shim on PATH.
    site.start("containerd", {"config": str(config)}, {"PATH": f"{site.programs}:/usr/sbin:/usr/bin:/sbin:/bin"}, True)


def load_images(site: Site, archives: Mapping[str, Path]) -> Iterator[str]:
    """Give the node its own images."""
    yield from site.wait("containerd ready", lambda: _containerd_answers(site))
    there = _ctr(site, "images", "ls", "--quiet").split()
    for name, archive in archives.items():
        if images.reference(name) not in there:
            load_image(site, archive)
    yield f"images {', '.join(archives)}"


def load_image(site: Site, archive: Path) -> str:
    """Give the node images from an archive as `docker save` writes it, or from a folder in the OCI's layout; what
    containerd says.

    Raises:
        RuntimeError: it is none, or the node does not run.
    """
    pack = ["tar", "-C", str(archive), "-cf", "-", "."] if archive.is_dir() else ["cat", str(archive)]
    # Without the packed layers, once they are unpacked: an image would take twice its size.
    command = _ctr_command(site, "images", "import", "--local", "--discard-unpacked-layers", "-")
    with subprocess.Popen(pack, stdout=subprocess.PIPE) as content:
        done = subprocess.run(command, stdin=content.stdout, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{archive}: {done.stderr.strip()}")
    return done.stdout.strip()


def join(site: Site) -> None:
    """Start what makes the machine a node."""
    kubelet = write(site.state / "kubelet.json", json.dumps(_kubelet(site)))
    # One of its own: this machine's name servers are none of the pods' business.
    write(site.state / "resolv.conf", "search .\n")
    options = {
        "config": str(kubelet),
        "kubeconfig": str(site.kubeconfig("kubelet")),
        "hostname-override": NODE,
        "node-ip": ADDRESS,
        "root-dir": str(site.state / "kubelet"),
    }
    site.start("kubelet", options, on_node=True)
    proxy = write(site.state / "kube-proxy.json", json.dumps(_proxy(site)))
    site.start("kube-proxy", {"config": str(proxy)}, on_node=True)
    text = (HERE / "manifests" / "node.yaml").read_text(encoding="utf-8")
    values = {"address": NAME_SERVER, "image": images.reference("coredns")}
    site.apply(documents(Template(text).substitute(values)))


def node_ready(site: Site) -> Iterator[str]:
    """Wait until pods run, and find one another by name."""
    node = ("wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=1s")
    yield from site.wait("node ready", lambda: site.answers(*node))
    server = ("wait", "--namespace=kube-system", "--for=condition=Available", "deployment/coredns", "--timeout=1s")
    yield from site.wait("names are found", lambda: site.answers(*server))


def _socket(site: Site) -> Path:
    return site.state / "containerd" / "containerd.sock"


def _ctr_command(site: Site, *arguments: str) -> list[str]:
    ctr = str(site.programs / "ctr")
    return [*site.inside_node, ctr, "--address", str(_socket(site)), "--namespace", "k8s.io", *arguments]


def _ctr(site: Site, *arguments: str) -> str:
    done = subprocess.run(_ctr_command(site, *arguments), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ctr {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _containerd_answers(site: Site) -> bool:
    return subprocess.run(_ctr_command(site, "version"), capture_output=True, check=False).returncode == 0


def _pod_network(site: Site) -> dict[str, Any]:
    addresses = {
        "type": "host-local",
        "dataDir": str(site.state / "addresses"),
        "ranges": [[{"subnet": PODS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    # hairpinMode: a pod may reach itself by its service. No masquerading: there is nowhere to go out to.
    bridge = {
        "type": "bridge", "bridge": "pods", "isGateway": True, "hairpinMode": True, "ipMasq": False, "ipam": addresses,
    }  # fmt: skip
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, ports]}


def _containerd(site: Site) -> str:
    folder = site.state / "containerd"
    # restrict_oom_score_adj: lowering the score needs CAP_SYS_RESOURCE, which containers often have not.
    return f"""\
version = 3
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]

[grpc]
address = "{_socket(site)}"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{images.reference("pause")}"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{PLUGINS}"]
conf_dir = "{site.state}/cni"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "runc"
SystemdCgroup = false
"""


def _kubelet(site: Site) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(site.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(site.pki / "kubelet-server.crt"),
        "tlsPrivateKeyFile": str(site.pki / "kubelet-server.key"),
        "containerRuntimeEndpoint": f"unix://{_socket(site)}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{site.state.name}",
        # Hybrid and version 1 hierarchies still work, and are what some machines have.
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "clusterDNS": [NAME_SERVER],
        "clusterDomain": "cluster.local",
        "resolvConf": str(site.state / "resolv.conf"),
        "healthzBindAddress": "127.0.0.1",
        "podLogsDir": str(site.state / "pod-logs"),
        "maxPods": 110,
        "nodeStatusUpdateFrequency": "5s",
        # Nothing can be pulled here, so no image may go; and a full disk is this machine's matter.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "100Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%",
        },
    }  # fmt: skip


def _proxy(site: Site) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(site.kubeconfig("proxy"))},
        "hostnameOverride": NODE,
        "mode": "nftables",
        "clusterCIDR": PODS,
        # The limits are the whole machine's, not this namespace's to change.
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "nodePortAddresses": ["primary"],
    }
