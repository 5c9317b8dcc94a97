"""What the operator asks beside the API server: the registry, the ledger's database, Prometheus, the Gateway."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from serinus.control.prometheus_evidence import PrometheusSource
from serinus.control.quality_cluster import ClusterQuality
from serinus.control.rollout import Evidence, QualitySource
from serinus.control.rollout_cluster import GatewayTraffic
from serinus.control.rollout_versions import Candidates, RegistryVersions
from serinus.core.errors import InvalidInput
from serinus.core.evidence import QualityEvidence, Snapshot
from serinus.core.platform import Platform
from serinus.core.rollout import RolloutState
from serinus.core.spec.deployment import ModelDeploymentSpec
from serinus.core.version import ModelVersion
from serinus.engines.kubernetes import Object
from serinus.engines.kubernetes_cache import CachedCluster
from serinus.engines.ledger_exchange import Exchange
from serinus.engines.ledger_sql import LedgerDatabase
from serinus.engines.mlflow import Registry
from serinus.engines.prometheus import Connection, Prometheus
from serinus.operator.front import FrontFeatures
from serinus.operator.settings import Settings


class Events(Protocol):
    """Where events are written."""

    def create(self, wanted: Object) -> None: ...


@dataclass
class Parts:
    """Everything that a look needs, made once."""

    settings: Settings
    cluster: CachedCluster
    registry: Registry
    database: LedgerDatabase
    exchange: Exchange
    events: Events
    front: FrontFeatures
    candidates: Candidates = field(default_factory=Candidates, init=False)
    _prometheus: Prometheus | None = field(default=None, init=False)

    @classmethod
    def of(cls, settings: Settings, cluster: CachedCluster, platform: Platform, events: Events) -> Parts:
        """
        Args:
            settings: the operator's.
            cluster: the API server, and a copy of what is ours.
            platform: where everything else is.
            events: where events are written.

        Raises:
            InvalidInput: the platform has no place for the ledger.
        """
        if platform.ledger_uri is None:
            raise InvalidInput("the platform has no ledger_uri", hint="such as postgresql+psycopg2://user@host/serinus")
        registry = CachedRegistry(platform.tracking_uri, platform.artifact_uri)
        database = LedgerDatabase(platform.ledger_uri)
        front = FrontFeatures(cluster.cluster, settings.front)
        exchange = Exchange(database)
        return cls(settings, cluster, registry, database, exchange, events, front)

    @property
    def resync(self) -> float:
        """Seconds between two looks at a resource with which nothing happens."""
        return self.settings.resync.total_seconds()

    def traffic(self, deployment: Object, spec: ModelDeploymentSpec) -> GatewayTraffic:
        """The traffic engine of a ModelDeployment."""
        return GatewayTraffic(self.cluster, deployment, spec, self.registry, self.settings.front)

    def versions(self, spec: ModelDeploymentSpec) -> RegistryVersions:
        """The registry's part in the rollouts of a deployment. What was read of a version serves all of them."""
        return RegistryVersions(self.registry, spec.model, self.candidates)

    def evidence(self, namespace: str, spec: ModelDeploymentSpec) -> Evidence:
        """Where totals of a deployment's traffic come from."""
        server = self._server()
        if server is None or spec.rollout is None:
            return _NoEvidence()
        return PrometheusSource(
            server,
            spec.model.name,
            spec.rollout.guards.queries,
            labels={"namespace": namespace},
            interval=self.settings.scrape_interval,
        )

    def quality(self, namespace: str, name: str, spec: ModelDeploymentSpec) -> QualitySource:
        """How well both versions predict."""
        server = self._server()
        if server is None:
            return _no_quality
        place = (namespace, name)
        source = ClusterQuality(self.cluster, place, self.exchange, server, self.settings.scrape_interval)
        return lambda state, now: source.evidence(spec, state, now)

    def _server(self) -> Prometheus | None:
        url = self.settings.prometheus_url
        if self._prometheus is None and url is not None:
            token, authority = self.settings.prometheus_token_file, self.settings.prometheus_ca_file
            self._prometheus = Prometheus(Connection(url, token_file=token, ca_file=authority))
        return self._prometheus


class CachedRegistry(Registry):
    """A registry that is asked for a version by number once, for that never changes, and for aliases now and then.

    Versions that are remembered name no aliases.

    Args:
        tracking_uri: see `Registry`.
        artifact_uri: see `Registry`.
        seconds: how long an alias that somebody else moved may go unseen.
    """

    def __init__(self, tracking_uri: str, artifact_uri: str | None = None, seconds: float = 5.0) -> None:
        super().__init__(tracking_uri, artifact_uri)
        self._known: dict[tuple[str, int], ModelVersion] = {}
        self._aliased: dict[str, tuple[float, dict[str, int]]] = {}
        self._seconds = seconds

    def find(self, name: str, which: int | str) -> ModelVersion | None:
        """See `Registry.find`."""
        number = which if isinstance(which, int) else self._numbers(name).get(which)
        if number is None:
            return None
        known = self._known.get((name, number))
        if known is None and (found := super().find(name, number)) is not None:
            known = self._known[name, number] = found.model_copy(update={"aliases": ()})
        return known

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """See `Registry.set_alias`."""
        super().set_alias(name, alias, version)
        self._aliased.pop(name, None)

    def promote(self, name: str, version: int) -> None:
        """See `Registry.promote`."""
        super().promote(name, version)
        self._aliased.pop(name, None)

    def _numbers(self, name: str) -> dict[str, int]:
        """Versions by alias, all at once: a look asks for two of them."""
        known = self._aliased.get(name)
        if known is None or time.monotonic() - known[0] >= self._seconds:
            known = self._aliased[name] = (time.monotonic(), self._aliases(name))
        return known[1]


class _NoEvidence:
    def snapshot(self, versions: Sequence[int], previous: Snapshot | None, now: datetime) -> Snapshot:
        missing = ("the operator was not told where Prometheus is",)
        return Snapshot(at=now, source="prometheus", live={}, missing=missing)


def _no_quality(state: RolloutState, now: datetime) -> QualityEvidence | None:
    return None
