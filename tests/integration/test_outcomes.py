"""The sidecar over HTTP: outcomes taken, kept and joined; metrics of the log; and what it refuses."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from serinus.engines.prediction_log import join
from tests.support import eventually
from tests.support_sidecar import Sidecar

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Sidecar]:
    found = Sidecar(tmp_path, {"segmentAge": "300ms"})
    yield found
    found.close()


def test_outcomes_are_taken_once_and_corrected(sidecar: Sidecar) -> None:
    first = [{"prediction_id": f"p{row}", "label": row % 2} for row in range(4)] + [{"id": 7, "label": 1}]
    assert sidecar.post(first).json() == {"new": 5, "repeated": 0, "corrected": 0, "invalid": 0, "errors": []}
    assert sidecar.post(first).json() == {"new": 0, "repeated": 5, "corrected": 0, "invalid": 0, "errors": []}
    mixed = [{"prediction_id": "p0", "label": 1}, {"prediction_id": "p9"}, {"prediction_id": "p1", "label": 1}]
    answer = sidecar.post(mixed)
    assert answer.status_code == 200
    assert answer.json() == {
        "new": 0, "repeated": 1, "corrected": 1, "invalid": 1,
        "errors": [{"row": 1, "error": "[1].label: found nothing, allowed: 0 or 1"}],
    }  # fmt: skip
    eventually(lambda: sidecar.number("serinus_log_shipped_rows_total", stream="outcomes") == 6)
    found = sidecar.outcomes().to_pydict()
    ids = [one or other for one, other in zip(found["prediction_id"], found["id"], strict=True)]
    assert dict(zip(ids, found["label"], strict=True)) == {"p0": 1, "p1": 1, "p2": 0, "p3": 1, "7": 1}
    results = {each: sidecar.number("serinus_outcomes_total", result=each) for each in ("new", "repeated", "corrected")}
    assert results == {"new": 5, "repeated": 6, "corrected": 1}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b'{"id": 1, "label": 1}', 400, "found an object, allowed: a list of 1 to 10000 objects"),
        (b"[]", 400, "found 0 rows"),
        (b"[" + b"1," * 10_000 + b"1]", 400, "found 10001 rows"),
        (b'["\xff"]', 400, "not JSON"),
        (b"[1, 2]", 422, "an object with prediction_id, id, label, label_timestamp"),
        (b"[" + b" " * (10 * 1024 * 1024) + b"]", 413, "larger than 10485760 bytes"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(tmp_path_factory: Any, body: bytes, status: int, words: str) -> None:
    answer = httpx.post(f"{_shared(tmp_path_factory).url}/v1/outcomes", content=body)
    assert answer.status_code == status
    assert words in answer.json()["error"]


_SHARED: list[Sidecar] = []


def _shared(factory: Any) -> Sidecar:
    if not _SHARED:
        _SHARED.append(Sidecar(factory.mktemp("shared")))
    return _SHARED[0]


@pytest.fixture(scope="module", autouse=True)
def _end_shared() -> Iterator[None]:
    yield
    while _SHARED:
        _SHARED.pop().close()


def test_other_paths_and_methods_are_refused_in_the_same_form(tmp_path_factory: Any) -> None:
    url = _shared(tmp_path_factory).url
    for method, path, status in (("GET", "/v1/outcomes", 405), ("POST", "/metrics", 405), ("GET", "/other", 404)):
        answer = httpx.request(method, url + path)
        assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert "text/plain" in httpx.get(f"{url}/metrics").headers["content-type"]


def test_what_was_acknowledged_survives_a_kill_under_load(sidecar: Sidecar) -> None:
    """At least 2,000 outcomes by eight clients, while the sidecar is killed twice."""
    acknowledged: set[str] = set()
    lock = threading.Lock()

    def client(number: int) -> int:
        tries = 0
        for post in range(30):
            ids = [f"c{number}-{post}-{row}" for row in range(10)]
            rows = [{"prediction_id": name, "label": 1} for name in ids]
            while True:
                tries += 1
                try:
                    answer = sidecar.post(rows)
                    break
                except httpx.TransportError:
                    eventually(lambda: sidecar._healthy(), timeout=30)
            assert answer.status_code == 200, answer.text
            with lock:
                acknowledged.update(ids)
        return tries

    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(client, number) for number in range(8)]
        for share in (400, 1200):
            eventually(lambda share=share: len(acknowledged) >= share, timeout=60)
            sidecar.kill()
            sidecar.start()
        tries = sum(run.result() for run in runs)
    assert len(acknowledged) == 2400
    assert tries > 240, "some posts met a dead sidecar and were sent again"
    assert sidecar.stop() == 0
    found = sidecar.outcomes()["prediction_id"].to_pylist()
    assert sorted(found) == sorted(acknowledged), "each once, although some were sent twice"


def test_a_full_spool_refuses_outcomes_until_there_is_room(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("unreachable")
    found = Sidecar(tmp_path, {"segmentBytes": 4096, "bufferLimit": 20_000})
    try:
        rows = [{"id": f"x{row}", "label": 1} for row in range(200)]
        statuses = [
            found.post([{**row, "id": f"{post}-{row['id']}"} for row in rows]).status_code for post in range(12)
        ]
        assert statuses[0] == 200
        assert statuses[-1] == 503
        answer = found.post([{"id": "late", "label": 1}])
        assert answer.headers["retry-after"] == "1"
        assert "cannot be kept" in answer.json()["error"]
        kept = statuses.count(200) * 200
        (tmp_path / "store").unlink()
        eventually(lambda: found.number("serinus_log_shipped_rows_total", stream="outcomes") == kept, timeout=60)
        assert found.post([{"id": "late", "label": 1}]).json()["new"] == 1
        assert found.stop() == 0
    finally:
        found.close()
    assert found.outcomes().num_rows == kept + 1


def test_outcomes_join_predictions_by_either_id() -> None:
    at = datetime(2024, 5, 1, tzinfo=UTC)
    predictions = pa.table(
        {"prediction_id": ["p1", "p2", "p3", "p4"], "id": ["a", "b", None, "b"], "probability": [0.1] * 4}
    )

    def outcome(label: int, hours: int, **name: str) -> dict[str, Any]:
        known = at + timedelta(hours=hours)
        return {
            "prediction_id": name.get("p"), "id": name.get("i"), "label": label, "label_timestamp": known,
            "received_at": known,
        }  # fmt: skip

    from serinus.engines.prediction_log import OUTCOMES

    rows = [
        outcome(0, 1, p="p1"), outcome(1, 2, i="a"), outcome(1, 3, i="b"), outcome(0, 4, p="p2"),
        outcome(1, 5, p="other"), outcome(0, 1, i="b"),
    ]  # fmt: skip
    found = join(predictions, pa.Table.from_pylist(rows, schema=OUTCOMES))
    assert dict(zip(found["prediction_id"].to_pylist(), found["label"].to_pylist(), strict=True)) == {
        "p1": 1,
        "p2": 0,
        "p4": 1,
    }
    assert found["label_timestamp"].to_pylist()[0] == at + timedelta(hours=2)
    assert join(pa.table({}), pa.Table.from_pylist(rows, schema=OUTCOMES)).num_rows == 0
    assert json.dumps(found.schema.names[-2:]) == '["label", "label_timestamp"]'
