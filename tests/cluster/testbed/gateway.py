"""The Gateway: Traefik as a process of this machine, which reaches pods by their own addresses."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.testbed.kserve import GATEWAY
from tests.cluster.testbed.processes import Server
from tests.cluster.testbed.site import ADDRESS, Document, Site

NAME = "traefik"
OBJECTS = "gateway-api.json"
PORT = 8000
ADMIN_PORT = 8090
_GROUP = "gateway.networking.k8s.io"


def definitions(site: Site) -> list[Document]:
    """Its kinds."""
    found = json.loads((site.programs / OBJECTS).read_text(encoding="utf-8"))
    return [each for each in found if each["kind"] == "CustomResourceDefinition"]


def start(site: Site) -> None:
    """Start it. Its kinds must be known."""
    site.apply(_objects())
    options = {
        "global.checknewversion": "false",
        "global.sendanonymoususage": "false",
        "ping": "true",
        "entrypoints.web.address": f"{ADDRESS}:{PORT}",
        "entrypoints.traefik.address": f"{ADDRESS}:{ADMIN_PORT}",
        "metrics.prometheus.addserviceslabels": "true",
        "providers.kubernetesgateway": "true",
        "providers.kubernetesgateway.statusaddress.ip": ADDRESS,
        # How long a change waits for the next one.
        "providers.providersthrottleduration": "200ms",
    }
    program = Path(sys.executable).parent / NAME
    command = [str(program), *(f"--{key}={value}" for key, value in options.items())]
    site.servers.start(Server(NAME, command, site.inside, {"KUBECONFIG": str(site.kubeconfig())}))


def ready(site: Site) -> Iterator[str]:
    """Wait until it takes routes."""
    namespace, _, name = GATEWAY.partition("/")
    arguments = ("wait", f"--namespace={namespace}", f"gateway/{name}", "--for=condition=Programmed", "--timeout=1s")
    yield from site.wait(f"Gateway {GATEWAY} on http://{ADDRESS}:{PORT}", lambda: site.answers(*arguments))


def _objects() -> list[Document]:
    namespace, _, name = GATEWAY.partition("/")
    listener = {"name": "http", "protocol": "HTTP", "port": PORT, "allowedRoutes": {"namespaces": {"from": "All"}}}
    return [
        {
            "apiVersion": f"{_GROUP}/v1",
            "kind": "GatewayClass",
            "metadata": {"name": NAME},
            "spec": {"controllerName": "traefik.io/gateway-controller"},
        },
        {
            "apiVersion": f"{_GROUP}/v1",
            "kind": "Gateway",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"gatewayClassName": NAME, "listeners": [listener]},
        },
    ]
