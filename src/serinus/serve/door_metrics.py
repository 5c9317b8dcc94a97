"""The use of quotas at `/metrics`: only the front door counts what it lets through and what it refuses."""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from serinus.engines.envoy_door import QUOTA_STATISTICS
from serinus.engines.sockets import ask
from serinus.serve.telemetry import METRICS

if TYPE_CHECKING:
    from prometheus_client import Metric

log = logging.getLogger(__name__)

_NAME = "serinus_quota_requests_total"


class DoorCollector(Collector):
    """What Envoy has counted since it started; nothing while it does not answer."""

    def __init__(self, admin: Path, model: str) -> None:
        self._admin = admin
        self._model = model

    def describe(self) -> Iterable[Metric]:
        """Nothing: Envoy may not be up yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Requests within the quotas and beyond them."""
        pattern = "^(" + "|".join(QUOTA_STATISTICS.values()) + ")$"
        try:
            found = json.loads(ask(self._admin, "GET", f"/stats?format=json&filter={quote(pattern)}"))["stats"]
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            log.warning("the front door at %s does not tell the use of quotas: %s", self._admin, error)
            return
        values = {each["name"]: each["value"] for each in found if "name" in each}
        metric = METRICS[_NAME]
        family = CounterMetricFamily(metric.name, metric.help, labels=["model", "version", *metric.labels])
        for result, name in QUOTA_STATISTICS.items():
            family.add_metric([self._model, "", result], values.get(name, 0))
        yield family
