"""What a real Envoy counts of attempts and of the split, and the sidecar's totals of it across restarts."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from serinus.core.spec import Traffic
from serinus.core.spec.traffic import Limits
from serinus.engines import envoy_counts
from serinus.engines.envoy import Door
from serinus.engines.envoy_counts import Attempts, DoorTotals
from serinus.serve.door_counts import DoorCounts
from tests.support import eventually
from tests.support_envoy import Front, Load, front, new_door, running


def totals(found: Front) -> DoorTotals:
    return envoy_counts.read_totals(found.door.admin, "tiny")


def live(found: Front, version: int) -> dict[str, int]:
    return {each.result: n for each, n in totals(found).attempts.items() if each[:2] == (version, "live")}


def settled(found: Front, requests: int) -> DoorTotals:
    """A request is logged as it ends, which its client may see a moment before."""
    eventually(lambda: totals(found).routed.total() == requests)
    return totals(found)


def test_what_was_sent_is_what_is_counted(tmp_path: Path) -> None:
    with front(new_door(tmp_path, canary=30)) as found:
        answered = Counter(found.version_of() for _ in range(400))
        for _ in range(7):
            found.ask(x_serinus_version="canary")
        assert found.client.post("/v2/models/tiny/versions/1/infer", json={}).status_code == 200
        for path in ("/v2/health/live", "/v2/health/ready", "/metrics", "/v2/models/tiny", "/nothing"):
            found.client.get(path)
        for path in ("/inference.GRPCInferenceService/ServerLive", "/v1/outcomes"):
            found.client.post(path, content=b"")
        assert settled(found, 400).routed == answered, "nothing that was asked for by name, and no probe"
        assert totals(found).attempts == {
            Attempts(1, "live", "ok"): answered[1] + 1,
            Attempts(2, "live", "ok"): answered[2] + 7,
        }
        found.upstreams[2].status = 503
        codes = Counter(found.ask().status_code for _ in range(100))
        settled(found, 500)
        assert live(found, 2) == {"ok": answered[2] + 7, "error": codes[503]}, "whoever made the answer"


def test_attempts_without_an_answer_count_against_the_version_that_gave_none(tmp_path: Path) -> None:
    with front(new_door(tmp_path, canary=50)) as found:
        with Load(f"http://127.0.0.1:{found.door.port}") as load:
            load.wait_for(200)
            found.upstreams[2].seconds = 0.2
            load.wait_for(20)
            found.upstreams[2].kill()
            load.wait_for(400)
        assert load.failed == {}, "the other version answered"
        counted = settled(found, load.total)
        canary = live(found, 2)
        assert live(found, 1) == {"ok": load.of(1)}
        assert canary["ok"] == load.of(2)
        assert canary["none"] >= 1
        assert canary["unavailable"] > 20, "what fell back counts too: a dead version must not look healthy"
        assert sum(canary.values()) == counted.routed[2]
        assert counted.routed[2] == pytest.approx(load.total / 2, abs=5 * load.total**0.5)


def test_a_version_that_is_too_slow_gives_no_answer_and_one_that_is_full_is_not_there(tmp_path: Path) -> None:
    limits = Limits(requests=1, waiting=1, connections=1)
    with front(new_door(tmp_path, Traffic(limits=limits))) as found:
        found.upstreams[1].seconds = 3
        late = {"x-request-timeout-ms": "100"}
        assert found.client.post("/predictions/tiny", json={}, headers=late).status_code == 504
        eventually(lambda: live(found, 1) == {"none": 1})
        with suppress(httpx.TimeoutException):
            found.client.post("/predictions/tiny", json={}, timeout=0.2)
        eventually(lambda: live(found, 1) == {"none": 2})
        found.upstreams[1].seconds = 0.1
        with Load(f"http://127.0.0.1:{found.door.port}", clients=4) as load:
            load.wait_for(20)
        assert load.failed.keys() == {(503, "")}
        refused = sum(load.failed.values())
        eventually(lambda: live(found, 1) == {"ok": load.of(1), "none": 2, "unavailable": refused})


def test_copies_are_counted_apart_and_are_not_routed(tmp_path: Path) -> None:
    with front(new_door(tmp_path, canary=0, shadow=100)) as found:

        def copies() -> dict[str, int]:
            return {each.result: n for each, n in totals(found).attempts.items() if each.traffic == "shadow"}

        for _ in range(40):
            found.ask()
        eventually(lambda: copies() == {"ok": 40})
        found.upstreams[2].status = 500
        for _ in range(10):
            found.ask()
        eventually(lambda: copies() == {"ok": 40, "error": 10})
        found.upstreams[2].kill()
        found.management[2].kill()
        for _ in range(10):
            found.ask()
        eventually(lambda: copies() == {"ok": 40, "error": 20})
        found.ask(x_serinus_version="2")
        assert settled(found, 60).routed == {1: 60}
        assert live(found, 1) == {"ok": 60}
        assert live(found, 2) == {"none": 4}, "one request by name, sent four times"


def test_totals_outlive_envoy_and_the_sidecar(tmp_path: Path) -> None:
    def counts(door: Door) -> DoorCounts:
        return DoorCounts(door.admin, "tiny", tmp_path / "metrics")

    def routed(of: DoorCounts) -> float:
        (family,) = (each for each in of.collect() if each.name == "serinus_routed_requests")
        return sum(sample.value for sample in family.samples)

    door = new_door(tmp_path)
    first = counts(door)
    assert not first.update(), "no Envoy yet"
    with front(door) as found:
        for _ in range(30):
            found.ask()
        assert eventually(lambda: routed(first) == 30)
        again = counts(door)
        assert routed(again) == 30
        found.ask()
        assert eventually(lambda: routed(again) == 31), "a sidecar that is restarted counts on"
        found.process.kill()
        found.process.wait()
        assert not again.update()
        assert routed(again) == 31
        with running(door) as (client, _):
            eventually(lambda: client.post("/predictions/tiny", json={}).status_code == 200)
            for _ in range(39):
                client.post("/predictions/tiny", json={})
            assert eventually(lambda: routed(again) >= 71), "also where the new Envoy has counted further than the old"
            assert routed(counts(door)) == routed(again)
