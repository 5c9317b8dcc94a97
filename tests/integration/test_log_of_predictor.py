"""What a predictor answered and what its log says, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from serinus.engines.envoy_door import SHADOW_HEADER
from serinus.serve.arrival import Raw
from serinus.serve.handler import Predictor
from serinus.serve.log import LogWriter
from serinus.serve.log_columns import readable
from serinus.serve.log_segment import read_segment
from tests import support_serving as toy
from tests.support_log import Counted


class Logged:
    """A predictor with a log, and what it logged once it is closed."""

    def __init__(self, folder: Path, features: dict[str, Any]) -> None:
        where = toy.platform(folder / "state")
        toy.write_model(folder / "model", toy.signature(where))
        self.spool = folder / "spool"
        config = toy.config(where, features, spool_dir=self.spool)
        assert config.logged
        self.predictor: Predictor = toy.predictor(config, folder / "model")
        self.counts = Counted()
        self.predictor.log = LogWriter(config, self.predictor.signature, self.spool, self.counts)

    def ask(self, *requests: tuple[dict[str, str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Answers to the rows of several requests that arrive together, each with what was served."""
        raws = [
            Raw(
                {"x-serinus-protocol": "v2", **headers},
                toy.infer(rows, "probability", "prediction_id", "served_features"),
            )
            for headers, rows in requests
        ]
        found = []
        for answer in self.predictor.handle(raws):
            content = orjson.loads(answer.body)
            if answer.status != 200:
                found.append({"error": content["error"]})
                continue
            columns = {each["name"]: each["data"] for each in content["outputs"]}
            found += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return found

    def rows(self) -> dict[str, dict[str, Any]]:
        self.predictor.close()
        table = pa.concat_tables(readable(read_segment(path)) for path in self.spool.glob("predictions/*.arrows"))
        return {each["prediction_id"]: each for each in table.to_pylist()}


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Logged]:
    found = Logged(tmp_path, {"views": {"hourly": {"onStale": "flag"}, "daily": {"onMissing": "reject"}}})
    yield found
    found.predictor.close()


def test_the_log_has_what_was_answered(logged: Logged) -> None:
    late = (toy.NOW + timedelta(hours=1, seconds=1)).isoformat()
    requests = [
        ({"x-request-id": "one"}, [toy.row(id="a"), toy.row(origin="LGA", event_timestamp=late, id="b")]),
        ({"x-request-id": "two", SHADOW_HEADER: "true"}, [toy.row(carrier="ZZ", id="rejected")]),
        ({"X-Request-Id": "three"}, [toy.row(plane=7, terminal="Z", id="c"), toy.row(hour="x", id="wrong")]),
        ({SHADOW_HEADER: "true"}, [toy.row(origin="XXX")]),
    ]
    answers = [each for each in logged.ask(*requests) if each.get("prediction_id")]
    assert len(answers) == 4
    found = logged.rows()
    assert set(found) == {answer["prediction_id"] for answer in answers}
    assert logged.counts["rows_total"] == logged.counts["appended"] == 4
    for answer in answers:
        row = found[answer["prediction_id"]]
        assert row["probability"] == answer["probability"]
        served = orjson.loads(answer["served_features"])
        assert {name: row[name] for name in served} == served
    a, b, c, shadow = (found[answer["prediction_id"]] for answer in answers)
    assert [each["id"] for each in (a, b, c, shadow)] == ["a", "b", "c", None]
    assert [each["request_id"] for each in (a, b, c, shadow)] == ["one", "one", "three", None]
    assert [each["shadow"] for each in (a, b, c, shadow)] == [False, False, False, True]
    assert (a["origin"], a["plane"], a["event_timestamp"]) == ("JFK", 1, toy.NOW)
    assert (a["state__hourly"], a["known_at__hourly"]) == ("present", toy.NOW - toy.HOUR)
    assert (b["state__hourly"], b["known_at__hourly"]) == ("stale", toy.NOW - 2 * toy.HOUR)
    assert b["hourly__delay"] == -2.0
    assert (c["state__planes"], c["known_at__planes"], c["planes__seats"]) == ("absent", None, None)
    assert shadow["state__hourly"] == "absent"


def test_a_batch_that_fails_and_is_tried_again_is_logged_once(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    write = logged.predictor._writer.write

    def poisoned(request: Any, results: Any) -> Any:
        if "poison" in str(request.columns["terminal"]):
            raise RuntimeError("nobody foresaw this")
        return write(request, results)

    monkeypatch.setattr(logged.predictor._writer, "write", poisoned)
    answers = logged.ask(({}, [toy.row(id="good")]), ({}, [toy.row(terminal="poison", id="bad")]))
    assert [answer.get("error") is None for answer in answers] == [True, False]
    assert [row["id"] for row in logged.rows().values()] == ["good"]


def test_without_a_spool_nothing_is_logged(tmp_path: Path) -> None:
    config = toy.config(toy.platform(tmp_path))
    assert not config.logged
    off = config.deployment.log.model_copy(update={"enabled": False})
    deployment = config.deployment.model_copy(update={"log": off})
    assert not config.model_copy(update={"spool_dir": tmp_path, "deployment": deployment}).logged
