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
# A watch is told how far it has come about once a minute: one that is silent for longer has been cut off.
_SILENT_SECONDS = 150.0
_PAGE = 500
# Watches keep a connection each, and workers need some: one more would be made, and thrown away, for each question.
_CONNECTIONS = 64
_RETRIES = 2
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_NOT_FOUND, _CONFLICT, _GONE = 404, 409, 410


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


class Gone(EngineError):
    """What has changed since the version that was named is known no longer: everything is to be listed again."""


class Selection(NamedTuple):
    """Objects of a kind with these labels, in a namespace or in all."""

    kind: Kind
    namespace: str | None = None
    labels: Mapping[str, str] | None = None

    @property
    def query(self) -> dict[str, str]:
        """How the API server is asked for them."""
        return {"labelSelector": ",".join(f"{key}={value}" for key, value in (self.labels or {}).items())}


class Change(NamedTuple):
    """What a watch tells: an object was ADDED, MODIFIED or DELETED, or (BOOKMARK) only how far it has come."""

    what: str
    found: Object


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
        from urllib3.util import Retry

        try:
            config.load_incluster_config()
        except ConfigException:
            try:
                config.load_kube_config()
            except (ConfigException, OSError) as error:
                raise EngineError(f"there is no cluster to talk to: {error}", hint="set KUBECONFIG") from error
        settings = client.Configuration.get_default_copy()
        settings.connection_pool_maxsize = _CONNECTIONS
        # A kept connection may have ended meanwhile. A server that is gone is asked again by the next look.
        settings.retries = Retry(_RETRIES)
        return cls(client.ApiClient(settings))

    def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """An object, or None where there is none. One that belongs to no namespace is asked for without."""
        try:
            return self._call("GET", _path(kind, namespace, name))
        except NotFound:
            return None

    fresh = get
    """The same; where reads come from a copy, this one does not."""

    def all(self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> list[Object]:
        """Objects with these labels, in a namespace or in all."""
        return [each for page, _ in self.pages(Selection(kind, namespace, labels)) for each in page]

    def pages(self, wanted: Selection) -> Iterator[tuple[list[Object], str]]:
        """Objects, some hundreds at a time, and the version of all that is listed: a watch goes on from there.

        Raises:
            Gone: it took so long that the rest is known no longer.
        """
        query = {**wanted.query, "limit": str(_PAGE)}
        # Items of a list come without what all of them share.
        same = {"apiVersion": wanted.kind.api_version, "kind": wanted.kind.name}
        while True:
            found = self._call("GET", _path(wanted.kind, wanted.namespace), query=query)
            yield [{**same, **each} for each in found["items"]], found["metadata"]["resourceVersion"]
            if not (token := found["metadata"].get("continue")):
                return
            query["continue"] = token

    def watch(self, wanted: Selection, since: str, seconds: int) -> Iterator[Change]:
        """What changes after a version, as it does, for so long.

        Raises:
            Gone: the version is too old.
            EngineError: the server cannot be asked, or has fallen silent.
        """
        path = _path(wanted.kind, wanted.namespace)
        query = {**wanted.query, "watch": "true", "resourceVersion": since, "allowWatchBookmarks": "true"}
        query["timeoutSeconds"] = str(seconds)
        with _translating("GET", path):
            answer = self._ask("GET", path, query, timeout=(_SECONDS, _SILENT_SECONDS))
            try:
                for line in _lines(answer):
                    yield _change(json.loads(line), path)
            finally:
                answer.close()

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

    def delete(self, kind: Kind, namespace: str, name: str, uid: str | None = None) -> None:
        """Remove an object, and with it what it owns; none is fine.

        Raises:
            Conflict: there is another one of the name, not the one with the `uid`.
        """
        body: Object = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
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
        with _translating("GET", path):
            return bytes(self._ask("GET", path, {"container": container}).data).decode(errors="replace")

    def _call(
        self,
        verb: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content: str = "",
    ) -> Object:
        headers = {"Content-Type": content or "application/json"}
        with _translating(verb, path):
            found: Object = json.loads(self._ask(verb, path, query, headers=headers, body=body).data)
            return found

    def _ask(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str] | None,
        *,
        timeout: float | tuple[float, float] = (_SECONDS, _SECONDS),
        **rest: Any,
    ) -> Any:
        """An answer that is not read yet."""
        headers = {"Accept": "application/json", **rest.pop("headers", {})}
        answer = self.api.call_api(
            path, verb, query_params=list((query or {}).items()), header_params=headers,
            auth_settings=["BearerToken"], _preload_content=False, _request_timeout=timeout, **rest,
        )  # fmt: skip
        return answer[0]


def _path(kind: Kind, namespace: str | None, name: str | None = None) -> str:
    parts = [kind.root, *(["namespaces", namespace] if namespace else []), kind.plural, *([name] if name else [])]
    return "/".join(parts)


def _lines(answer: Any) -> Iterator[bytes]:
    """Whole lines, as they come."""
    rest = b""
    for part in answer.stream(None, decode_content=True):
        *lines, rest = (rest + part).split(b"\n")
        yield from lines


def _change(event: Object, path: str) -> Change:
    if event["type"] != "ERROR":
        return Change(event["type"], event["object"])
    status = event["object"]
    words = f"{path}: {status.get('message', status)}"
    raise Gone(words) if status.get("code") == _GONE else EngineError(f"the watch of {words}")


@contextmanager
def _translating(verb: str, path: str) -> Iterator[None]:
    """The client's errors as ours."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        raise _translated(error, verb, path) from error
    except (HTTPError, ValueError, OSError) as error:
        raise EngineError(f"the API server does not answer: {error}") from error


def _translated(error: Any, verb: str, path: str) -> EngineError | NotFound | Conflict:
    try:
        words = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        words = error.reason
    if error.status == _NOT_FOUND:
        return NotFound(f"{path}: {words}")
    if error.status == _CONFLICT:
        return Conflict(f"{path}: {words}")
    if error.status == _GONE:
        return Gone(f"{path}: {words}")
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
