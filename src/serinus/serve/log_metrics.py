"""The log's numbers at `/metrics`: read from the ledger and the files at each scrape, so that they outlive processes
and are no copy that could be wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from serinus.serve.telemetry import METRICS

if TYPE_CHECKING:
    from prometheus_client import Metric

    from serinus.serve.outcomes import Intake
    from serinus.serve.ship import Shipper, Totals, Waiting

_LABELS = ("model", "version")
_VALUES: dict[str, Callable[[Totals, Waiting], float]] = {
    "serinus_log_shipped_rows_total": lambda totals, _: totals.rows,
    "serinus_log_shipped_segments_total": lambda totals, _: totals.segments,
    "serinus_log_shipped_bytes_total": lambda totals, _: totals.bytes,
    "serinus_log_discarded_rows_total": lambda totals, _: totals.discarded,
    "serinus_log_upload_failures_total": lambda totals, _: totals.failures,
    "serinus_log_damaged_segments_total": lambda totals, _: totals.damaged,
    "serinus_log_spool_rows": lambda _, waiting: waiting.rows,
    "serinus_log_spool_bytes": lambda _, waiting: waiting.bytes,
    "serinus_log_spool_age_seconds": lambda _, waiting: waiting.age,
}


class LogCollector(Collector):
    """What the shipper and the intake of outcomes of one predictor have to tell."""

    def __init__(self, shipper: Shipper, intake: Intake, model: str) -> None:
        self._shipper = shipper
        self._intake = intake
        self._model = model

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is depends on the versions that were served."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family of the sidecar in `METRICS`."""
        balance = self._shipper.balance()
        for name, value in _VALUES.items():
            family = _family(name)
            for (stream, model, version), (totals, waiting) in balance.items():
                family.add_metric([model, version, stream], value(totals, waiting))
            yield family
        family = _family("serinus_outcomes_total")
        for result, count in self._intake.counts().items():
            family.add_metric([self._model, "", result], count)
        yield family


def _family(name: str) -> CounterMetricFamily | GaugeMetricFamily:
    metric = METRICS[name]
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return kind(metric.name, metric.help, labels=[*_LABELS, *metric.labels])
