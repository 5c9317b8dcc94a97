"""The predictor without TorchServe: whatever arrives together, each request gets what it would get alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serinus.core.errors import IntegrityError, NotFound
from serinus.core.platform import Platform
from serinus.core.profile import Profile
from serinus.core.signature import Signature
from serinus.engines.envoy_door import SHADOW_HEADER
from serinus.serve.arrival import Raw
from serinus.serve.handler import Predictor
from serinus.serve.telemetry import Telemetry
from tests import support_serving as toy


@dataclass(frozen=True)
class Served:
    where: Platform
    model: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    where = toy.platform(tmp_path_factory.mktemp("state"))
    model = tmp_path_factory.mktemp("model")
    toy.write_model(model, toy.signature(where))
    return Served(where, model)


@pytest.fixture(scope="module")
def predictor(served: Served) -> Iterator[Predictor]:
    policies = {"views": {"hourly": {"onStale": "flag"}, "daily": {"onMissing": "reject"}}}
    found = toy.predictor(toy.config(served.where, policies, maximum_rows=50), served.model)
    yield found
    found.close()


def plain(*rows: dict[str, Any]) -> Raw:
    return Raw({"host": "h", "url_path": ""}, json.dumps(rows[0] if len(rows) == 1 else rows).encode())


def ask(predictor: Predictor, raw: Raw) -> tuple[int, Any]:
    [answer] = predictor.handle([raw])
    return answer.status, orjson.loads(answer.body)


ROWS = st.fixed_dictionaries(
    {
        "event_timestamp": st.sampled_from([toy.NOW, toy.NOW + timedelta(hours=1, seconds=1)]).map(str),
        "origin": st.sampled_from(["JFK", "LGA", "EWR", "BOS", "XXX"]),
        "carrier": st.sampled_from(["AA", "B6", "UA", "ZZ"]),
        "plane": st.sampled_from([1, 2**40, 7]),
    },
    optional={
        "distance": st.floats(-1e6, 1e6) | st.just("far") | st.none(),
        "hour": st.integers(-(2**53), 2**53),
        "night": st.booleans() | st.just(3),
        "terminal": st.sampled_from(["A", "C", None]),
        "id": st.text(max_size=3),
        "colour": st.just("red"),
    },
) | st.sampled_from([{}, {"origin": "JFK"}])


def as_v2(rows: list[dict[str, Any]], outputs: bool) -> Raw:
    known = [{name: value for name, value in each.items() if name != "colour"} for each in rows]
    if not any(known):
        known = [toy.row()]
    return Raw({"x-serinus-protocol": "v2"}, toy.infer(known, *(["served_features"] if outputs else [])))


REQUESTS = st.one_of(
    st.builds(as_v2, st.lists(ROWS, min_size=1, max_size=5), st.booleans()),
    st.lists(ROWS, min_size=1, max_size=5).map(
        lambda rows: Raw({"x-serinus-protocol": "v1"}, json.dumps({"instances": rows}).encode())
    ),
    st.lists(ROWS, min_size=1, max_size=3).map(lambda rows: plain(*rows)),
    st.sampled_from([Raw({"host": "h"}, b"{"), Raw({"host": "h"}, None), Raw({}, b"{}"), plain(*[{}] * 51)]),
)


def without_ids(status: int, body: bytes) -> tuple[int, Any]:
    """An answer but for what is random in it."""
    content = orjson.loads(body)
    rows = content if isinstance(content, list) else content.get("predictions", [content])
    for each in rows:
        each.pop("prediction_id", None)
    if isinstance(content, dict):
        content["outputs"] = [each for each in content.get("outputs", []) if each["name"] != "prediction_id"]
    return status, content


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(batches=st.lists(st.lists(REQUESTS, min_size=1, max_size=6), min_size=1, max_size=3), data=st.data())
def test_any_mixture_in_any_batching_answers_what_each_request_alone_does(
    predictor: Predictor, batches: list[list[Raw]], data: st.DataObject
) -> None:
    requests = [raw for batch in batches for raw in batch]
    alone = [without_ids(answer.status, answer.body) for raw in requests for answer in predictor.handle([raw])]
    together = [without_ids(answer.status, answer.body) for batch in batches for answer in predictor.handle(batch)]
    assert together == alone
    order = data.draw(st.permutations(range(len(requests))))
    shuffled = predictor.handle([requests[at] for at in order])
    assert [without_ids(answer.status, answer.body) for answer in shuffled] == [alone[at] for at in order]
    assert all(status < 500 for status, _ in alone)


def test_the_model_sees_what_the_signature_makes_of_the_values(served: Served, predictor: Predictor) -> None:
    from serinus.engines.exported import load_exported

    status, content = ask(
        predictor,
        Raw(
            {"host": "h"}, toy.infer([toy.row(), toy.row(origin="LGA", carrier="B6")], "probability", "served_features")
        ),
    )
    assert status == 200
    outputs = {output["name"]: output["data"] for output in content["outputs"]}
    rows = [json.loads(text) for text in outputs["served_features"]]
    assert rows[0] == {
        "distance": 1000.5, "hour": 9, "night": False, "terminal": "A", "hourly__delay": 1.5, "hourly__flights": 11,
        "daily__rate": float(np.float32(0.1)), "daily__tier": "full", "route__delay": 3.25, "planes__seats": 180,
        "planes__jet": True, "planes__maker": "AIRBUS",
    }  # fmt: skip
    assert rows[1]["route__delay"] is None
    columns = {name: [each[name] for each in rows] for name in rows[0]}
    signature = Signature.model_validate_json((served.model / "signature.json").read_bytes())
    expected = load_exported(served.model / "model.pt2").probabilities(*signature.encode(columns))
    assert outputs["probability"] == expected.tolist()


def test_an_unknown_entity_is_imputed_or_rejected_as_the_policy_says(predictor: Predictor) -> None:
    assert ask(predictor, plain(toy.row(origin="XXX", plane=99)))[0] == 200
    status, content = ask(predictor, plain(toy.row(carrier="ZZ")))
    assert status == 422
    assert content == {"error": "feature view daily for carrier='ZZ': no values"}


def test_a_flagged_stale_value_is_used_and_reported(predictor: Predictor) -> None:
    status, content = ask(predictor, plain(toy.row(origin="EWR")))
    assert (status, content["stale"]) == (200, ["hourly"])
    _, imputed = ask(predictor, plain(toy.row(origin="XXX")))
    assert content["probability"] != imputed["probability"]
    _, content = ask(predictor, Raw({"host": "h"}, toy.infer([toy.row(), toy.row(origin="EWR")])))
    assert content["parameters"] == {"stale_views": "hourly"}


def test_a_stale_value_is_rejected_where_the_policy_says(served: Served) -> None:
    serving = toy.config(served.where, {"default": {"onStale": "reject", "maximumAge": "30m"}})
    predictor = toy.predictor(serving, served.model)
    _, content = ask(predictor, plain(toy.row(), toy.row(origin="XXX", carrier="ZZ", plane=9)))
    assert content[0] == {"error": "feature view hourly for origin='JFK': values are 1h old, limit 30m"}
    assert "probability" in content[1]
    predictor.close()


def test_the_wall_clock_makes_old_values_stale(served: Served) -> None:
    predictor = toy.predictor(toy.config(served.where, clock="wall"), served.model)
    _, content = ask(predictor, Raw({"host": "h"}, toy.infer([toy.row(event_timestamp=...)], "served_features")))
    features = json.loads(next(each for each in content["outputs"] if each["name"] == "served_features")["data"][0])
    assert features["hourly__delay"] is None
    assert features["daily__tier"] == "full"
    predictor.close()


class Poison:
    """A model that fails, as a bug would, on one value, and has no answer for another."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def probabilities(self, numbers: Any, categories: Any) -> Any:
        if (numbers == 666).any():
            raise RuntimeError("a bug")
        return np.where((numbers == 777).any(1), np.nan, self.inner.probabilities(numbers, categories))


