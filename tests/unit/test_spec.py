"""What a spec may say, and that every mistake in it is told at once."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from serinus.core.errors import InvalidSpec, NotFound
from serinus.core.spec import KINDS, ModelService, parse_resources, parse_service
from serinus.engines.specfile import read_service

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


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with the value at a dotted path set."""
    result = copy.deepcopy(document)
    *parents, last = path.split(".")
    node = result
    for part in parents:
        node = node.setdefault(part, {})
    node[last] = value
    return result


def problems(*documents: Any) -> dict[str, tuple[str, str]]:
    """Path -> (found, allowed) of what is wrong."""
    with pytest.raises(InvalidSpec) as caught:
        parse_service(documents, "serinus.yaml")
    return {each.path: (each.found, each.allowed) for each in caught.value.problems}


def test_a_good_spec_is_read_with_its_defaults() -> None:
    service = parse_service([TRAINING, None, DEPLOYMENT], "serinus.yaml")
    spec = service.training.spec
    assert spec.windows.label_delay == timedelta(hours=36)
    assert spec.windows.validation == timedelta(days=14)
    assert spec.training.parameters == {}
    assert service.deployment.spec.model.version == "champion"
    assert service.deployment.spec.features.policy("weather").on_stale == "reject"
    assert service.deployment.spec.features.policy("planes").on_stale == "impute"


def test_what_is_read_survives_json() -> None:
    service = parse_service([TRAINING, DEPLOYMENT], "serinus.yaml")
    assert ModelService.model_validate_json(service.model_dump_json()) == service


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


@pytest.mark.parametrize(("document", "path", "value", "allowed"), WRONG + BEYOND_SCHEMA)
def test_a_wrong_value_is_told_with_path_found_and_allowed(
    document: dict[str, Any], path: str, value: Any, allowed: str
) -> None:
    other = DEPLOYMENT if document is TRAINING else TRAINING
    found = problems(changed(document, path, value), other)
    at = f"{document['kind']}.{path}"
    assert allowed in found[at][1]
    shown = "null" if value is None else repr(value)
    assert shown[:40] in found[at][0] or "str of" in found[at][0]


@pytest.mark.parametrize(("document", "path", "value", "at", "allowed"), TOGETHER)
def test_what_does_not_go_together_is_told_where_it_meets(
    document: dict[str, Any], path: str, value: Any, at: str, allowed: str
) -> None:
    other = DEPLOYMENT if document is TRAINING else TRAINING
    found = problems(changed(document, path, value), other)
    assert set(found) == {f"{document['kind']}.{at}"}
    assert allowed in found[f"{document['kind']}.{at}"][1]


@pytest.mark.parametrize(("document", "path", "value"), RIGHT)
def test_what_lies_near_to_a_mistake_is_right(document: dict[str, Any], path: str, value: Any) -> None:
    parse_resources([changed(document, path, value)], KINDS, "x")


@pytest.mark.parametrize(
    "field", ["spec.project", "spec.featureService", "spec.windows", "spec.deployment", "spec.project.entryPoint"]
)
def test_a_required_field_is_missed(field: str) -> None:
    broken = copy.deepcopy(TRAINING)
    *parents, last = field.split(".")
    node = broken
    for part in parents:
        node = node[part]
    del node[last]
    assert problems(broken, DEPLOYMENT) == {
        f"ContinuousTraining.{field}": ("nothing", "a value: this field is required")
    }


@pytest.mark.parametrize(
    ("windows", "allowed"),
    [
        ({}, "a start (an expanding window) or a length (a sliding one)"),
        ({"length": "14d", "validation": "14d"}, "a length longer than validation"),
    ],
)
def test_windows_must_make_sense_together(windows: dict[str, str], allowed: str) -> None:
    assert (
        allowed
        in problems(changed(TRAINING, "spec.windows", windows), DEPLOYMENT)["ContinuousTraining.spec.windows"][1]
    )


def test_an_answer_must_be_possible_in_time() -> None:
    predictor = {"timeout": "2s", "batching": {"maxDelay": "2s"}}
    found = problems(TRAINING, changed(DEPLOYMENT, "spec.predictor", predictor))
    assert "longer than batching.maxDelay" in found["ModelDeployment.spec.predictor"][1]


def test_all_mistakes_of_all_documents_come_at_once() -> None:
    training = changed(changed(TRAINING, "spec.windows.holdout", 31), "spec.gate.metric", "auc")
    deployment = changed(changed(DEPLOYMENT, "spec.model.version", "newest"), "spec.surprise", 1)
    found = problems(training, deployment, {"kind": "Rollout"}, ["a list"])
    assert set(found) == {
        "ContinuousTraining.spec.windows.holdout",
        "ContinuousTraining.spec.gate.metric",
        "ModelDeployment.spec.model.version",
        "ModelDeployment.spec.surprise",
        "[2].kind",
        "[3]",
    }
    assert found["ContinuousTraining.spec.gate.metric"] == ("'auc'", "'log_loss' or 'brier'")


