"""Kubernetes' API, as much of it as Serinus needs: read, apply, delete, and say what happened.

Objects are plain mappings, as in YAML. They are written by server-side apply, under a field manager of our own, so that
each field has an owner: what somebody else adds stays, what somebody else changes of ours is set right again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from serinus.core.errors import Conflict, EngineError, NotFound

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

MANAGER = "serinus"
"""Owner of the fields that Serinus writes."""

Object = dict[str, Any]

_SECONDS = 15.0
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_NOT_FOUND, _CONFLICT = 404, 409


class Kind(NamedTuple):
    """A kind of object in a namespace, and where the API server has it."""

    name: str
    api_version: str
    plural: str

    @property
    def root(self) -> str:
        """The beginning of its paths."""
        return f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"


CONFIG_MAP = Kind("ConfigMap", "v1", "configmaps")
SERVICE = Kind("Service", "v1", "services")
POD = Kind("Pod", "v1", "pods")
EVENT = Kind("Event", "events.k8s.io/v1", "events")
DEPLOYMENT = Kind("Deployment", "apps/v1", "deployments")
LEASE = Kind("Lease", "coordination.k8s.io/v1", "leases")
DISRUPTION_BUDGET = Kind("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets")
INFERENCE_SERVICE = Kind("InferenceService", "serving.kserve.io/v1beta1", "inferenceservices")
GATEWAY = Kind("Gateway", "gateway.networking.k8s.io/v1", "gateways")
GATEWAY_CLASS = Kind("GatewayClass", "gateway.networking.k8s.io/v1", "gatewayclasses")
HTTP_ROUTE = Kind("HTTPRoute", "gateway.networking.k8s.io/v1", "httproutes")
MODEL_DEPLOYMENT = Kind("ModelDeployment", "serinus.dev/v1alpha1", "modeldeployments")
CONTINUOUS_TRAINING = Kind("ContinuousTraining", "serinus.dev/v1alpha1", "continuoustrainings")


@dataclass(frozen=True)
class Cluster:
    """A cluster's API server."""

    api: ApiClient

    @classmethod
    def connect(cls) -> Cluster:
        """By the pod's service account inside a cluster, by KUBECONFIG (or ~/.kube/config) outside.

        Raises:
            EngineError: neither tells of a cluster.
        """
        from kubernetes import client, config
        from kubernetes.config import ConfigException

        try:
            config.load_incluster_config()
        except ConfigException:
            try:
                config.load_kube_config()
            except (ConfigException, OSError) as error:
                raise EngineError(f"there is no cluster to talk to: {error}", hint="set KUBECONFIG") from error
        return cls(client.ApiClient())

    def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """An object, or None where there is none. One that belongs to no namespace is asked for without."""
        try:
            return self._call("GET", _path(kind, namespace, name))
        except NotFound:
            return None

    def all(self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> list[Object]:
        """Objects with these labels, in a namespace or in all."""
        query = {"labelSelector": ",".join(f"{key}={value}" for key, value in (labels or {}).items())}
        found = self._call("GET", _path(kind, namespace), query=query)
        # Items of a list come without what all of them share.
        same = {"apiVersion": kind.api_version, "kind": kind.name}
        return [{**same, **each} for each in found["items"]]

    def apply(self, wanted: Object, kind: Kind, *, status: bool = False, manager: str = MANAGER) -> Object:
        """Make an object be as wanted, or (with `status`) its status; again changes nothing.

        Raises:
            Conflict: it is being deleted, or another object of the name may not be changed so.
            EngineError: it is refused, or the server cannot be asked.
        """
        metadata = wanted["metadata"]
        path = _path(kind, metadata["namespace"], metadata["name"]) + ("/status" if status else "")
        query = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        return self._call("PATCH", path, query=query, body=wanted, content=_APPLY)

    def merge(self, kind: Kind, namespace: str, name: str, patch: Object) -> Object:
        """Change some fields of an object.

        Raises:
            NotFound: there is none.
            Conflict: it has changed since the `resourceVersion` in the patch.
        """
        query = {"fieldManager": MANAGER}
        return self._call("PATCH", _path(kind, namespace, name), query=query, body=patch, content=_MERGE)

    def create(self, wanted: Object, kind: Kind) -> Object:
        """Make an object.

        Raises:
            Conflict: there is one of the name.
        """
        path = _path(kind, wanted["metadata"]["namespace"])
        return self._call("POST", path, query={"fieldManager": MANAGER}, body=wanted)

    def replace(self, wanted: Object, kind: Kind) -> Object:
        """Write a whole object, unless it has changed since it was read.

        Raises:
            Conflict: it has.
        """
        metadata = wanted["metadata"]
        path = _path(kind, metadata["namespace"], metadata["name"])
        return self._call("PUT", path, query={"fieldManager": MANAGER}, body=wanted)

    def delete(self, kind: Kind, namespace: str, name: str) -> None:
        """Remove an object, and with it what it owns; none is fine."""
        body = {"propagationPolicy": "Background"}
        try:
            self._call("DELETE", _path(kind, namespace, name), body=body)
        except NotFound:
            return

    def log(self, namespace: str, pod: str, container: str) -> str:
        """What a container has printed so far.

        Raises:
            NotFound: there is no such pod.
        """
        path = f"{_path(POD, namespace, pod)}/log"
        return self._ask("GET", path, query={"container": container}).decode(errors="replace")

    def _call(
        self,
        verb: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content: str = "",
    ) -> Object:
        try:
            found: Object = json.loads(self._ask(verb, path, query=query, body=body, content=content))
            return found
        except ValueError as error:
            raise EngineError(f"the API server answers no JSON: {error}") from error

    def _ask(
        self,
        verb: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content: str = "",
    ) -> bytes:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json", "Content-Type": content or "application/json"}
        try:
            answer = self.api.call_api(
                path, verb, query_params=list((query or {}).items()), header_params=headers, body=body,
                auth_settings=["BearerToken"], _preload_content=False, _request_timeout=_SECONDS,
            )  # fmt: skip
            return bytes(answer[0].data)
        except ApiException as error:
            raise _translated(error, verb, path) from error
        except (HTTPError, OSError) as error:
            raise EngineError(f"the API server does not answer: {error}") from error


def _path(kind: Kind, namespace: str | None, name: str | None = None) -> str:
    parts = [kind.root, *(["namespaces", namespace] if namespace else []), kind.plural, *([name] if name else [])]
    return "/".join(parts)


def _translated(error: Any, verb: str, path: str) -> EngineError | NotFound | Conflict:
    try:
        words = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        words = error.reason
    if error.status == _NOT_FOUND:
        return NotFound(f"{path}: {words}")
    if error.status == _CONFLICT:
        return Conflict(f"{path}: {words}")
    return EngineError(f"the API server refused {verb} {path} with {error.status}: {words}")


@contextmanager
def connected() -> Iterator[Cluster]:
    """A connection, closed at the end."""
    cluster = Cluster.connect()
    with cluster.api:
        yield cluster


def owner(of: Object) -> Object:
    """A reference to the object that owns another: when that goes, so does this."""
    return {
        "apiVersion": of["apiVersion"],
        "kind": of["kind"],
        "name": of["metadata"]["name"],
        "uid": of["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def event(about: Object, reason: str, note: str, at: datetime, *, warning: bool = False) -> Object:
    """An event that `kubectl describe` shows with an object. `reason` is one word, `note` a sentence."""
    metadata = about["metadata"]
    moment = at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.name,
        "metadata": {
            "name": f"{metadata['name']}.{int(at.timestamp() * 1e6):x}",
            "namespace": metadata["namespace"],
        },
        "eventTime": moment,
        "reportingController": "serinus.dev/operator",
        "reportingInstance": "serinus-operator",
        "action": reason,
        "reason": reason,
        "note": note[:1024],
        "type": "Warning" if warning else "Normal",
        "regarding": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
    }