def test_a_request_that_meets_a_bug_does_not_take_its_neighbours_along(served: Served) -> None:
    predictor = toy.predictor(toy.config(served.where), served.model)
    predictor._model = Poison(predictor._model)
    good = plain(toy.row())
    expected = ask(predictor, good)[1]["probability"]
    answers = predictor.handle([good, plain(toy.row(distance=666)), good, plain(toy.row(distance=777))])
    assert [answer.status for answer in answers] == [200, 500, 200, 500]
    assert orjson.loads(answers[2].body)["probability"] == expected
    assert orjson.loads(answers[1].body) == {"error": "internal error; the predictor's log has it"}
    assert orjson.loads(answers[3].body) == {"error": "the model gave no finite probability for this row"}
    predictor.close()


def test_what_is_answered_is_counted(served: Served) -> None:
    from prometheus_client import CollectorRegistry

    serving = toy.config(
        served.where, {"default": {"onMissing": "reject"}}, version=int(np.random.default_rng().integers(2**40))
    )
    registry = CollectorRegistry()
    signature = Signature.model_validate_json((served.model / "signature.json").read_bytes())
    profile = Profile.model_validate_json((served.model / "profile.json").read_bytes())
    counts = Telemetry(serving, signature, profile, registry)
    predictor = toy.predictor(serving, served.model, counts)
    raws = [
        plain(toy.row(), toy.row(origin="XXX")),
        plain(toy.row(hour="x")),
        Raw({"host": "h"}, b"{"),
        Raw({"host": "h", "x-serinus-start": f"{time.time() - 0.2:.6f}"}, json.dumps(toy.row()).encode()),
    ]
    predictor.handle(raws)
    predictor.close()
    labels = {"model": toy.MODEL, "version": str(serving.version)}

    def value(name: str, **more: str) -> Any:
        return registry.get_sample_value(name, labels | more)

    live = {"traffic": "live"}
    assert [value("serinus_requests_total", code=code, **live) for code in ("200", "400", "422")] == [2, 1, 1]
    assert [value("serinus_rows_total", result=result, **live) for result in ("ok", "failed")] == [2, 2]
    assert value("serinus_feature_missing_total", view="hourly", reason="absent", **live) == 1
    assert value("serinus_batch_size_sum") == 4
    assert value("serinus_request_queue_seconds_count") == 1
    assert value("serinus_request_queue_seconds_bucket", le="0.1") == 0
    assert 0.2 <= value("serinus_request_queue_seconds_sum") < 10
    bins = sum(value("serinus_prediction_values_total", bin=str(at), **live) or 0 for at in range(21))
    assert bins == 2, "rejected rows are not served"


