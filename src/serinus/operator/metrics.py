"""What the operator counts about itself. The registry is its own, so that tests can have several."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serinus.core.rollout import Decision
from serinus.core.status import Run

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters and histograms of one operator."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.reconcile = Histogram(
            "serinus_operator_reconcile_seconds",
            "Time of one look at a resource.",
            ["kind"],
            buckets=_SECONDS,
            registry=own,
        )
        self.late = Histogram(
            "serinus_operator_lateness_seconds",
            "How much later than it was due a look began.",
            ["kind"],
            buckets=_SECONDS,
            registry=own,
        )
        self.errors = Counter("serinus_operator_errors", "Looks that failed.", ["kind"], registry=own)
        self.decisions = Counter("serinus_operator_decisions", "Decisions about rollouts.", ["action"], registry=own)
        self.runs = Counter("serinus_operator_runs", "Runs of training pipelines.", ["result"], registry=own)
        for result in ("registered", "refused", "failed"):
            self.runs.labels(result)  # from nothing to one is no increase to Prometheus
        self.queue = Gauge("serinus_operator_queue", "Resources that wait for a look that is due.", registry=own)
        self.leading = Gauge(
            "serinus_operator_leading", "1 where this operator decides, 0 where another one does.", registry=own
        )

    def ran(self, run: Run) -> None:
        """Count a run that ended."""
        if run.result != "running":
            self.runs.labels(run.result).inc()

    def decided(self, decision: Decision) -> None:
        """Count a decision."""
        self.decisions.labels(decision.action).inc()