def test_the_message_is_one_line_a_problem() -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_service([changed(TRAINING, "spec.gate.metric", "auc"), DEPLOYMENT], "flights/serinus.yaml")
    assert str(caught.value) == (
        "flights/serinus.yaml has 1 problem:\n"
        "  - ContinuousTraining.spec.gate.metric: found 'auc', allowed: 'log_loss' or 'brier'"
    )


def test_a_training_must_name_a_deployment_of_its_file() -> None:
    found = problems(changed(TRAINING, "spec.deployment", "trains"), DEPLOYMENT)
    assert "'trains'" in found["ContinuousTraining.spec.deployment"][0]
    assert "'flights'" in found["ContinuousTraining.spec.deployment"][1]


def test_a_deployment_in_another_namespace_is_another_deployment() -> None:
    found = problems(TRAINING, changed(DEPLOYMENT, "metadata.namespace", "live"))
    assert list(found) == ["ContinuousTraining.spec.deployment"]


def test_a_reference_to_a_broken_deployment_is_not_a_second_mistake() -> None:
    assert list(problems(TRAINING, changed(DEPLOYMENT, "spec.model.version", "x"))) == [
        "ModelDeployment.spec.model.version"
    ]


def test_a_name_is_used_once() -> None:
    found = problems(TRAINING, DEPLOYMENT, DEPLOYMENT)
    assert found["ModelDeployment.metadata.name"] == ("'flights' 2 times", "each name once in a namespace")
    assert found["ModelDeployment"] == ("2 of them", "exactly one in a file")


@pytest.mark.parametrize("documents", [[], [None], [TRAINING], [DEPLOYMENT]])
def test_both_kinds_are_needed(documents: list[Any]) -> None:
    found = problems(*documents)
    missing = {"ContinuousTraining", "ModelDeployment"} - {each["kind"] for each in documents if each}
    assert {path: each for path, each in found.items() if path in missing} == dict.fromkeys(
        missing, ("none", "exactly one in a file")
    )


def test_resources_can_be_read_by_themselves() -> None:
    assert [each.metadata.name for each in parse_resources([DEPLOYMENT], KINDS, "x")] == ["flights"]


def test_split_counts_back_from_as_of() -> None:
    windows = parse_service([TRAINING, DEPLOYMENT], "x").training.spec.windows
    split = windows.split(datetime(2013, 8, 2, 12, tzinfo=UTC))
    assert str(split.train) == "2013-01-01 00:00 to 2013-06-17 00:00 UTC"
    assert str(split.validation) == "2013-06-17 00:00 to 2013-07-01 00:00 UTC"
    assert str(split.holdout) == "2013-07-01 00:00 to 2013-08-01 00:00 UTC"
    with pytest.raises(ValueError, match="the training window is empty"):
        windows.split(datetime(2013, 2, 1, tzinfo=UTC))


def test_a_sliding_window_keeps_its_length() -> None:
    windows = parse_service(
        [changed(TRAINING, "spec.windows", {"length": "60d"}), DEPLOYMENT], "x"
    ).training.spec.windows
    split = windows.split(datetime(2013, 8, 1, tzinfo=UTC))
    assert split.holdout.since - split.train.since == timedelta(days=60)


def write(path: Path, *documents: Any) -> Path:
    path.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    return path


def test_a_file_or_its_folder_can_be_read(tmp_path: Path) -> None:
    file = write(tmp_path / "serinus.yaml", TRAINING, DEPLOYMENT)
    assert read_service(file) == read_service(tmp_path)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no .*serinus\.yaml"):
        read_service(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"kind: [", r"line 1, column 8"),
        (b"kind: A\nspec: {x: 1}\nkind: B\n", r"line 3, column 1: found the key 'kind' again"),
        (b"kind: \xff\xfe", r"byte 6: found a byte that is not UTF-8"),
        (b"kind: \x07", r"character 6: found special characters"),
        (b"kind: !!python/object/apply:os.getcwd []", r"line 1, column 7: found could not determine a constructor"),
    ],
)
def test_broken_yaml_is_told_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "serinus.yaml"
    file.write_bytes(content)
    with pytest.raises(InvalidSpec, match=message):
        read_service(file)


def test_merged_mappings_are_no_double_keys(tmp_path: Path) -> None:
    text = yaml.safe_dump_all([TRAINING, DEPLOYMENT]).replace(
        "windows:\n", "windows:\n    <<: {validation: 7d, holdout: 1d}\n"
    )
    (tmp_path / "serinus.yaml").write_text(text, encoding="utf-8")
    windows = read_service(tmp_path).training.spec.windows
    assert (windows.validation, windows.holdout) == (timedelta(days=7), timedelta(days=31))