@pytest.fixture
def counted(served: Served) -> Iterator[tuple[Predictor, Callable[..., float]]]:
    """A predictor that counts, and how much a metric of its version is."""
    from prometheus_client import CollectorRegistry

    serving = toy.config(served.where, version=int(np.random.default_rng().integers(2**40)))
    registry = CollectorRegistry()
    signature = Signature.model_validate_json((served.model / "signature.json").read_bytes())
    profile = Profile.model_validate_json((served.model / "profile.json").read_bytes())
    predictor = toy.predictor(serving, served.model, Telemetry(serving, signature, profile, registry))
    labels = {"model": toy.MODEL, "version": str(serving.version)}
    yield predictor, lambda name, **more: registry.get_sample_value(name, labels | more) or 0
    predictor.close()


def test_copies_for_a_shadow_are_counted_apart(counted: tuple[Predictor, Callable[..., float]]) -> None:
    predictor, value = counted
    copy = {"host": "h", "url_path": "", SHADOW_HEADER: "true"}
    raws = [
        plain(toy.row(), toy.row(hour="x")),
        Raw(copy, json.dumps([toy.row(), toy.row(), toy.row(origin="XXX"), toy.row(hour="x")]).encode()),
        Raw(copy, b"{"),
        plain(toy.row(origin="EWR")),
    ]
    answers = [orjson.loads(answer.body) for answer in predictor.handle(raws)]
    assert answers[0][0]["probability"] == answers[1][0]["probability"], "a copy gets what the request gets"
    predictor.close()

    def both(name: str, **more: str) -> list[float]:
        return [value(name, traffic=traffic, **more) for traffic in ("live", "shadow")]

    assert both("serinus_requests_total", code="200") == [2, 1]
    assert both("serinus_requests_total", code="400") == [0, 1]
    assert both("serinus_request_duration_seconds_count") == [2, 2]
    assert both("serinus_rows_total", result="ok") == [2, 3]
    assert both("serinus_rows_total", result="failed") == [1, 1]
    assert both("serinus_feature_missing_total", view="hourly", reason="absent") == [0, 1]
    assert both("serinus_feature_stale_total", view="hourly") == [1, 0]
    bins = [both("serinus_prediction_values_total", bin=str(at)) for at in range(22)]
    assert [sum(each) for each in zip(*bins, strict=True)] == [2, 3]


