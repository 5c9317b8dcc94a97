"""The control plane: etcd, API server, controllers, scheduler, with the options that differ from what a distribution
would choose: no TLS between API server and etcd, which share a network namespace with nobody, and no fsync, for the
state is thrown away."""

from __future__ import annotations

from collections.abc import Iterator

from tests.cluster.testbed.pki import Authority
from tests.cluster.testbed.site import ADDRESS, API, FIRST_SERVICE, NODE, PODS, SERVICES, Site

ETCD = "http://127.0.0.1:2379"
ISSUER = "https://kubernetes.default.svc.cluster.local"
HOSTS = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]


def sign(site: Site) -> None:
    """All certificates and kubeconfigs, those of a node too: levels can follow one another."""
    if site.kubeconfig().is_file():
        return
    authority = Authority(site.pki)
    authority.server("apiserver", [*HOSTS, "localhost"], [ADDRESS, FIRST_SERVICE, "127.0.0.1"])
    authority.server("kubelet-server", [NODE], [ADDRESS])
    authority.server("webhooks", ["localhost"], ["127.0.0.1"])
    authority.signing_keys("tokens")
    authority.client("controllers", "system:kube-controller-manager", server=API)
    authority.client("scheduler", "system:kube-scheduler", server=API)
    authority.client("kubelet", f"system:node:{NODE}", "system:nodes", server=API)
    authority.client("proxy", "system:kube-proxy", server=API)
    authority.client("apiserver-kubelet", "apiserver", "system:masters", server=API)
    # Last, for its file says that all are there.
    authority.client("admin", "admin", "system:masters", server=API)


def start_storage(site: Site) -> None:
    """Start etcd and the API server, which is not ready then."""
    site.start("etcd", _etcd(site))
    site.start("kube-apiserver", _apiserver(site))


def storage_ready(site: Site) -> Iterator[str]:
    """Wait for the API server."""
    yield from site.wait("API server ready", lambda: site.answers("get", "--raw=/readyz"))


def start_controllers(site: Site) -> None:
    """Start what acts on objects."""
    site.start("kube-controller-manager", _controller_manager(site))


def start_scheduler(site: Site) -> None:
    """Start what gives pods a node."""
    kubeconfig = str(site.kubeconfig("scheduler"))
    site.start("kube-scheduler", {**_client(kubeconfig), "bind-address": "127.0.0.1", "leader-elect": "false"})


def controllers_ready(site: Site) -> Iterator[str]:
    """Wait until namespaces have a service account."""
    account = ("get", "serviceaccount", "--namespace=default", "default")
    yield from site.wait("controllers work", lambda: site.answers(*account))


def _etcd(site: Site) -> dict[str, str]:
    peers = "http://127.0.0.1:2380"
    return {
        "name": "testbed",
        "data-dir": str(site.state / "etcd"),
        "listen-client-urls": ETCD,
        "advertise-client-urls": ETCD,
        "listen-peer-urls": peers,
        "initial-advertise-peer-urls": peers,
        "initial-cluster": f"testbed={peers}",
        "unsafe-no-fsync": "true",
        "log-level": "warn",
    }


def _apiserver(site: Site) -> dict[str, str]:
    return {
        "etcd-servers": ETCD,
        "bind-address": ADDRESS,
        "advertise-address": ADDRESS,
        "secure-port": "6443",
        "service-cluster-ip-range": SERVICES,
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "allow-privileged": "true",
        "client-ca-file": str(site.pki / "ca.crt"),
        "tls-cert-file": str(site.pki / "apiserver.crt"),
        "tls-private-key-file": str(site.pki / "apiserver.key"),
        "kubelet-client-certificate": str(site.pki / "apiserver-kubelet.crt"),
        "kubelet-client-key": str(site.pki / "apiserver-kubelet.key"),
        "kubelet-certificate-authority": str(site.pki / "ca.crt"),
        "kubelet-preferred-address-types": "InternalIP",
        "service-account-issuer": ISSUER,
        "service-account-signing-key-file": str(site.pki / "tokens.key"),
        "service-account-key-file": str(site.pki / "tokens.pub"),
        "profiling": "false",
    }


def _controller_manager(site: Site) -> dict[str, str]:
    return {
        **_client(str(site.kubeconfig("controllers"))),
        "bind-address": "127.0.0.1",
        "leader-elect": "false",
        "use-service-account-credentials": "true",
        "service-account-private-key-file": str(site.pki / "tokens.key"),
        "root-ca-file": str(site.pki / "ca.crt"),
        "service-cluster-ip-range": SERVICES,
        "allocate-node-cidrs": "true",
        "cluster-cidr": PODS,
        "node-cidr-mask-size": PODS.partition("/")[2],
        "horizontal-pod-autoscaler-sync-period": "5s",
        "profiling": "false",
    }


def _client(kubeconfig: str) -> dict[str, str]:
    """How a server of Kubernetes talks to the API server, and asks it who talks to itself."""
    return {
        "kubeconfig": kubeconfig,
        "authentication-kubeconfig": kubeconfig,
        "authorization-kubeconfig": kubeconfig,
    }
