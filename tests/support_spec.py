"""A spec that is right, and everything that may be wrong or nearly wrong in it.

What reads specs here, the schema made of it and an API server are all held to these.
"""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

TRAINING: dict[str, Any] = {
    "apiVersion": "serinus.dev/v1alpha1",
    "kind": "ContinuousTraining",
    "metadata": {"name": "flights", "labels": {"team": "delays"}},
    "spec": {
        "project": {"entryPoint": "project:Flights"},
        "featureService": "flights",
        "windows": {"start": "2013-01-01T00:00:00Z", "holdout": "31d", "labelDelay": "36h"},
        "deployment": "flights",
    },
}
DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "serinus.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "flights"},
    "spec": {"model": {"name": "flights"}, "features": {"views": {"weather": {"onStale": "reject"}}}},
}

# One field that is wrong by itself: its path, its value, and what is said to be allowed there.
WRONG = [
    (TRAINING, "apiVersion", "serinus.dev/v1", "'serinus.dev/v1alpha1'"),
    (TRAINING, "metadata.name", "Flights", "lower-case letters"),
    (TRAINING, "metadata.name", "a" * 64, "at most 63 characters"),
    (TRAINING, "spec.project.entryPoint", "project.Flights", "module:Class, such as project:Flights"),
    (TRAINING, "spec.project.image", "", "text of at least 1 characters"),
    (TRAINING, "spec.project.imag", "x", "entryPoint, image"),
    (TRAINING, "spec.feature_service", "flights", "project, featureService, windows"),
    (TRAINING, "spec.featureService", 7, "text"),
    (TRAINING, "spec.windows.start", "2013-01-01", "a time with a time zone"),
    (TRAINING, "spec.windows.holdout", "31 days", "a duration such as 36h"),
    (TRAINING, "spec.windows.holdout", "0s", "longer than nothing"),
    (TRAINING, "spec.windows.validation", 14, "a duration such as 36h"),
    (TRAINING, "spec.windows.labelDelay", None, "a duration such as 36h"),
    (TRAINING, "spec.training", [], "a mapping"),
    (TRAINING, "spec.training.epochs", 0, "a number of at least 1"),
    (TRAINING, "spec.training.epochs", 10_001, "a number of at most 10000"),
    (TRAINING, "spec.training.epochs", "8", "a whole number"),
    (TRAINING, "spec.training.epochs", 8.5, "a whole number"),
    (TRAINING, "spec.training.epochs", True, "a whole number"),
    (TRAINING, "spec.training.learningRate", 0, "a number above 0"),
    (TRAINING, "spec.training.learningRate", "fast", "a number"),
    (TRAINING, "spec.training.weightDecay", 1, "a number below 1"),
    (TRAINING, "spec.evaluation.baseline", "carrier", "a list"),
    (TRAINING, "spec.evaluation.minimumSliceRows", 0, "a number of at least 1"),
    (TRAINING, "spec.gate.metric", "accuracy", "'log_loss' or 'brier'"),
    (TRAINING, "spec.gate.confidence", 0.5, "a number above 0.5"),
    (TRAINING, "spec.gate.championTolerance", -0.1, "a number of at least 0"),
    (TRAINING, "spec.triggers.schedule.cron", "every Monday", "a cron expression of five fields"),
    (TRAINING, "spec.triggers.schedule.cron", "0 3 * * 1 0", "a cron expression of five fields"),
    (TRAINING, "spec.triggers.schedule.cron", "@daily", "a cron expression of five fields"),
    (TRAINING, "spec.deployment", "Flights!", "lower-case letters"),
    (DEPLOYMENT, "spec.model.name", "flights/1", "lower-case letters"),
    (DEPLOYMENT, "spec.model.version", 0, "a registry version (1 or more), champion or challenger"),
    (DEPLOYMENT, "spec.model.version", "latest", "a registry version (1 or more), champion or challenger"),
    (DEPLOYMENT, "spec.model.version", True, "a registry version (1 or more), champion or challenger"),
    (DEPLOYMENT, "spec.predictor.workers", 65, "a number of at most 64"),
    (DEPLOYMENT, "spec.predictor.batching.maxSize", 0, "a number of at least 1"),
    (DEPLOYMENT, "spec.predictor.timeout", "0s", "longer than nothing"),
    (DEPLOYMENT, "spec.features.default.onMissing", "flag", "'impute' or 'reject'"),
    (DEPLOYMENT, "spec.features.views.weather.onStale", "ignore", "'impute', 'flag' or 'reject'"),
    (DEPLOYMENT, "spec.features.views.weather.maximumAge", "-1h", "a duration such as 36h"),
    (DEPLOYMENT, "spec.features.views.weather.maxAge", "1h", "onMissing, onStale, maximumAge"),
    (DEPLOYMENT, "spec.features.cacheAge", "1", "a duration such as 36h"),
    (DEPLOYMENT, "spec.predictor.queueSize", 0, "a number of at least 1"),
    (DEPLOYMENT, "spec.log.sample", 0, "a number above 0"),
    (DEPLOYMENT, "spec.predictor.resources.limits.memory", "much", "an amount, such as 2, 500m or 1.5Gi"),
    (DEPLOYMENT, "spec.log.destination", "predictions", "an absolute path, or a URL"),
    (DEPLOYMENT, "spec.traffic.maximumBody", 1, "a number of at least 1024"),
    (DEPLOYMENT, "spec.traffic.limits.requests", 65536, "a number of at most 65535"),
    (DEPLOYMENT, "spec.traffic.versionHeader", "X-Version", "lower-case letters"),
    (DEPLOYMENT, "spec.rollout.alpha", 0, "a number above 0"),
    (DEPLOYMENT, "spec.rollout.alpha", 0.6, "a number of at most 0.5"),
    (DEPLOYMENT, "spec.rollout.interval", "0s", "longer than nothing"),
    (DEPLOYMENT, "spec.rollout.steps", [], "a list of at least 1"),
    (DEPLOYMENT, "spec.rollout.steps", list(range(1, 22)), "a list of at most 20"),
    (DEPLOYMENT, "spec.rollout.shadow.percent", 0, "a number above 0"),
    (DEPLOYMENT, "spec.rollout.pace.minimumRequests", 0, "a number of at least 1"),
    (DEPLOYMENT, "spec.rollout.pace.readyTimeout", "0s", "longer than nothing"),
    (DEPLOYMENT, "spec.rollout.guards.error", {}, "errors, slow, latency"),
    (DEPLOYMENT, "spec.rollout.guards.errors.ratio", 0.5, "a number of at least 1"),
    (DEPLOYMENT, "spec.rollout.guards.slow.threshold", "1 s", "a duration such as 36h"),
    (DEPLOYMENT, "spec.rollout.guards.latency.quantile", 1, "a number below 1"),
    (DEPLOYMENT, "spec.rollout.guards.quality.metric", "auc", "'log_loss' or 'brier'"),
    (DEPLOYMENT, "spec.rollout.guards.sampleRatio.slack", -1, "a number of at least 0"),
    (DEPLOYMENT, "spec.rollout.guards.queries", {}, "a list"),
    (DEPLOYMENT, "spec.rollout.inconclusive", "promote", "'pause' or 'rollback'"),
    (DEPLOYMENT, "spec.rollout.confirmation.inconclusive", "pause", "'confirm' or 'undo'"),
    (DEPLOYMENT, "spec.rollout.confirmation.minimumLabels", 0, "a number of at least 1"),
]
QUERY = {"name": "refunds", "numerator": 'refunds{version="$version"}', "denominator": 'sales{version="$version"}'}
# What one field alone does not tell, and mistakes within lists: the path that is set, and the one that is wrong.
TOGETHER = [
    (TRAINING, "spec.windows", {}, "spec.windows", "a start (an expanding window) or a length"),
    (
        TRAINING,
        "spec.windows",
        {"length": "14d", "validation": "14d"},
        "spec.windows",
        "a length longer than validation",
    ),
    (TRAINING, "spec.windows.length", "335h", "spec.windows", "a length longer than validation"),
    (
        DEPLOYMENT,
        "spec.predictor",
        {"timeout": "2s", "batching": {"maxDelay": "2s"}},
        "spec.predictor",
        "a timeout longer than batching.maxDelay",
    ),
    (DEPLOYMENT, "spec.log.bufferLimit", 4096, "spec.log", "a bufferLimit of at least segmentBytes"),
    (
        DEPLOYMENT,
        "spec.traffic.canary",
        {"version": 4, "weight": 10, "shadow": 10},
        "spec.traffic.canary",
        "either a weight or a shadow",
    ),
    (DEPLOYMENT, "spec.traffic.canary", {"weight": 10}, "spec.traffic.canary.version", "this field is required"),
    (
        DEPLOYMENT,
        "spec.traffic.versionHeader",
        "x-envoy-ip",
        "spec.traffic.versionHeader",
        "does not begin with x-envoy-",
    ),
    (
        DEPLOYMENT,
        "spec.traffic.sticky.header",
        "x-serinus-id",
        "spec.traffic.sticky.header",
        "Envoy and Serinus use those",
    ),
    (
        DEPLOYMENT,
        "spec.traffic.quota",
        {"requests": 1, "per": "49ms"},
        "spec.traffic.quota",
        "a period of at least 50ms",
    ),
    (
        DEPLOYMENT,
        "spec.predictor.replicas",
        {"minimum": 3, "maximum": 2},
        "spec.predictor.replicas",
        "a maximum of at least the minimum",
    ),
    (DEPLOYMENT, "spec.traffic.drain.limit", "1m59s1ms", "spec.traffic.drain", "two minutes together"),
    (
        DEPLOYMENT,
        "spec",
        {"model": {"name": "flights"}, "rollout": {}, "traffic": {"canary": {"version": 4}}},
        "spec",
        "a rollout or a traffic.canary",
    ),
    (DEPLOYMENT, "spec.rollout.steps", [5, 20, 20], "spec.rollout", "steps that rise"),
    (DEPLOYMENT, "spec.rollout.steps", [20, 5], "spec.rollout", "steps that rise"),
    (DEPLOYMENT, "spec.rollout.steps", [5, 100], "spec.rollout.steps[1]", "a number below 100"),
    (DEPLOYMENT, "spec.rollout.approvals", [20, 30], "spec.rollout", "approvals of weights that are steps, or 100"),
    (DEPLOYMENT, "spec.rollout.approvals", [101], "spec.rollout.approvals[0]", "a number of at most 100"),
    (DEPLOYMENT, "spec.rollout.guards.quality.enabled", False, "spec.rollout", "guards.quality enabled, or a null"),
    (
        DEPLOYMENT,
        "spec.rollout.pace",
        {"minimumDuration": "2d", "maximumDuration": "47h59m"},
        "spec.rollout.pace",
        "a maximumDuration longer than minimumDuration",
    ),
    (
        DEPLOYMENT,
        "spec.rollout.guards.queries",
        [QUERY, {**QUERY, "name": "returns", "numerator": "returns"}],
        "spec.rollout.guards.queries[1]",
        "expressions with $version in them",
    ),
    (
        DEPLOYMENT,
        "spec.rollout.guards.queries",
        [QUERY, QUERY],
        "spec.rollout.guards",
        "queries with names of their own",
    ),
    (
        DEPLOYMENT,
        "spec.rollout.guards.queries",
        [{**QUERY, "name": "errors"}],
        "spec.rollout.guards",
        "queries with names of their own",
    ),
    (
        DEPLOYMENT,
        "spec.rollout.guards.queries",
        [{**QUERY, "margin": 1}],
        "spec.rollout.guards.queries[0].margin",
        "a number below 1",
    ),
    (
        DEPLOYMENT,
        "spec.rollout.guards.queries",
        [{"name": "refunds", "numerator": "$version"}],
        "spec.rollout.guards.queries[0].denominator",
        "this field is required",
    ),
    (
        DEPLOYMENT,
        "spec.rollout.freeze",
        [{"start": "Friday", "duration": "2d"}],
        "spec.rollout.freeze[0].start",
        "a cron expression of five fields",
    ),
]
# What is right, and lies near to what is wrong.
RIGHT = [
    (TRAINING, "spec.windows", {"length": "14d1ms"}),
    (TRAINING, "spec.windows.length", None),
    (TRAINING, "spec.windows.labelDelay", "0s"),
    (TRAINING, "spec.training.parameters", {"layers": [64, 32], "deep": {"dropout": 0.1}, "nothing": None}),
    (DEPLOYMENT, "spec.model.version", 3),
    (DEPLOYMENT, "spec.model.version", "challenger"),
    (DEPLOYMENT, "spec.predictor", {"timeout": "2s1ms", "batching": {"maxDelay": "2s"}}),
    (DEPLOYMENT, "spec.log.bufferLimit", 16 * 1024 * 1024),
    (DEPLOYMENT, "spec.traffic.canary", {"version": "challenger", "shadow": 10}),
    (DEPLOYMENT, "spec.traffic.canary", None),
    (DEPLOYMENT, "spec.traffic.versionHeader", None),
    (DEPLOYMENT, "spec.traffic.deadlineHeader", "x-serinus-version"),
    (DEPLOYMENT, "spec.traffic.quota", {"requests": 1, "per": "50ms"}),
    (DEPLOYMENT, "spec.traffic.drain.limit", "1m59s"),
    (DEPLOYMENT, "spec.rollout", {}),
    (DEPLOYMENT, "spec.rollout", None),
    (DEPLOYMENT, "spec.rollout.steps", [0.01, 99.99]),
    (DEPLOYMENT, "spec.rollout.shadow", {}),
    (DEPLOYMENT, "spec.rollout.approvals", [20, 100]),
    (DEPLOYMENT, "spec.rollout", {"confirmation": None, "guards": {"quality": {"enabled": False}}}),
    (DEPLOYMENT, "spec.rollout.pace", {"minimumDuration": "47h59m", "maximumDuration": "2d"}),
    (DEPLOYMENT, "spec.rollout.pace.maximumDuration", "999999d999999999h999999999m999999999s999999999ms"),
    (DEPLOYMENT, "spec.rollout.guards.predictions", {"tolerance": 0.15, "margin": 0.15}),
    (DEPLOYMENT, "spec.rollout.guards.queries", [QUERY, {**QUERY, "name": "returns"}]),
    (DEPLOYMENT, "spec.rollout.freeze", [{"start": "0 18 * * 5", "duration": "2d12h"}]),
]
# What only code can tell: pydantic's side refuses it, and so does the operator, but no schema can.
BEYOND_SCHEMA = [
    (TRAINING, "spec.triggers.schedule.cron", "61 3 * * 1", "a cron expression of five fields"),
    (TRAINING, "spec.triggers.schedule.cron", "0 0 30 2 *", "a day which exists"),
    (TRAINING, "spec.training.learningRate", float("nan"), "a finite number"),
    (TRAINING, "spec.gate.championTolerance", float("inf"), "a finite number"),
    (TRAINING, "spec.training.parameters.since", datetime(2013, 1, 1, tzinfo=UTC), "quote a date"),
]


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with the value at a dotted path set."""
    result = copy.deepcopy(document)
    *parents, last = path.split(".")
    node = result
    for part in parents:
        node = node.setdefault(part, {})
    node[last] = value
    return result
