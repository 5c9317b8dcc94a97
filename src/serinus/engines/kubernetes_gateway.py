"""Gateway API: the weighted HTTPRoute above the versions of a ModelDeployment. All of it is pure.

The shares are also written on the route as an annotation, as the decision had them: weights are whole numbers, and a
mirror's percent is lost where nothing is mirrored.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import ValidationError

from serinus.core.rollout import Shares
from serinus.core.spec.traffic import Traffic
from serinus.engines.kubernetes import HTTP_ROUTE, Object, owner
from serinus.engines.kubernetes_kserve import PORT, backend, copies, labels

SHARES_ANNOTATION = "serinus.dev/shares"
CHANGED_ANNOTATION = "serinus.dev/shares-changed"

_TEN_THOUSAND = 10_000


class Front(NamedTuple):
    """The Gateway above all models.

    Attributes:
        namespace: where it is.
        name: of the Gateway.
        domain: below which each model has a host: `NAME.NAMESPACE.DOMAIN`.
    """

    namespace: str
    name: str
    domain: str

    def host(self, deployment: Object) -> str:
        """Where applications ask for a ModelDeployment."""
        metadata = deployment["metadata"]
        return f"{metadata['name']}.{metadata['namespace']}.{self.domain}"


def unsupported(traffic: Traffic) -> list[str]:
    """What the spec asks of the traffic that a Gateway cannot do."""
    found = []
    if traffic.sticky is not None:
        found.append("traffic.sticky: the Gateway API has no split by the hash of a header")
    return found


def route(deployment: Object, traffic: Traffic, shares: Shares, front: Front) -> Object:
    """Who gets which version: by name if the request names one, else by weight; and who gets copies."""
    metadata = deployment["metadata"]
    name = metadata["name"]
    parent = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": front.name, "namespace": front.namespace}
    return {
        "apiVersion": HTTP_ROUTE.api_version,
        "kind": HTTP_ROUTE.name,
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "labels": labels(name),
            "annotations": {SHARES_ANNOTATION: shares.model_dump_json()},
            "ownerReferences": [owner(deployment)],
        },
        "spec": {
            "parentRefs": [parent],
            "hostnames": [front.host(deployment)],
            "rules": [*_named(name, traffic, shares), _split(name, shares)],
        },
    }


def shares_of(found: Object) -> Shares | None:
    """The shares that a route puts in force; None where it does not tell."""
    text = found["metadata"].get("annotations", {}).get(SHARES_ANNOTATION)
    try:
        return None if text is None else Shares.model_validate_json(text)
    except ValidationError:
        return None


def in_force(found: Object) -> bool:
    """Whether the Gateway has taken over the route as it is now."""
    generation = found["metadata"].get("generation", 0)
    parents = found.get("status", {}).get("parents", ())
    conditions = [each for parent in parents for each in parent.get("conditions", ()) if each["type"] == "Accepted"]
    return any(each["status"] == "True" and each.get("observedGeneration", 0) >= generation for each in conditions)


def _named(name: str, traffic: Traffic, shares: Shares) -> list[Object]:
    """Rules for requests that name a version. The pod behind knows its number, not the role that it has today."""
    header = traffic.version_header
    if header is None:
        return []
    roles = {"stable": shares.stable, **({"canary": shares.canary} if shares.canary is not None else {})}
    return [
        {
            "matches": [
                {"path": _ANY, "headers": [{"type": "Exact", "name": header, "value": value}]}
                for value in (role, str(version))
            ],
            "filters": [_setting(header, str(version))],
            "backendRefs": [_service(backend(name, version), 1)],
        }
        for role, version in roles.items()
    ]


def _split(name: str, shares: Shares) -> Object:
    """The rule for everyone else."""
    rule: Object = {"matches": [{"path": _ANY}]}
    if shares.canary is None or shares.weight <= 0:
        rule["backendRefs"] = [_service(backend(name, shares.stable), 1)]
    elif shares.weight >= 100:
        rule["backendRefs"] = [_service(backend(name, shares.canary), 1)]
    else:
        # A share, however small, stays one.
        part = min(_TEN_THOUSAND - 1, max(1, round(shares.weight * _TEN_THOUSAND / 100)))
        rule["backendRefs"] = [
            _service(backend(name, shares.stable), _TEN_THOUSAND - part),
            _service(backend(name, shares.canary), part),
        ]
    if shares.canary is not None and shares.shadow > 0:
        mirror: Object = {"backendRef": _reference(copies(name, shares.canary))}
        if shares.shadow < 100:
            part = max(1, round(shares.shadow * _TEN_THOUSAND / 100))
            mirror["fraction"] = {"numerator": part, "denominator": _TEN_THOUSAND}
        rule["filters"] = [{"type": "RequestMirror", "requestMirror": mirror}]
    return rule


_ANY: Object = {"type": "PathPrefix", "value": "/"}


def _setting(header: str, value: str) -> Object:
    return {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": header, "value": value}]}}


def _reference(service: str) -> dict[str, Any]:
    return {"group": "", "kind": "Service", "name": service, "port": PORT}


def _service(name: str, weight: int) -> dict[str, Any]:
    return {**_reference(name), "weight": weight}