def with_deadline(seconds: float, **changes: Any) -> Raw:
    """A request that came just now, or was under way for long, and whose client waits for a tenth of a second."""
    headers = {"host": "h", "url_path": "", "x-serinus-start": f"{time.time() - seconds:.6f}"}
    headers |= {"x-serinus-received": "0", "x-envoy-expected-rq-timeout-ms": "100"}
    return Raw(headers, json.dumps(toy.row(**changes)).encode())


def test_a_request_past_its_deadline_is_dropped_before_it_costs_anything(
    counted: tuple[Predictor, Callable[..., float]],
) -> None:
    predictor, value = counted
    good = plain(toy.row(origin="LGA"))
    expected = ask(predictor, good)[1]["probability"]
    lookups = value("serinus_feature_lookup_seconds_count")
    late = [with_deadline(5), with_deadline(0.2, origin="XXX")]
    assert [answer.status for answer in predictor.handle(late)] == [504, 504]
    assert value("serinus_feature_lookup_seconds_count") == lookups
    answers = predictor.handle([late[0], good, with_deadline(-60), late[1]])
    assert [answer.status for answer in answers] == [504, 200, 200, 504]
    assert orjson.loads(answers[1].body)["probability"] == expected
    assert "deadline passed" in orjson.loads(answers[0].body)["error"]
    by_grpc = Raw(late[0].headers | {"x-serinus-protocol": "grpc/ModelInfer"}, b"")
    assert predictor.handle([by_grpc])[0].headers["grpc-status"] == "4", "DEADLINE_EXCEEDED"
    probe = Raw(late[0].headers | {"x-serinus-protocol": "grpc/ServerLive"}, b"")
    assert predictor.handle([probe])[0].probe
    predictor.close()
    assert value("serinus_requests_total", code="504", traffic="live") == 5
    assert value("serinus_requests_total", code="200", traffic="live") == 3
    assert value("serinus_request_duration_seconds_count", traffic="live") == 3
    assert value("serinus_rows_total", result="failed", traffic="live") == 0
    assert value("serinus_request_queue_seconds_count") == 6


def test_a_lookup_waits_no_longer_than_the_most_patient_client(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = toy.predictor(toy.config(served.where), served.model)
    read, given = predictor._lookup.read, []

    def watched(columns: Any, moments: Any, patience: float) -> Any:
        given.append(patience)
        return read(columns, moments, patience)

    monkeypatch.setattr(predictor._lookup, "read", watched)
    predictor.handle([with_deadline(0), with_deadline(-30), with_deadline(-2)])
    predictor.handle([with_deadline(0), plain(toy.row())])
    assert 29 < given[0] < 30.2
    assert given[1] == float("inf"), "one of them said nothing"
    predictor.close()


def test_a_batch_that_fails_and_is_tried_again_is_counted_once(counted: tuple[Predictor, Callable[..., float]]) -> None:
    predictor, value = counted
    predictor._model = Poison(predictor._model)
    good = plain(toy.row(), toy.row(origin="XXX"))
    assert [answer.status for answer in predictor.handle([good, plain(toy.row(distance=666))])] == [200, 500]
    predictor.close()
    assert value("serinus_rows_total", result="ok", traffic="live") == 2
    assert value("serinus_feature_missing_total", view="hourly", reason="absent", traffic="live") == 1


@pytest.mark.parametrize(
    ("file", "content", "error"),
    [
        ("model.pt2", None, NotFound),
        ("signature.json", None, NotFound),
        ("signature.json", b"{", IntegrityError),
        ("profile.json", b'{"rows": 1}', IntegrityError),
        ("model.pt2", b"PK damaged", IntegrityError),
    ],
)
def test_a_damaged_archive_is_refused(
    served: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    content: bytes | None,
    error: type[Exception],
) -> None:
    monkeypatch.setattr("serinus.serve.telemetry.configure", lambda folder: None)
    for part in served.model.iterdir():
        (tmp_path / part.name).write_bytes(part.read_bytes())
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(error, match=file):
        Predictor.load(toy.config(served.where), tmp_path)
