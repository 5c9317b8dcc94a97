"""The direct way into Redis gives what Feast's own `online_read` gives, whatever Redis holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import redis as client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serinus.core.platform import Platform
from serinus.core.signature import Signature
from serinus.engines import feast_redis
from serinus.engines.feast import FeatureStore
from serinus.engines.feast_redis import RedisRows
from serinus.serve.fields import microseconds
from serinus.serve.freshness import State
from serinus.serve.handler import online_source
from serinus.serve.lookup import LookedUp, Lookup
from serinus.serve.reader import OnlineSource
from tests import support_redis
from tests import support_serving as toy

KEYS: dict[str, list[Any]] = {
    "origin": ["JFK", "LGA", "XXX", "JFK", "EWR"],
    "carrier": ["AA", "B6", "AA", "UA", "UA"],
    "plane": [1, 2**40, 5, 1, -(2**62)],
}


class Ways(NamedTuple):
    """Both ways to the same Redis."""

    where: Platform
    raw: client.Redis
    source: OnlineSource
    direct: Lookup
    feasts: Lookup

    def read(self) -> list[LookedUp]:
        moments = np.full(len(KEYS["origin"]), microseconds(toy.NOW), dtype=np.int64)
        return [lookup.read(KEYS, moments) for lookup in (self.direct, self.feasts)]

    def stored(self, view: str, row: int) -> bytes:
        """Where Feast keeps a row."""
        (name,) = [name for name in (self.direct._views) if name.name == view]
        (key,) = self.source.store._generate_redis_keys_for_entities(  # type: ignore[attr-defined]
            self.source.config, [name._proto(name.keys(KEYS, len(KEYS["origin"]))[row])]
        )
        return bytes(key)


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    folder = tmp_path_factory.mktemp("redis")
    with support_redis.running(folder) as redis:
        where = support_redis.platform(folder / "state", redis.port)
        FeatureStore.open(where, toy.PROJECT).apply(toy.definitions())
        signature: Signature = toy.signature(where)
        # Time is the request's, so nothing is cached: each lookup reads.
        config = toy.config(where, lookup_timeout=timedelta(seconds=20))
        connect = online_source(config, signature)
        source = connect()
        assert source.direct is not None
        direct = Lookup(signature, config, connect)
        feasts = Lookup(signature, config, lambda: dataclasses.replace(connect(), direct=None))
        yield Ways(where, client.Redis(port=redis.port), source, direct, feasts)
        direct.close()
        feasts.close()


@pytest.fixture
def filled(ways: Ways) -> Ways:
    ways.raw.flushall()
    toy.write_online(ways.where, toy.rows())
    return ways


def equal(found: LookedUp, other: LookedUp) -> bool:
    arrays = [(found.columns, other.columns), (found.known_at, other.known_at), (found.states, other.states)]
    for ours, theirs in arrays:
        assert ours.keys() == theirs.keys()
        for name, values in ours.items():
            assert values.dtype == theirs[name].dtype
            if values.dtype == object:
                assert values.tolist() == theirs[name].tolist(), name
            else:
                np.testing.assert_array_equal(values, theirs[name], name)
    assert found.failed_reads == other.failed_reads
    assert found.stale == other.stale
    return True


def test_rows_that_are_there_and_rows_that_are_not(filled: Ways) -> None:
    direct, feasts = filled.read()
    assert equal(direct, feasts)
    assert direct.columns["hourly__delay"][0] == 1.5
    assert direct.states["hourly"][2] == State.ABSENT


NUMBERS = st.floats(width=64) | st.sampled_from([0.0, -0.0, 5e-324])
SMALL = st.floats(width=32)
TEXTS = st.none() | st.text(max_size=5).filter(lambda text: "\0" not in text and text.isprintable())
AGES = st.integers(0, 10**13)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(NUMBERS, st.integers(-(2**63), 2**63 - 1), TEXTS, st.booleans(), AGES, SMALL), min_size=2, max_size=2
    )
)
def test_any_values_and_times(ways: Ways, drawn: list[tuple[Any, ...]]) -> None:
    ways.raw.flushall()
    numbers, integers, texts, flags, ages, small = (list(each) for each in zip(*drawn, strict=True))
    times = pd.DatetimeIndex(pd.to_datetime([toy.NOW - timedelta(microseconds=age) for age in ages], utc=True))
    known = {"happened_at": times.as_unit("us"), "known_at": times.as_unit("us")}
    toy.write_online(
        ways.where,
        {
            "hourly": pd.DataFrame({"origin": ["JFK", "LGA"], "delay": numbers, "flights": integers, **known}),
            "daily": pd.DataFrame(
                {"carrier": ["AA", "UA"], "rate": np.array(small, dtype=np.float32), "tier": texts, **known}
            ),
            "planes": pd.DataFrame({"plane": [1, -(2**62)], "seats": integers, "jet": flags, "maker": texts, **known}),
        },
    )
    assert equal(*ways.read())


def test_rows_that_have_lost_a_field(filled: Ways) -> None:
    for view, row in (("hourly", 0), ("daily", 0), ("planes", 0)):
        key = filled.stored(view, row)
        fields = sorted(filled.raw.hkeys(key))
        assert fields
        for name in fields:
            value = filled.raw.hget(key, name)
            filled.raw.hdel(key, name)
            assert equal(*filled.read())
            filled.raw.hset(key, name, value)  # type: ignore[arg-type]


def test_a_key_of_another_kind_fails_its_view_and_no_other(filled: Ways) -> None:
    key = filled.stored("hourly", 0)
    filled.raw.delete(key)
    filled.raw.set(key, "what")
    direct, feasts = filled.read()
    assert equal(direct, feasts)
    assert direct.failed_reads == 1
    assert set(direct.states["hourly"].tolist()) == {State.UNAVAILABLE}
    assert direct.states["planes"][0] == State.PRESENT


def test_bytes_that_feast_did_not_write_cost_their_own_row(filled: Ways) -> None:
    key = filled.stored("hourly", 0)
    for name in filled.raw.hkeys(key):
        filled.raw.hset(key, name, b"\xff\xff")
    direct, _ = filled.read()
    assert direct.states["hourly"].tolist()[:2] == [State.UNAVAILABLE, State.PRESENT]


def test_what_only_feast_knows_is_left_to_feast(
    ways: Ways, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, config = ways.source.store, ways.source.config
    for changed in ({"redis_type": "redis_cluster"}, {"client": "glide"}):
        other: Any = SimpleNamespace(online_store=config.online_store.model_copy(update=changed))
        assert RedisRows.of(store, other) is None
    assert RedisRows.of(object(), config) is None
    monkeypatch.setattr(feast_redis, "FEAST", "0.1")
    assert RedisRows.of(store, config) is None
    assert "slower" in caplog.text
