"""What breaks while requests come in, with the whole stack up and its features in Redis: at least two thousand requests
each time, counted by the clients and by the handler. docs/reliability.md tells the numbers."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pytest

from serinus.control.log_balance import read_counts, settled
from serinus.control.state import RunFolder
from serinus.core.prediction_log import LogCounts
from serinus.engines.feast import FeatureStore
from tests import support_redis
from tests import support_serving as toy
from tests.support import eventually
from tests.support_envoy import Load
from tests.support_front import Front, front
from tests.support_redis import Redis
from tests.support_report import record

pytestmark = pytest.mark.timeout(300)

PLAIN = f"/predictions/{toy.MODEL}"
ENOUGH = 2000
DEADLINE = 4.0


@dataclass(frozen=True)
class Site:
    """The stack, its store, and how long its first hundred requests took."""

    front: Front
    redis: Redis
    first_hundred: list[float]

    def load(self, clients: int = 8, **headers: str) -> Load:
        return Load(
            self.front.url, clients, toy.row, PLAIN, {name.replace("_", "-"): each for name, each in headers.items()}
        )

    @contextmanager
    def counted(self) -> Iterator[Callable[[str], int]]:
        """How much a counter of the handler has grown since."""
        before = self.front.metrics()

        def grown(name: str, **labels: str) -> int:
            wanted = set(labels.items())
            found = self.front.metrics()
            return round(
                sum(value - before.get(key, 0) for key, value in found.items() if key[0] == name and wanted <= key[1])
            )

        yield grown

    def log_counts(self) -> LogCounts:
        """The log's counters once no row is on its way from memory to a file any more."""
        seen: list[LogCounts] = []

        def still() -> LogCounts | None:
            seen.append(read_counts(self.front.url))
            return seen[-1] if seen[-1:] == seen[-2:-1] else None

        found = eventually(still, timeout=60, interval=0.5)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("faults")
    with ExitStack() as stack:
        redis = stack.enter_context(support_redis.running(folder))
        where = support_redis.platform(folder / "state", redis.port)
        FeatureStore.open(where, toy.PROJECT).apply(toy.definitions())
        toy.write_online(where, toy.rows())
        deployment = {"log": {"segmentAge": "500ms"}}
        found = stack.enter_context(front(folder, deployment, where))
        yield Site(found, redis, ask_in_turn(found.url, 100))


@pytest.fixture(autouse=True)
def whole(site: Site) -> Iterator[None]:
    """Each test begins and ends with a stack that is well."""
    eventually(lambda: site.front.get("/v2/health/ready").status_code == 200, timeout=60)
    yield
    eventually(lambda: site.front.post(PLAIN, toy.row()).status_code == 200, timeout=60)


def served(site: Site) -> dict[str, Any]:
    """The values that a request is answered with at present."""
    answer = site.front.infer(toy.infer([toy.row()], "served_features"), **{"x-request-timeout-ms": "4000"})
    assert answer.status_code == 200, answer.text
    features: dict[str, Any] = json.loads(answer.json()["outputs"][0]["data"][0])
    return {name: value for name, value in features.items() if "__" in name}


def test_a_killed_worker_costs_what_it_held(site: Site) -> None:
    before = site.log_counts()
    with site.counted() as grown, site.load() as load:
        load.wait_for(500)
        workers = site.front.workers()
        os.kill(workers[0], signal.SIGKILL)
        load.wait_for(ENOUGH)
        eventually(lambda: len(set(site.front.workers()) - {workers[0]}) == 2, timeout=60)
    failed = sum(load.failed.values())
    assert load.broken == {}
    assert {status for status, _ in load.failed} <= {500, 503, 507}
    assert all("Worker died" in words for words in load.said.values()), load.said
    assert failed <= 8, "what its clients had under way"
    answered = load.total - failed
    assert 0 <= grown("serinus_requests_total", code="200") - answered <= 8
    found = settled(site.front.url, before, 30)
    assert 0 <= found.lost <= 300, "of the log, what was not written for a tenth of a second"
    record("worker_killed", requests=load.total, failed=failed, log_rows_lost_and_counted=found.lost)


