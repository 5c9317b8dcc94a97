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
