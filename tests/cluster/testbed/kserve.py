"""KServe's controllers as a process of this machine, in Standard mode: Deployments, Services and autoscalers, and no
routes, which are ours to make. What it needs in the cluster is read from its own module when the testbed is built."""

from __future__ import annotations

import json
import shutil
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.testbed.processes import Server
from tests.cluster.testbed.site import SYSTEM, Document, Site

NAME = "kserve"
PROGRAM = "kserve-manager"
OBJECTS = "kserve.json"
GATEWAY = f"{SYSTEM}/serinus"
DOMAIN = "example.com"

_HEALTH = "127.0.0.1:18081"
_WEBHOOKS = "https://127.0.0.1:9443"
_DEFINITION = "CustomResourceDefinition"
_PERMISSIONS = {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
_CONFIG = "inferenceservice-config"
_SETTINGS = {
    "deploy": {"defaultDeploymentMode": "Standard"},
    "ingress": {
        "enableGatewayApi": True,
        "kserveIngressGateway": GATEWAY,
        "disableIngressCreation": True,
        "disableIstioVirtualHost": True,
        "ingressDomain": DOMAIN,
    },
}


def define(site: Site, *more: Document) -> Iterator[str]:
    """Make its kinds known, and others with them. Those that are known stay: storing them takes seconds."""
    own, _, _ = _objects(site)
    kinds = [*own, *more]
    known = site.kubectl("get", "crd", "--output=jsonpath={.items[*].metadata.name}").split()
    if missing := [each for each in kinds if each["metadata"]["name"] not in known]:
        site.create(missing)
    yield from site.wait("definitions of KServe and of the Gateway API", lambda: site.established(kinds))


def start(site: Site) -> Iterator[str]:
    """Start it, once its kinds are known, and let it judge what is stored."""
    _, others, webhooks = _objects(site)
    site.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAME}}, *others])
    site.servers.start(_manager(site))
    yield from site.wait("KServe ready", lambda: site.serves(f"http://{_HEALTH}/readyz"))
    # Last: while nobody answers them, nothing that they watch can be stored.
    site.apply(_by_address(each, site.pki / "ca.crt") for each in webhooks)


def _manager(site: Site) -> Server:
    # Where it looks for its certificate is a folder below the one for temporary files, and no option's.
    temporary = site.state / NAME
    certificates = temporary / "k8s-webhook-server" / "serving-certs"
    certificates.mkdir(parents=True, exist_ok=True)
    for kind in ("crt", "key"):
        shutil.copyfile(site.pki / f"webhooks.{kind}", certificates / f"tls.{kind}")
    command = [
        str(site.programs / PROGRAM),
        "--metrics-addr=127.0.0.1:18080",
        f"--health-probe-addr={_HEALTH}",
        "--webhook-port=9443",
    ]
    settings = {"KUBECONFIG": str(site.kubeconfig()), "POD_NAMESPACE": NAME, "TMPDIR": str(temporary)}
    return Server(PROGRAM, command, site.inside, settings)


def _objects(site: Site) -> tuple[list[Document], list[Document], list[Document]]:
    """What of its own manifests a controller outside the cluster needs: definitions, webhooks, and what is neither."""
    definitions, others, webhooks = [], [], []
    for each in json.loads((site.programs / OBJECTS).read_text(encoding="utf-8")):
        # They name cert-manager, which is not there.
        each["metadata"].pop("annotations", None)
        if each["kind"] == _DEFINITION:
            definitions.append(each)
        elif each["kind"].endswith("WebhookConfiguration"):
            webhooks.append(each)
        elif each["kind"] in _PERMISSIONS:
            others.append(each)
        elif each["metadata"]["name"] == _CONFIG:
            others.append(_settled(each))
    return definitions, others, webhooks


def _settled(config: Document) -> Document:
    """KServe's ConfigMap with our settings."""
    config["data"].pop("_example", None)
    for key, settings in _SETTINGS.items():
        config["data"][key] = json.dumps({**json.loads(config["data"].get(key, "{}")), **settings})
    return config


def _by_address(configuration: Document, authority: Path) -> Document:
    """Webhooks that are called by an address of this machine instead of a Service."""
    bundle = b64encode(authority.read_bytes()).decode()
    for each in configuration["webhooks"]:
        path = each["clientConfig"]["service"]["path"]
        each["clientConfig"] = {"url": f"{_WEBHOOKS}{path}", "caBundle": bundle}
    return configuration
