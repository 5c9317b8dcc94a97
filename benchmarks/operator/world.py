"""Plays KServe, the Gateway and what pods count: a fake, as none of them could run two thousand models on one machine.

A pod follows each InferenceService (kwok plays the node that it runs on), and the InferenceService is ready when its
pod is. A route is taken over as soon as it is seen. Prometheus is told of the pods of rollouts, a target each, and
scrapes their pages here; the idle ones, whose metrics nobody asks for, are on one page.

python -m benchmarks.operator.world ADDRESS PORT DEPLOYMENTS ROLLOUTS
"""

from __future__ import annotations

import json
import logging
import queue
import signal
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from benchmarks.operator.fleet import CANARY, STABLE, Fleet
from benchmarks.operator.telemetry import Counts, Pod
from serinus.core.errors import SerinusError
from serinus.engines import kubernetes_gateway as gateway
from serinus.engines import kubernetes_kserve as kserve
from serinus.engines.kubernetes import HTTP_ROUTE, INFERENCE_SERVICE, POD, Cluster, Kind, Object, Selection
from serinus.engines.kubernetes_cache import CachedCluster
from serinus.engines.kubernetes_watch import Watching

log = logging.getLogger("world")

MANAGER = "world"
WORKERS = 4
_SERVICE = "serving.kserve.io/inferenceservice"
_PAGES = "/pods"


class World:
    """Reacts to what the operator makes."""

    def __init__(self, cluster: Cluster, fleet: Fleet, address: str) -> None:
        self._cluster = cluster
        self._fleet = fleet
        self._address = address
        self._copy = CachedCluster(
            cluster, [Selection(kind, labels=kserve.MANAGED) for kind in (INFERENCE_SERVICE, HTTP_ROUTE, POD)]
        )
        self.watching = Watching(cluster, self._copy.stores, self._changed)
        self._waiting: queue.SimpleQueue[tuple[Kind, str, str]] = queue.SimpleQueue()
        self.counts = Counts()

    def work(self) -> None:
        """Do what has to be done, one after another."""
        while True:
            kind, namespace, name = self._waiting.get()
            try:
                if kind == HTTP_ROUTE:
                    self._take_over(namespace, name)
                else:
                    self._serve(namespace, name)
            except SerinusError as error:
                log.warning("%s %s/%s: %s", kind.name, namespace, name, error)
                threading.Timer(1.0, self._waiting.put, [(kind, namespace, name)]).start()

    def targets(self) -> list[dict[str, Any]]:
        """The pods of rollouts, and one page for all others, as Prometheus' service discovery takes them."""
        found = [{"targets": [self._address], "labels": {"__metrics_path__": "/idle", "instance": "idle"}}]
        for namespace in self._fleet.namespaces[: self._fleet.rollouts]:
            for version in (STABLE, CANARY):
                name = f"{kserve.version_name('model-0', version)}-predictor"
                if self._copy.get(POD, namespace, name) is not None:
                    path = f"{_PAGES}/{namespace}/model-0/{version}"
                    labels = {"__metrics_path__": path, "instance": f"{namespace}/{name}", "namespace": namespace}
                    found.append({"targets": [self._address], "labels": {**labels, "pod": name}})
        return found

    def idle(self) -> str:
        """The metrics of all pods that are in no rollout, those that are told apart by little."""
        return "".join(
            f'serinus_{name}{{model="{each["metadata"]["name"]}",namespace="{each["metadata"]["namespace"]}",'
            f'version="{STABLE}"}} 1\n'
            for name in ("counting_info", "door_up", "routed_requests_total", "upstream_requests_total")
            for each in self._fleet.documents()
            if each["metadata"]["labels"]["serinus.dev/bench"] == "idle"
        )

    def _changed(self, kind: Kind, before: Object | None, after: Object | None) -> None:
        found = after or before
        assert found is not None
        namespace, name = found["metadata"]["namespace"], found["metadata"]["name"]
        if kind == POD:
            kind, name = INFERENCE_SERVICE, found["metadata"]["labels"].get(_SERVICE, "")
        if kind == HTTP_ROUTE and found["metadata"]["name"] == "model-0":
            self.counts.route(namespace, name, gateway.shares_of(after) if after else None)
        self._waiting.put((kind, namespace, name))

    def _take_over(self, namespace: str, name: str) -> None:
        route = self._copy.get(HTTP_ROUTE, namespace, name)
        if route is None or gateway.in_force(route):
            return
        conditions = [_condition(each, True, route) for each in ("Accepted", "ResolvedRefs")]
        parent = {"parentRef": route["spec"]["parentRefs"][0], "controllerName": "serinus.dev/world"}
        self._tell(HTTP_ROUTE, route, {"parents": [{**parent, "conditions": conditions}]})

    def _serve(self, namespace: str, name: str) -> None:
        service = self._copy.get(INFERENCE_SERVICE, namespace, name)
        if service is None:
            return
        pod = self._copy.get(POD, namespace, f"{name}-predictor")
        if pod is None:
            self._cluster.apply(_pod(service, self._fleet.node_of(f"{namespace}/{name}")), POD, manager=MANAGER)
        ready = pod is not None and any(
            each["type"] == "Ready" and each["status"] == "True" for each in pod.get("status", {}).get("conditions", ())
        )
        if kserve.is_ready(service) != ready:
            status = {"observedGeneration": service["metadata"]["generation"]}
            self._tell(INFERENCE_SERVICE, service, {**status, "conditions": [_condition("Ready", ready)]})

    def _tell(self, kind: Kind, about: Object, status: Object) -> None:
        where = {key: about["metadata"][key] for key in ("name", "namespace")}
        wanted = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": where, "status": status}
        self._cluster.apply(wanted, kind, status=True, manager=MANAGER)


