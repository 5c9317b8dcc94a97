"""What the Gateway above all models can do, as its class says: some accept a filter that they do not know, and answer
every request to such a route with an error."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from serinus.core.spec.deployment import ModelDeploymentSpec
from serinus.engines.kubernetes import GATEWAY, GATEWAY_CLASS, Cluster, Object
from serinus.engines.kubernetes_gateway import Front, unsupported

_MIRROR = "HTTPRouteRequestMirror"
_SECONDS = 60.0


@dataclass
class FrontFeatures:
    """Asks the GatewayClass now and then."""

    cluster: Cluster
    front: Front
    clock: Callable[[], float] = time.monotonic
    _known: tuple[float, frozenset[str] | None] | None = field(default=None, init=False)

    def refused(self, spec: ModelDeploymentSpec) -> list[str]:
        """What a spec asks of the traffic that this Gateway cannot do. One that does not tell what it can is trusted.

        Raises:
            EngineError: the API server cannot be asked.
        """
        found = unsupported(spec.traffic)
        shadow = spec.rollout is not None and spec.rollout.shadow is not None
        canary = spec.traffic.canary
        if shadow or (canary is not None and canary.shadow > 0):
            features = self._features()
            if features is not None and _MIRROR not in features:
                where = f"{self.front.namespace}/{self.front.name}"
                found.append(f"a shadow: the class of the Gateway {where} has no {_MIRROR}")
        return found

    def _features(self) -> frozenset[str] | None:
        now = self.clock()
        if self._known is None or now - self._known[0] > _SECONDS:
            self._known = (now, self._read())
        return self._known[1]

    def _read(self) -> frozenset[str] | None:
        gateway = self.cluster.get(GATEWAY, self.front.namespace, self.front.name)
        name = gateway["spec"]["gatewayClassName"] if gateway is not None else None
        found = self.cluster.get(GATEWAY_CLASS, None, name) if name is not None else None
        return features_of(found) if found is not None else None


def features_of(gateway_class: Object) -> frozenset[str] | None:
    """The names in a class's `status.supportedFeatures`, None where it has none; older versions have plain texts."""
    listed = gateway_class.get("status", {}).get("supportedFeatures")
    if not listed:
        return None
    return frozenset(str(each["name"] if isinstance(each, dict) else each) for each in listed)
