"""A cluster's part of a rollout: one InferenceService a version, and the weighted route of ours above them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from serinus.control.rollout import Observed
from serinus.core.errors import EngineError, NotFound
from serinus.core.rollout import Shares
from serinus.core.serving import PodConfig
from serinus.core.spec.deployment import ModelDeploymentSpec
from serinus.core.version import ModelVersion
from serinus.engines import kubernetes_gateway as gateway
from serinus.engines import kubernetes_kserve as kserve
from serinus.engines.kubernetes import (
    CONFIG_MAP,
    DISRUPTION_BUDGET,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    POD,
    SERVICE,
    Kind,
    Object,
)
from serinus.engines.kubernetes_gateway import CHANGED_ANNOTATION, Front

log = logging.getLogger(__name__)

DRAIN = timedelta(seconds=10)
"""How long a version that gets no requests any more stays: the Gateway may still send it some."""

_OURS = (INFERENCE_SERVICE, SERVICE, DISRUPTION_BUDGET, CONFIG_MAP)
CHILDREN = (*_OURS, HTTP_ROUTE)
"""The kinds of what is made for a ModelDeployment."""


class Registry(Protocol):
    """Where versions are looked up."""

    def get(self, name: str, which: int | str) -> ModelVersion: ...


class ClusterApi(Protocol):
    """What is asked of the API server: `engines.kubernetes.Cluster`, or the same where all but `fresh` reads a copy."""

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None: ...

    def fresh(self, kind: Kind, namespace: str, name: str) -> Object | None: ...

    def all(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]: ...

    def apply(self, wanted: Object, kind: Kind) -> Object: ...

    def delete(self, kind: Kind, namespace: str, name: str, uid: str | None = None) -> None: ...


@dataclass(frozen=True)
class GatewayTraffic:
    """Shares of one ModelDeployment on a cluster.

    Attributes:
        cluster: the API server.
        deployment: the ModelDeployment, as it is stored.
        spec: what it says.
        registry: where its versions are.
        front: the Gateway.
    """

    cluster: ClusterApi
    deployment: Object
    spec: ModelDeploymentSpec
    registry: Registry
    front: Front

    @property
    def _name(self) -> str:
        return str(self.deployment["metadata"]["name"])

    @property
    def _namespace(self) -> str:
        return str(self.deployment["metadata"]["namespace"])

    def observe(self) -> Observed:
        """See `TrafficEngine.observe`."""
        # That nothing is in front leads to a first version, so it must be so.
        route = self._route() or self._asked_for_route()
        shares = gateway.shares_of(route) if route is not None else None
        if shares is None:
            raise NotFound(f"no version of {self._namespace}/{self._name} is in front")
        ready: dict[int, bool] = {}
        why: dict[int, str] = {}
        broken = None
        for number in (shares.stable, *([shares.canary] if shares.canary is not None else [])):
            service = self.cluster.get(INFERENCE_SERVICE, self._namespace, kserve.version_name(self._name, number))
            ready[number] = service is not None and kserve.is_ready(service)
            if not ready[number] and (found := self.trouble(number)):
                why[number] = found.words
                if found.broken and number == shares.canary:
                    broken = found.words
        return Observed(shares, ready, why, broken)

    def apply(self, shares: Shares) -> None:
        """See `TrafficEngine.apply`. New weights come before old versions go: those stay until `tidy`."""
        self.keep(shares)
        answering = shares.canary if shares.canary is not None and shares.weight >= 100 else shares.stable
        silent = [each for each in self._asked(shares) if not self._ready(each)]
        if answering in silent or (silent and self._route() is None):
            raise EngineError(f"version {silent[0]} of {self._name} is not ready")
        if silent:
            raise EngineError(f"version {silent[0]} of {self._name} is not ready, and gets no requests yet")
        self._put(shares)

    def keep(self, shares: Shares) -> None:
        """Make the objects of the shares' versions be as they should be, whoever changed them."""
        for number in _versions(shares):
            version = self.registry.get(self.spec.model.name, number)
            config = PodConfig(version=number, digest=version.digest, deployment=_told(self.spec))
            served = kserve.Served(self.deployment, version, config, self._is_copied(number, shares))
            for kind, wanted in kserve.objects(served):
                self._ensure(kind, wanted)

    def repair(self, shares: Shares) -> bool:
        """Set right what somebody changed by hand; whether there was anything."""
        self.keep(shares)
        route = self._route()
        wanted = gateway.route(self.deployment, self.spec.traffic, shares, self.front)
        if route is not None and holds(wanted, route):
            return False
        log.warning("%s/%s: the route was changed by hand, and is set right", self._namespace, self._name)
        self._put(shares)
        return True

    def tidy(self, shares: Shares, now: datetime) -> list[int]:
        """Remove versions that get no requests any more, and the way for copies where none are to come, once the
        Gateway knows; the versions that went."""
        if not self._is_drained(self._route(), shares, now):
            return []
        found = [
            (kind, each)
            for kind in _OURS
            for each in self.cluster.all(kind, self._namespace, kserve.labels(self._name))
            if self._is_stale(each, shares) or (kind is CONFIG_MAP and self._is_unused(each, self.cluster.get))
        ]
        # What is deleted stays so: the API server itself must say that it may be.
        if not found or not self._is_drained(self._asked_for_route(), shares, now):
            return []
        gone = set()
        for kind, each in found:
            if not self._is_stale(each, shares) and not self._is_unused(each, self.cluster.fresh):
                continue
            self.cluster.delete(kind, self._namespace, each["metadata"]["name"], each["metadata"]["uid"])
            number = kserve.version_of(each)
            if kind is INFERENCE_SERVICE and number is not None:
                gone.add(number)
        return sorted(gone)

    def trouble(self, number: int) -> kserve.Trouble | None:
        """What keeps a version's pods from being ready."""
        selector = kserve.pod_selector(self._name, number)
        pods = self.cluster.all(POD, self._namespace, selector)
        if found := kserve.trouble(pods):
            return found
        service = self.cluster.get(INFERENCE_SERVICE, self._namespace, kserve.version_name(self._name, number))
        words = kserve.refusal(service) if service is not None and not pods else None
        return kserve.Trouble(words) if words else None

    def in_force(self) -> bool:
        """Whether the Gateway has taken over the route as it is now."""
        route = self._route()
        return route is not None and gateway.in_force(route)

    @staticmethod
    def _is_drained(route: Object | None, shares: Shares, now: datetime) -> bool:
        """Whether nothing but the shares has been in force for long enough."""
        if route is None or gateway.shares_of(route) != shares or not gateway.in_force(route):
            return False
        return now - _changed(route) >= DRAIN

    def _is_stale(self, found: Object, shares: Shares) -> bool:
        """Whether the shares have no use for an object: its version has no part in them, or is to get no copies."""
        number = kserve.version_of(found)
        if number is None:
            return False
        if number not in _versions(shares):
            return True
        # The Service that KServe makes for the version has our labels, too.
        way = found["kind"] == SERVICE.name and found["metadata"]["name"] == kserve.copies(self._name, number)
        return way and not self._is_copied(number, shares)

    def _is_copied(self, number: int, shares: Shares) -> bool:
        """Whether a version gets copies of requests, or may: the way for them must be there before the route names it,
        for some Gateways refuse every request of a route whose backend they do not know yet."""
        rollout, canary = self.spec.rollout, self.spec.traffic.canary
        shadows = (rollout is not None and rollout.shadow is not None) or (canary is not None and canary.shadow > 0)
        return number == shares.canary and (shadows or shares.shadow > 0)

    def _is_unused(self, config: Object, get: Callable[[Kind, str, str], Object | None]) -> bool:
        """Whether a version's pods are told something else by now."""
        number = kserve.version_of(config)
        if number is None:
            return False
        service = get(INFERENCE_SERVICE, self._namespace, kserve.version_name(self._name, number))
        if service is None or not kserve.is_ready(service):
            return False
        volumes = service["spec"]["predictor"].get("volumes", ())
        return config["metadata"]["name"] not in [each.get("configMap", {}).get("name") for each in volumes]

    def _asked(self, shares: Shares) -> Iterator[int]:
        """Versions that are to get requests or copies."""
        if shares.canary is None or shares.weight < 100:
            yield shares.stable
        if shares.canary is not None and (shares.weight or shares.shadow):
            yield shares.canary

    def _ready(self, number: int) -> bool:
        service = self.cluster.get(INFERENCE_SERVICE, self._namespace, kserve.version_name(self._name, number))
        return service is not None and kserve.is_ready(service)

    def _route(self) -> Object | None:
        return self.cluster.get(HTTP_ROUTE, self._namespace, self._name)

    def _asked_for_route(self) -> Object | None:
        return self.cluster.fresh(HTTP_ROUTE, self._namespace, self._name)

    def _put(self, shares: Shares) -> None:
        wanted = gateway.route(self.deployment, self.spec.traffic, shares, self.front)
        wanted["metadata"]["annotations"][CHANGED_ANNOTATION] = datetime.now(UTC).isoformat()
        self.cluster.apply(wanted, HTTP_ROUTE)

    def _ensure(self, kind: Kind, wanted: Object) -> None:
        found = self.cluster.get(kind, self._namespace, wanted["metadata"]["name"])
        if found is None or not holds(wanted, found):
            self.cluster.apply(wanted, kind)


def _versions(shares: Shares) -> Sequence[int]:
    return (shares.stable, *([shares.canary] if shares.canary is not None else []))


def _changed(route: Object) -> datetime:
    text = route["metadata"].get("annotations", {}).get(CHANGED_ANNOTATION)
    return datetime.fromisoformat(text) if text else datetime.fromtimestamp(0, UTC)


def _told(spec: ModelDeploymentSpec) -> ModelDeploymentSpec:
    """What pods are told of the spec: not what may change without them, or each change would make new pods."""
    return spec.model_copy(update={"rollout": None, "model": spec.model.model_copy(update={"version": "champion"})})


def holds(wanted: Any, found: Any) -> bool:
    """Whether an object is as wanted: everything that is wanted is there; what else is there does not matter."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            holds(value, found.get(name)) or (not value and name not in found) for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(found, list) and len(wanted) == len(found) and all(map(holds, wanted, found))
    return bool(wanted == found)
