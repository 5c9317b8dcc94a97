"""Who gets which version: counted at the clients and at the versions, with a real Envoy in between."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client import CollectorRegistry

from serinus.core.prediction import LIVE, SHADOW
from serinus.core.spec import Traffic
from serinus.core.spec.traffic import Drain, Limits, Quota, Sticky
from serinus.engines import envoy_admin
from serinus.engines.envoy import Door, command
from serinus.engines.envoy_counts import Attempts, read_totals
from serinus.engines.ports import free_ports, is_free
from serinus.serve.door_metrics import DoorCollector
from serinus.serve.drain import Drain as Order
from serinus.serve.entry import Launch
from tests.support import eventually
from tests.support_envoy import LOADING, READY, Load, front, listens, new_door


def test_requests_are_split_by_weight_and_statistics_stay_apart(tmp_path: Path) -> None:
    with front(new_door(tmp_path, canary=20)) as found:
        asked = Counter(found.version_of() for _ in range(2000))
        assert 300 < asked[2] < 500, "20 % of 2,000, six standard deviations around it"
        for version, upstream in found.upstreams.items():
            assert len(upstream.predictions()) == asked[version]
            assert envoy_admin.requests_under_way(found.door, version) == 0
        assert envoy_admin.received(found.door) == asked


def test_weights_change_twenty_times_without_a_failed_request(tmp_path: Path) -> None:
    with front(new_door(tmp_path, canary=10)) as found:
        with Load(str(found.client.base_url)) as load:
            for weight in (50, 0, 100, 1, 99) * 4:
                found.weights(weight)
                load.wait_for(100)
        assert load.failed == {}
        assert load.total >= 2000
        assert load.of(1) == len(found.upstreams[1].predictions())
        assert load.of(2) == len(found.upstreams[2].predictions())


def test_a_dead_canary_costs_no_request_and_comes_back_when_it_is_ready(tmp_path: Path) -> None:
    with front(new_door(tmp_path, canary=40)) as found:
        dead = (found.upstreams[2], found.management[2])
        with Load(str(found.client.base_url)) as load:
            for _ in range(5):
                load.wait_for(200)
                back = load.of(2)
                eventually(lambda back=back: load.of(2) > back + 20)
                for each in dead:
                    each.kill()
                seen = load.of(2)
                load.wait_for(200)
                eventually(lambda: not envoy_admin.healthy(found.door)[2])
                assert load.of(2) - seen <= 4, "only what was answered before the end"
                # As TorchServe does when it is started again: it listens long before its workers are ready.
                found.management[2].described = LOADING
                for each in dead:
                    each.start()
                load.wait_for(400)
                assert load.of(2) - seen <= 4
                found.management[2].described = READY
        assert load.failed == {}
        assert load.total >= 3000


def test_a_dead_stable_version_costs_no_request_either(tmp_path: Path) -> None:
    with front(new_door(tmp_path, canary=10)) as found:
        with Load(str(found.client.base_url)) as load:
            load.wait_for(200)
            found.upstreams[1].kill()
            load.wait_for(300)
        assert load.failed == {}


def test_without_fallback_a_dead_canary_fails_its_share_and_no_more(tmp_path: Path) -> None:
    with front(new_door(tmp_path, Traffic(fallback=False), canary=30)) as found:
        found.upstreams[2].kill()
        found.management[2].kill()
        statuses = Counter(found.ask().status_code for _ in range(120))
    assert set(statuses) == {200, 503}
    assert 12 < statuses[503] < 66


def test_a_version_whose_worker_died_is_left_out_although_its_server_answers(tmp_path: Path) -> None:
    with front(new_door(tmp_path, canary=50)) as found:
        found.management[2].described = LOADING
        eventually(lambda: {found.version_of() for _ in range(20)} == {1})
        found.management[2].described = READY
        eventually(lambda: {found.version_of() for _ in range(20)} == {1, 2})


def test_errors_of_a_version_are_passed_on_once_and_do_not_take_it_out(tmp_path: Path) -> None:
    with front(new_door(tmp_path, canary=50)) as found:
        found.upstreams[2].status = 500
        statuses = Counter(found.ask().status_code for _ in range(300))
        assert 90 < statuses[500] < 210
        assert statuses[500] == len(found.upstreams[2].predictions()), "none was asked for again"


def test_a_header_names_the_version(tmp_path: Path) -> None:
    with front(new_door(tmp_path, canary=50)) as found:
        for name, version in {"stable": 1, "1": 1, "canary": 2, "2": 2}.items():
            assert {found.version_of(x_serinus_version=name) for _ in range(10)} == {version}
        answer = found.ask(x_serinus_version="3")
        assert (answer.status_code, set(answer.json())) == (404, {"error"})
        found.weights(0)
        assert found.version_of(x_serinus_version="canary") == 2, "it is up, and waits"
        assert {found.version_of() for _ in range(50)} == {1}


def test_a_shadow_gets_copies_that_say_so_and_nobody_waits_for_it(tmp_path: Path) -> None:
    with front(new_door(tmp_path, canary=0, shadow=25)) as found:
        found.upstreams[2].seconds = 0.2
        started = time.monotonic()
        assert {found.version_of() for _ in range(1000)} == {1}
        assert time.monotonic() - started < 30, "250 answers of the shadow alone take 50 s"
        copies = found.upstreams[2].predictions()
        assert 170 < len(copies) < 330
        assert all(each.headers["x-serinus-shadow"] == "true" for each in copies)
        originals = found.upstreams[1].predictions()
        assert len(originals) == 1000
        assert all("x-serinus-shadow" not in each.headers for each in originals)
        shared = {each.headers["x-request-id"] for each in copies} & {
            each.headers["x-request-id"] for each in originals
        }
        assert len(shared) == len(copies)
        found.upstreams[2].kill()
        found.management[2].kill()
        assert {found.version_of() for _ in range(100)} == {1}


def test_sticky_users_stay_where_they_are_and_growth_only_adds(tmp_path: Path) -> None:
    users = [f"user-{number}" for number in range(1000)]
    with front(new_door(tmp_path, Traffic(sticky=Sticky(header="x-user-id")), canary=10)) as found:

        def canary_users() -> set[str]:
            return {user for user in users if found.version_of(x_user_id=user) == 2}

        first = canary_users()
        assert 50 < len(first) < 160
        assert canary_users() == first
        found.weights(30)
        more = canary_users()
        assert first < more
        assert 220 < len(more) < 380
        found.weights(10)
        assert canary_users() == first
        anonymous = Counter(found.version_of() for _ in range(500))
        assert 15 < anonymous[2] < 100, "without the header: at random"

        # Another canary draws other users.
        first_backend, second = found.door.backends
        renamed = (first_backend, second.model_copy(update={"version": 3}))
        found.apply(found.door.model_copy(update={"backends": renamed, "canary": 3}))
        other = canary_users()
        assert 50 < len(other) < 160
        assert len(first & other) < len(first) / 2


def test_a_version_holds_no_more_than_its_limits(tmp_path: Path) -> None:
    limits = Limits(connections=2, requests=4, waiting=2)
    with front(new_door(tmp_path, Traffic(limits=limits))) as found:
        found.upstreams[1].seconds = 0.5
        with ThreadPoolExecutor(12) as pool:
            statuses = Counter(answer.status_code for answer in pool.map(lambda _: found.ask(), range(12)))
        assert statuses == {200: 4, 503: 8}
        assert found.ask().status_code == 200


def test_each_client_has_a_quota_and_is_told_when_to_come_back(tmp_path: Path) -> None:
    quota = Quota(requests=20, per=timedelta(seconds=10))
    with front(new_door(tmp_path, Traffic(quota=quota))) as found:
        before = time.monotonic()
        clients = [{"x_client_id": "one"}, {"x_client_id": "two"}, {}]
        for headers in clients:
            answers = [found.ask(**headers) for _ in range(30)]
            statuses = Counter(answer.status_code for answer in answers)
            assert set(statuses) == {200, 429}
            assert 20 <= statuses[200] <= 20 + 2 * (time.monotonic() - before) + 1, "and what came in meanwhile"
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert "20 requests in 10s" in refused.json()["error"]
        assert 1 <= int(refused.headers["retry-after"]) <= 10
        assert found.client.get("/v2/health/ready").status_code == 200
        assert {found.client.get("/v2/models/tiny").status_code for _ in range(40)} == {200}
        again = int(refused.headers["retry-after"])
        eventually(lambda: found.ask(x_client_id="one").status_code == 200, again + 1)
        registry = CollectorRegistry()
        registry.register(DoorCollector(found.door.admin, "tiny"))
        used = {
            result: registry.get_sample_value(
                "serinus_quota_requests_total", {"model": "tiny", "version": "", "result": result}
            )
            for result in ("allowed", "refused")
        }
        assert used["allowed"] == len(found.upstreams[1].predictions())
        assert sum(value or 0 for value in used.values()) >= 90
        assert list(DoorCollector(tmp_path / "nobody", "tiny").collect()) == []
        seen = len(found.upstreams[1].predictions())
        found.weights(50)  # a change of weights gives nobody a fresh quota
        assert Counter(found.ask(x_client_id="two").status_code for _ in range(10))[200] < 10
        assert len(found.upstreams[1].predictions()) - seen <= 10


def test_a_deadline_bounds_the_answer_and_travels_on(tmp_path: Path) -> None:
    with front(new_door(tmp_path, canary=50)) as found:
        assert found.ask(x_request_timeout_ms="1500").json()["headers"]["x-envoy-expected-rq-timeout-ms"] == "1500"
        for nonsense in ("0", "-5", "soon", "1.5", "", "999999999"):
            headers = found.ask(x_request_timeout_ms=nonsense).json()["headers"]
            assert headers["x-envoy-expected-rq-timeout-ms"] == "6000", "the predictor's own, and a second"
        for upstream in found.upstreams.values():
            upstream.seconds = 1
        started = time.monotonic()
        answer = found.ask(x_request_timeout_ms="200")
        assert (answer.status_code, set(answer.json())) == (504, {"error"})
        assert 0.19 < time.monotonic() - started < 0.9


@pytest.mark.parametrize("held", [0.05, 0.6])
def test_told_to_end_the_door_turns_clients_away_first_and_answers_all_it_took(tmp_path: Path, held: float) -> None:
    drain = Drain(notice=timedelta(seconds=1), limit=timedelta(seconds=5))
    door = new_door(tmp_path, Traffic(drain=drain), canary=20)
    with front(door) as found:
        found.process.kill()
        found.process.wait()
        entry = start_as_supervised(found.door, tmp_path)
        try:
            eventually(lambda: listens(str(found.client.base_url)), 20)
            for upstream in found.upstreams.values():
                upstream.seconds = held
                upstream.received.clear()
                upstream.answered = 0
            with Load(str(found.client.base_url), clients=16) as load:
                load.wait_for(60)
                entry.send_signal(signal.SIGTERM)
                eventually(lambda: not_ready(str(found.client.base_url)), 1.0, interval=0.01)
                seen = load.total
                load.wait_for(16)
                assert load.total > seen, "it still takes requests"
                assert entry.wait(20) == 0
            assert (load.failed, load.broken) == ({}, {})
            assert load.total == sum(each.answered for each in found.upstreams.values())
            with pytest.raises(httpx.ConnectError):
                httpx.get(str(found.client.base_url))
        finally:
            entry.kill()
            entry.wait()


def start_as_supervised(door: Door, tmp_path: Path) -> subprocess.Popen[bytes]:
    """Envoy as `serinus up` starts it: through the entry that drains it."""
    drain = door.traffic.drain
    order = Order(str(door.admin), drain.notice.total_seconds(), drain.limit.total_seconds())
    Launch(command=command(door), environment={}, drain=order).write(tmp_path / "launch.json")
    arguments = [sys.executable, "-P", "-m", "serinus.serve.entry", str(tmp_path / "launch.json")]
    with (tmp_path / "entry.log").open("wb") as words:
        return subprocess.Popen(arguments, stderr=words)


def not_ready(address: str) -> bool:
    return httpx.get(f"{address}/v2/health/ready").status_code == 503


def test_envoy_and_its_parent_never_outlive_each_other(tmp_path: Path) -> None:
    door = new_door(tmp_path)
    envoy_admin.write(door)
    address = f"http://127.0.0.1:{door.port}"
    for end in ("parent", "child"):
        entry = start_as_supervised(door, tmp_path)
        try:
            eventually(lambda: listens(address), 20)
            (child,) = psutil.Process(entry.pid).children()
            (entry if end == "parent" else child).kill()
            assert entry.wait(10) in (-signal.SIGKILL, 256 - signal.SIGKILL)
            eventually(lambda child=child: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
            assert eventually(lambda: is_free(door.port)), "a successor finds it"
        finally:
            entry.kill()
            entry.wait()


def test_told_twice_the_door_ends_at_once(tmp_path: Path) -> None:
    drain = Drain(notice=timedelta(seconds=30), limit=timedelta(seconds=30))
    door = new_door(tmp_path, Traffic(drain=drain))
    envoy_admin.write(door)
    entry = start_as_supervised(door, tmp_path)
    try:
        eventually(lambda: listens(f"http://127.0.0.1:{door.port}"), 20)
        entry.send_signal(signal.SIGTERM)
        eventually(lambda: "not ready any more" in (tmp_path / "entry.log").read_text())
        entry.send_signal(signal.SIGTERM)
        assert entry.wait(10) == 0
    finally:
        entry.kill()
        entry.wait()


def test_what_comes_by_the_port_for_copies_is_marked_counted_apart_and_nothing_but_predictions(tmp_path: Path) -> None:
    wanted = new_door(tmp_path, canary=0).model_copy(update={"copies_port": free_ports(1)[0]})
    with front(wanted) as found:
        copies = f"http://127.0.0.1:{wanted.copies_port}"
        eventually(lambda: httpx.post(f"{copies}/v2/models/tiny/infer", json={}).status_code == 200, 20)
        assert httpx.post(f"{copies}/predictions/tiny", json={}).json()["name"] == "1"
        for path in ("/metrics", "/v2", "/v1/outcomes"):
            assert httpx.get(f"{copies}{path}").status_code == 404
        found.ask()
        received = found.upstreams[1].received
        marked = [each for each in received if each.headers.get("x-serinus-shadow") == "true"]
        assert len(marked) == len(received) - 1, "all but the one that came by the front port"
        totals = read_totals(wanted.admin, "tiny")
        assert totals.attempts[Attempts(1, SHADOW, "ok")] == len(marked)
        eventually(lambda: read_totals(wanted.admin, "tiny").attempts[Attempts(1, LIVE, "ok")] == 1, 10)
        assert read_totals(wanted.admin, "tiny").routed == {1: 1}
