"""The batched lookup against real online stores: the same values as Feast's own reads and joins, whatever the batch."""

from __future__ import annotations

import math
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from serinus.core.errors import InvalidInput
from serinus.core.platform import Platform
from serinus.core.serving import ServingConfig
from serinus.core.signature import Signature
from serinus.core.times import Interval
from serinus.engines.feast import FeatureStore
from serinus.serve.fields import microseconds
from serinus.serve.freshness import State
from serinus.serve.handler import online_source
from serinus.serve.lookup import LookedUp, Lookup
from serinus.serve.reader import OnlineSource
from tests import support_redis
from tests import support_serving as toy
from tests.support import eventually


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    return toy.platform(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def signature(where: Platform) -> Signature:
    return toy.signature(where)


KEYS = {"origin": ["JFK", "LGA", "XXX", "JFK"], "carrier": ["AA", "B6", "AA", "UA"], "plane": [1, 2**40, 5, 1]}


def read(lookup: Lookup, keys: dict[str, list[Any]], moment: datetime = toy.NOW) -> LookedUp:
    rows = len(next(iter(keys.values())))
    return lookup.read(keys, np.full(rows, microseconds(moment), dtype=np.int64))


def plain(found: LookedUp) -> dict[str, list[Any]]:
    return {
        name: [None if value is None or value != value else value for value in values.tolist()]
        for name, values in found.columns.items()
    }


EXPECTED = {
    "hourly__delay": [1.5, -2.0, None, 1.5],
    "hourly__flights": [11.0, 12.0, None, 11.0],
    "daily__rate": [float(np.float32(0.1)), 0.25, float(np.float32(0.1)), None],
    "daily__tier": ["full", "low", "full", None],
    "route__delay": [3.25, None, None, None],
    "planes__seats": [180.0, 20.0, None, 180.0],
    "planes__jet": [1.0, 0.0, None, 1.0],
    "planes__maker": ["AIRBUS", "CESSNA", None, "AIRBUS"],
}


def test_every_view_key_and_type_is_read(where: Platform, signature: Signature) -> None:
    lookup = Lookup(signature, toy.config(where), online_source(toy.config(where), signature))
    found = read(lookup, KEYS)
    assert plain(found) == EXPECTED
    assert found.states["hourly"].tolist() == [State.PRESENT, State.PRESENT, State.ABSENT, State.PRESENT]
    assert found.known_at["route"][0] == microseconds(toy.NOW - toy.HOUR)
    lookup.close()


def test_the_values_are_those_of_feasts_own_read(where: Platform, signature: Signature) -> None:
    import feast

    _, feast_config, _ = FeatureStore.open(where, toy.PROJECT).online_views([])
    store = feast.FeatureStore(config=feast_config)
    entities = [dict(zip(KEYS, values, strict=True)) for values in zip(*KEYS.values(), strict=True)]
    served = store.get_online_features(store.get_feature_service("delays"), entities, full_feature_names=True).to_dict()
    lookup = Lookup(signature, toy.config(where), online_source(toy.config(where), signature))
    assert plain(read(lookup, KEYS)) == {name: served[name] for name in EXPECTED}
    lookup.close()


def test_an_online_value_is_served_exactly_when_the_point_in_time_join_gives_it(
    tmp_path: Path, signature: Signature
) -> None:
    where = toy.platform(tmp_path)
    store = FeatureStore.open(where, toy.PROJECT)
    whole = Interval(since=toy.NOW - timedelta(days=60), until=toy.NOW + timedelta(days=1))
    for source, frame in toy.rows().items():
        store.write_offline(source, frame, whole)
    tick = timedelta(microseconds=1)
    offsets = [-2 * toy.HOUR, -tick, timedelta(0), tick, toy.HOUR - tick, toy.HOUR, toy.HOUR + tick, 23 * toy.HOUR]
    moments = [toy.NOW + offset for offset in offsets]
    entities = [(origin, moment) for origin in ("JFK", "LGA", "EWR", "BOS") for moment in moments]
    frame = pd.DataFrame(
        {
            "event_timestamp": pd.DatetimeIndex([moment for _, moment in entities]).as_unit("us"),
            "origin": [origin for origin, _ in entities],
            "carrier": "AA",
            "plane": 1,
        }
    )
    joined = store.historical("delays", frame)
    lookup = Lookup(signature, toy.config(where), online_source(toy.config(where), signature))
    keys = {name: frame[name].tolist() for name in ("origin", "carrier", "plane")}
    found = plain(lookup.read(keys, np.array([microseconds(moment) for _, moment in entities])))
    expected = {name: joined[name].to_pylist() for name in EXPECTED}
    assert found == {
        name: [None if value is None or value != value else value for value in values]
        for name, values in expected.items()
    }
    assert 0 < sum(value is None for value in found["hourly__delay"]) < len(entities)
    lookup.close()


class Counting:
    """The real store behind a door that counts, and that can be shut."""

    def __init__(self, source: OnlineSource) -> None:
        self.source = source
        self.reads: list[tuple[str, int]] = []
        self.broken = False
        self.open = threading.Event()
        self.open.set()

    def online_read(self, config: Any, table: Any, entity_keys: list[Any], features: list[str]) -> Any:
        self.reads.append((table.name, len(entity_keys)))
        self.open.wait()
        if self.broken:
            raise ConnectionError("connection refused")
        answer = self.source.store.online_read(config, table, entity_keys, features)
        features.append("what Redis does")
        return answer

    def connect(self) -> OnlineSource:
        return OnlineSource(self, self.source.config, self.source.views)  # type: ignore[arg-type]


@pytest.fixture
def counting(where: Platform, signature: Signature) -> Counting:
    return Counting(online_source(toy.config(where), signature)())


def counted(counting: Counting, signature: Signature, serving: ServingConfig) -> Lookup:
    return Lookup(signature, serving, counting.connect)


def test_each_distinct_key_is_read_once_and_each_view_once(
    where: Platform, signature: Signature, counting: Counting
) -> None:
    lookup = counted(counting, signature, toy.config(where))
    read(lookup, {name: values * 10 for name, values in KEYS.items()})
    assert sorted(counting.reads) == [("daily", 3), ("hourly", 3), ("planes", 3), ("route", 4)]
    read(lookup, KEYS)
    assert len(counting.reads) == 8, "time is the request's: nothing is cached"
    lookup.close()


def test_rows_are_cached_for_a_bounded_time_and_judged_anew(
    where: Platform, signature: Signature, counting: Counting
) -> None:
    serving = toy.config(where, clock="wall", cache_age=timedelta(seconds=0.2))
    lookup = counted(counting, signature, serving)
    assert (read(lookup, KEYS).cache_hits, len(counting.reads)) == (0, 4)
    again = read(lookup, KEYS)
    assert (again.cache_hits, again.cache_misses, len(counting.reads)) == (13, 0, 4)
    assert plain(again) == EXPECTED
    late = read(lookup, KEYS, toy.NOW + timedelta(hours=20))
    assert late.states["hourly"].tolist() == [State.STALE, State.STALE, State.ABSENT, State.STALE]
    read(lookup, {"origin": ["EWR"], "carrier": ["AA"], "plane": [1]})
    assert counting.reads[4:] == [("hourly", 1), ("route", 1)]
    assert eventually(lambda: read(lookup, KEYS).cache_misses)
    lookup.close()


@pytest.mark.parametrize("fields", [{"cache_age": timedelta(0)}, {"cache_rows": 0}])
def test_the_cache_can_be_turned_off(
    where: Platform, signature: Signature, counting: Counting, fields: dict[str, Any]
) -> None:
    lookup = counted(counting, signature, toy.config(where, clock="wall", **fields))
    read(lookup, KEYS)
    read(lookup, KEYS)
    assert len(counting.reads) == 8
    lookup.close()


def test_a_store_that_fails_follows_the_policy_and_is_used_again_when_it_is_back(
    where: Platform, signature: Signature, counting: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    lookup = counted(counting, signature, toy.config(where, {"views": {"hourly": {"onMissing": "reject"}}}))
    counting.broken = True
    for _ in range(3):
        found = read(lookup, KEYS)
        assert found.failed_reads == 4
        assert set(found.states["daily"].tolist()) == {State.UNAVAILABLE}
        assert all(value is None for values in plain(found).values() for value in values)
        assert {row: error.status for row, error in found.errors.items()} == dict.fromkeys(range(4), 503)
    counting.broken = False
    assert plain(read(lookup, KEYS)) == EXPECTED
    assert [record.message for record in caplog.records if record.name == "serinus.serve.reader"] == [
        "online store: view hourly: ConnectionError: connection refused; answers follow the feature policy",
        "online store: reads succeed again",
    ]
    lookup.close()


def test_nobody_waits_longer_than_the_timeout_for_a_store_that_hangs(
    where: Platform, signature: Signature, counting: Counting
) -> None:
    lookup = counted(counting, signature, toy.config(where, lookup_timeout=timedelta(seconds=0.2)))
    counting.open.clear()
    assert read(lookup, KEYS).failed_reads == 4
    reads = len(counting.reads)
    assert read(lookup, KEYS).failed_reads == 4, "at once, while the first read hangs"
    assert len(counting.reads) == reads
    counting.open.set()
    assert eventually(lambda: plain(read(lookup, KEYS)) == EXPECTED)
    lookup.close()


def test_a_client_in_a_hurry_waits_no_longer_and_does_not_cost_others_their_features(
    where: Platform, signature: Signature, counting: Counting
) -> None:
    lookup = counted(counting, signature, toy.config(where, lookup_timeout=timedelta(seconds=5)))
    moments = np.full(4, microseconds(toy.NOW), dtype=np.int64)
    counting.open.clear()
    started = time.monotonic()
    assert lookup.read(KEYS, moments, 0.05).failed_reads == 4
    assert lookup.read(KEYS, moments, 0.0).failed_reads == 4
    assert time.monotonic() - started < 2
    threading.Timer(0.2, counting.open.set).start()
    found = lookup.read(KEYS, moments)
    assert (plain(found), found.failed_reads) == (EXPECTED, 0), "it waited for the read that the first one gave up"
    lookup.close()


def test_a_store_that_never_comes_back_is_left_behind(
    where: Platform, signature: Signature, counting: Counting
) -> None:
    stuck = counting.connect()
    healthy = online_source(toy.config(where), signature)
    sources = iter([lambda: stuck])
    lookup = Lookup(
        signature, toy.config(where, lookup_timeout=timedelta(seconds=0.02)), lambda: next(sources, healthy)()
    )
    counting.open.clear()
    assert read(lookup, KEYS).failed_reads == 4
    assert eventually(lambda: plain(read(lookup, KEYS)) == EXPECTED)
    counting.open.set()
    lookup.close()


def test_a_view_that_lost_its_join_key_is_told_before_any_request(
    where: Platform, signature: Signature, counting: Counting
) -> None:
    less = Signature.model_validate(signature.model_dump() | {"join_keys": {"origin": "String", "carrier": "String"}})
    with pytest.raises(InvalidInput, match="feature view planes is joined on plane"):
        counted(counting, less, toy.config(where))


def test_a_value_of_another_type_fails_its_own_entity_only(
    where: Platform, signature: Signature, counting: Counting
) -> None:
    columns = [
        column.model_copy(update={"dtype": "String", "kind": "category"}) if column.name == "hourly__delay" else column
        for column in signature.columns
    ]
    other = Signature.model_validate(signature.model_dump() | {"columns": columns})
    lookup = counted(counting, other, toy.config(where))
    states = read(lookup, KEYS).states
    assert states["hourly"].tolist() == [State.UNAVAILABLE, State.UNAVAILABLE, State.ABSENT, State.UNAVAILABLE]
    assert states["daily"].tolist() == [State.PRESENT, State.PRESENT, State.PRESENT, State.PRESENT]
    lookup.close()


def test_redis_gives_the_same(tmp_path: Path, signature: Signature) -> None:
    with support_redis.running(tmp_path) as redis:
        where = support_redis.platform(tmp_path / "state", redis.port)
        FeatureStore.open(where, toy.PROJECT).apply(toy.definitions())
        toy.write_online(where, toy.rows())
        lookup = Lookup(signature, toy.config(where), online_source(toy.config(where), signature))
        for _ in range(2):
            assert plain(read(lookup, KEYS)) == EXPECTED
        lookup.close()


def test_keys_beyond_one_statement_are_read_in_parts(where: Platform, signature: Signature) -> None:
    config = toy.config(where, lookup_timeout=timedelta(seconds=60))
    lookup = Lookup(signature, config, online_source(config, signature))
    count = 40_000
    planes = [1, *range(10, count + 9)]
    found = read(lookup, {"origin": ["JFK"] * count, "carrier": ["AA"] * count, "plane": planes})
    assert found.failed_reads == 0
    assert found.columns["planes__seats"][0] == 180
    assert math.isnan(found.columns["planes__seats"][-1])
    lookup.close()


def test_a_key_that_nobody_knows_is_not_looked_up(where: Platform, signature: Signature, counting: Counting) -> None:
    lookup = counted(counting, signature, toy.config(where, clock="wall"))
    unknown = {name: [None] * len(values) for name, values in KEYS.items()}
    looked = read(lookup, unknown)
    assert counting.reads == []
    assert (looked.cache_hits, looked.cache_misses, looked.errors) == (0, 0, {})
    assert all(state == State.ABSENT for states in looked.states.values() for state in states)