def _condition(name: str, holds: bool, of: Object | None = None) -> Object:
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    found = {"type": name, "status": str(holds), "lastTransitionTime": moment}
    if of is None:
        return found
    return {**found, "reason": name, "message": "", "observedGeneration": of["metadata"]["generation"]}


def _pod(service: Object, node: str) -> Object:
    """The pod that KServe's Deployment would make."""
    metadata = service["metadata"]
    predictor = service["spec"]["predictor"]
    owner = {"apiVersion": service["apiVersion"], "kind": service["kind"]}
    container = {
        "name": "kserve-container",
        "image": "localhost/serinus-serving:dev",
        "resources": predictor["model"]["resources"],
        "ports": [{"name": "metrics", "containerPort": 9109}],
        "volumeMounts": predictor["model"]["volumeMounts"],
    }
    return {
        "apiVersion": POD.api_version,
        "kind": POD.name,
        "metadata": {
            "name": f"{metadata['name']}-predictor",
            "namespace": metadata["namespace"],
            "labels": {**predictor["labels"], _SERVICE: metadata["name"], "component": "predictor"},
            "ownerReferences": [{**owner, "name": metadata["name"], "uid": metadata["uid"]}],
        },
        "spec": {
            "nodeName": node,
            "automountServiceAccountToken": False,
            "containers": [container],
            "volumes": predictor["volumes"],
        },
    }


def _handler(world: World) -> type[BaseHTTPRequestHandler]:
    idle = world.idle().encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            kind = "text/plain; version=0.0.4"
            if self.path == "/targets":
                kind, content = "application/json", json.dumps(world.targets()).encode()
            elif self.path == "/idle":
                content = idle
            else:
                namespace, model, version = self.path.removeprefix(f"{_PAGES}/").split("/")
                pod: Pod = (namespace, model, int(version))
                content = world.counts.page(pod).encode()
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Nobody reads one line a scrape."""

    return Handler


def main() -> None:
    address, port, deployments, rollouts = sys.argv[1:]
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    world = World(Cluster.connect(), Fleet(int(deployments), int(rollouts)), f"{address}:{port}")
    world.watching.start()
    for at in range(WORKERS):
        threading.Thread(target=world.work, name=f"work-{at}", daemon=True).start()
    server = ThreadingHTTPServer((address, int(port)), _handler(world))
    server.daemon_threads = True
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()


if __name__ == "__main__":
    main()
