"""What a spec may say, and that every mistake in it is told at once."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from serinus.core.errors import InvalidSpec
from serinus.core.spec import KINDS, ModelService, parse_resources, parse_service
from tests.support_spec import BEYOND_SCHEMA, DEPLOYMENT, RIGHT, TOGETHER, TRAINING, WRONG, changed


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