def test_a_killed_sidecar_costs_no_prediction_and_no_row_of_the_log(site: Site) -> None:
    before = site.log_counts()
    with site.load() as load:
        load.wait_for(300)
        for _ in range(3):
            old = site.front.pids()["sidecar"]
            os.kill(old, signal.SIGKILL)
            load.wait_for(600)
            eventually(lambda old=old: site.front.pids().get("sidecar", old) != old, timeout=30)
            eventually(lambda: site.front.get("/metrics").status_code == 200, timeout=60)
        load.wait_for(max(0, ENOUGH - load.total))
    assert (load.failed, load.broken) == ({}, {})
    found = settled(site.front.url, before, 60)
    assert (found.answered, found.lost) == (load.total, 0)
    record("sidecar_killed", requests=load.total, failed=0, kills=3, log_rows_lost=found.lost)


def test_half_written_configuration_of_envoy_changes_nothing(site: Site) -> None:
    state = RunFolder(site.front.platform).read()
    assert state is not None
    whole = {path: path.read_bytes() for path in (state.door.routes_file, state.door.clusters_file)}
    with site.counted() as grown, site.load() as load:
        for at in range(20):
            for path, content in whole.items():
                part = path.with_suffix(".part")
                part.write_bytes(content[: len(content) * (at % 9 + 1) // 10])
                part.replace(path)
            load.wait_for(60)
            for path, content in whole.items():
                part = path.with_suffix(".part")
                part.write_bytes(content)
                part.replace(path)
            load.wait_for(40)
        load.wait_for(max(0, ENOUGH - load.total))
    assert (load.failed, load.broken) == ({}, {})
    assert grown("serinus_requests_total", code="200") == load.total
    record("envoy_configuration_half_written", requests=load.total, failed=0, times=20)


def test_a_slow_store_costs_features_not_answers(site: Site) -> None:
    # Before it, another test may have left a read hanging.
    eventually(lambda: None not in served(site).values(), timeout=60)
    with site.counted() as grown, site.load(x_request_timeout_ms=f"{DEADLINE * 1000:.0f}") as load:
        load.wait_for(500)
        site.redis.pause(6)
        eventually(lambda: set(served(site).values()) == {None}, timeout=5)
        load.wait_for(1000)
        eventually(lambda: None not in served(site).values(), timeout=30)
        load.wait_for(max(500, ENOUGH - load.total))
    assert (load.failed, load.broken) == ({}, {})
    assert load.slowest < DEADLINE
    missing = grown("serinus_feature_missing_total", reason="unavailable", view="hourly")
    assert 0 < missing < load.total
    assert grown("serinus_requests_total", code="200") >= load.total
    record("store_slow", requests=load.total, failed=0, slowest_seconds=load.slowest, imputed=missing, pause_seconds=6)


def test_a_store_that_is_gone_costs_features_not_answers(site: Site) -> None:
    workers = site.front.workers()
    with site.counted() as grown, site.load(x_request_timeout_ms=f"{DEADLINE * 1000:.0f}") as load:
        load.wait_for(500)
        site.redis.stop()
        eventually(lambda: set(served(site).values()) == {None}, timeout=10)
        load.wait_for(1000)
        site.redis.start()
        eventually(lambda: None not in served(site).values(), timeout=30)
        load.wait_for(max(500, ENOUGH - load.total))
    assert (load.failed, load.broken) == ({}, {})
    assert load.slowest < DEADLINE
    assert site.front.workers() == workers, "nothing had to be started again"
    missing = grown("serinus_feature_missing_total", reason="unavailable", view="hourly")
    assert 0 < missing < load.total
    record("store_gone", requests=load.total, failed=0, slowest_seconds=load.slowest, imputed=missing)


def test_a_full_disk_under_the_log_costs_counted_rows_and_no_answer(site: Site) -> None:
    before = site.log_counts()
    processes = [psutil.Process(pid) for pid in site.front.workers()]
    limits = [each.rlimit(psutil.RLIMIT_FSIZE) for each in processes]
    with site.load() as load:
        load.wait_for(500)
        for each, (_, hard) in zip(processes, limits, strict=True):
            each.rlimit(psutil.RLIMIT_FSIZE, (1000, hard))  # no file of theirs may grow any more
        load.wait_for(1000)
        for each, limit in zip(processes, limits, strict=True):
            each.rlimit(psutil.RLIMIT_FSIZE, limit)
        load.wait_for(max(500, ENOUGH - load.total))
    assert (load.failed, load.broken) == ({}, {})
    found = settled(site.front.url, before, 30)
    dropped = site.log_counts() - before
    assert (found.answered, found.gap) == (load.total, 0)
    assert dropped.dropped["disk_full"] == found.dropped > 0
    assert found.kept == load.total - found.dropped > 0
    record(
        "disk_full", requests=load.total, failed=0, log_rows_dropped_and_counted=found.dropped, log_rows_gap=found.gap
    )


@contextmanager
def slow_clients(site: Site, count: int) -> Iterator[None]:
    """Half of them never end their headers, half never send the body that they announced."""
    host, _, port = site.front.address.partition(":")
    open_ones = [socket.create_connection((host, int(port))) for _ in range(count)]
    try:
        for at, each in enumerate(open_ones):
            head = f"POST {PLAIN} HTTP/1.1\r\nhost: x\r\n"
            each.sendall((head + ("x-a: " if at % 2 else "content-length: 1000\r\n\r\n{")).encode())
        yield
    finally:
        for each in open_ones:
            each.close()


def flood(site: Site, at: int) -> int:
    headers = [{f"x-{number}": "1" for number in range(300)}, {"x-long": "1" * 100_000}][at % 2]
    return site.front.post(PLAIN, toy.row(), **headers).status_code


def huge(site: Site, at: int) -> int:
    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(1_000_000)

    headers = {"content-length": "100000000"} if at % 2 else {}
    try:
        return httpx.post(site.front.url + PLAIN, content=parts(), headers=headers, timeout=60).status_code
    except httpx.WriteError:  # the door has answered and closed before all was sent
        return 413


@pytest.mark.parametrize(
    ("name", "attack", "times", "answers"),
    [("body_of_100_mb", huge, 6, {413}), ("header_flood", flood, 200, {400, 431})],
)
def test_hostile_requests_cost_the_others_nothing(
    site: Site, name: str, attack: Callable[[Site, int], int], times: int, answers: set[int]
) -> None:
    with site.counted() as grown, site.load(4) as load, ThreadPoolExecutor(2) as pool:
        load.wait_for(200)
        found = set(pool.map(lambda at: attack(site, at), range(times)))
        load.wait_for(max(500, ENOUGH - load.total))
    assert found <= answers
    assert (load.failed, load.broken) == ({}, {})
    assert grown("serinus_requests_total") == load.total, "none of the hostile ones came to the handler"
    record(name, requests=load.total, failed=0, hostile=times, slowest_seconds=load.slowest)


def test_slow_clients_cost_the_others_nothing(site: Site) -> None:
    with site.counted() as grown, slow_clients(site, 200), site.load(4) as load:
        load.wait_for(ENOUGH)
    assert (load.failed, load.broken) == ({}, {})
    assert grown("serinus_requests_total") == load.total
    record("slow_clients", requests=load.total, failed=0, hostile=200, slowest_seconds=load.slowest)


def test_the_first_request_is_as_fast_as_later_ones(site: Site) -> None:
    """Once `up` says that the stack is ready: the way is warm, the model has run in every worker."""
    usual = sorted(site.first_hundred)[50]
    record("cold_start", first_request_seconds=site.first_hundred[0], median_of_a_hundred_seconds=usual)
    assert site.first_hundred[0] < 10 * usual + 0.05


def ask_in_turn(address: str, times: int) -> list[float]:
    """Seconds that each of so many requests takes, one after another on one connection."""
    taken = []
    with httpx.Client(base_url=address, timeout=30) as client:
        assert client.get("/v2").status_code == 200
        for _ in range(times):
            started = time.perf_counter()
            answer = client.post(PLAIN, json=toy.row())
            taken.append(time.perf_counter() - started)
            assert answer.status_code == 200, answer.text
    return taken
