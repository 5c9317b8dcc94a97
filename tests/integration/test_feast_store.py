"""Feast with duckdb and SQLite: what is written is joined as it was known, and served as it is known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serinus.core.errors import InvalidData, InvalidInput, NotFound
from serinus.core.platform import Platform
from serinus.core.times import Interval
from serinus.engines.feast import FeatureStore

START = datetime(2024, 1, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
TTL = 3 * HOUR
ALL = Interval(since=datetime(1970, 1, 1, tzinfo=UTC), until=datetime(2100, 1, 1, tzinfo=UTC))


def definitions(timestamp_field: str = "known_at") -> ModuleType:
    """A view of two keys that expires, one of one key that does not, a service over both with declared requests."""
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
    from feast.types import Float64, Int64, String

    def source(name: str) -> FileSource:
        return FileSource(name=name, path=name, timestamp_field=timestamp_field)

    module: Any = ModuleType("features")
    module.shop = Entity(name="shop", value_type=ValueType.STRING)
    module.city = Entity(name="city", value_type=ValueType.STRING)
    module.queue = FeatureView(
        name="queue",
        entities=[module.shop, module.city],
        ttl=TTL,
        schema=[Field(name="length", dtype=Float64, tags={"min": "0"}), Field(name="staff", dtype=Int64)],
        source=source("queue_hourly"),
    )
    module.place = FeatureView(
        name="place",
        entities=[module.city],
        ttl=None,
        schema=[Field(name="kind", dtype=String)],
        source=source("places"),
    )
    module.request = RequestSource(
        name="asked", schema=[Field(name="city", dtype=String), Field(name="basket", dtype=Int64)]
    )
    module.service = FeatureService(name="waits", features=[module.queue, module.place], tags={"request": "asked"})
    module.plain = FeatureService(name="plain", features=[module.queue[["staff"]]])
    return module  # type: ignore[no-any-return]


def queue(*rows: tuple[str, str, datetime, float | None, int | None]) -> pd.DataFrame:
    """Rows (shop, city, known_at, length, staff), each true an hour before it was known."""
    frame = pd.DataFrame(rows, columns=["shop", "city", "known_at", "length", "staff"])
    frame["known_at"] = pd.to_datetime(frame["known_at"], utc=True)
    return frame.assign(
        happened_at=frame["known_at"] - HOUR, length=frame["length"].astype(float), staff=frame["staff"].astype(float)
    )


def places(*rows: tuple[str, str | None]) -> pd.DataFrame:
    moment = pd.Timestamp("2000-01-01", tz="UTC")
    frame = pd.DataFrame(rows, columns=["city", "kind"])
    return frame.assign(happened_at=moment, known_at=moment)


def asked(*rows: tuple[str, str | None, str, datetime]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["id", "shop", "city", "event_timestamp"])
    frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], utc=True)
    return frame


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    made = FeatureStore.open(Platform.local(tmp_path / "state"), "waits-project")
    made.apply(definitions())
    return made


def online(store: FeatureStore, view: str, **keys: str) -> tuple[datetime | None, dict[str, Any]]:
    """What the online store holds for a key: the event time and the values, missing ones None."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    views, config, engine = store.online_views([view])
    key = EntityKey(join_keys=list(keys), entity_values=[Value(string_val=value) for value in keys.values()])
    moment, values = engine.online_read(config, views[view], [key])[0]
    read = {}
    for name, value in (values or {}).items():
        kind = value.WhichOneof("val")
        read[name] = None if kind is None else getattr(value, kind)
    return moment, read


def test_the_boundaries_of_a_value_s_life(store: FeatureStore) -> None:
    known = START + 5 * HOUR
    store.write_offline("queue_hourly", queue(("a", "x", known, 7.0, 2), ("b", "x", known, None, None)), ALL)
    store.write_offline("places", places(("x", "port")), ALL)
    second = timedelta(seconds=1)
    rows = asked(
        ("late", "a", "x", known + TTL + second),
        ("last", "a", "x", known + TTL),
        ("first", "a", "x", known),
        ("early", "a", "x", known - second),
        ("missing", "b", "x", known),
        ("stranger", "z", "y", known),
        ("nameless", None, "x", known),
    )
    table = store.historical("waits", rows)
    assert table.column_names == [*rows.columns, "queue__length", "queue__staff", "place__kind"]
    assert table["id"].to_pylist() == list(rows["id"])
    assert table["queue__length"].to_pylist() == [None, 7.0, 7.0, None, None, None, None]
    assert table["queue__staff"].to_pylist() == [None, 2, 2, None, None, None, None]
    assert table["place__kind"].to_pylist() == ["port"] * 5 + [None, "port"]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureStore, pd.DataFrame]:
    """Three shops over three months with gaps, and the rows that were written."""
    made = FeatureStore.open(Platform.local(tmp_path_factory.mktemp("many") / "state"), "many")
    made.apply(definitions())
    draw = np.random.default_rng(5)
    hours = np.sort(draw.choice(24 * 40, size=600, replace=False))
    rows = [(shop, "x", START + int(hour) * HOUR, float(hour), int(hour)) for hour in hours for shop in "abc"]
    frame = queue(*(row for row in rows if draw.random() < 0.7))
    made.write_offline("queue_hourly", frame, ALL)
    made.write_offline("places", places(("x", "port")), ALL)
    return made, frame


@settings(max_examples=8)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 40 * 24 * 60 - 1)), min_size=1, max_size=60, unique=True)
)
def test_the_join_is_the_newest_row_that_was_known_and_is_not_too_old(
    many: tuple[FeatureStore, pd.DataFrame], wanted: list[tuple[str, int]]
) -> None:
    store, frame = many
    rows = asked(*((f"{s}{m}", s, "x", START + timedelta(minutes=m)) for s, m in wanted))
    table = store.historical("waits", rows)
    expected = []
    for row in rows.to_dict("records"):
        now = row["event_timestamp"]
        known = frame[(frame["shop"] == row["shop"]) & (frame["known_at"] <= now) & (frame["known_at"] >= now - TTL)]
        expected.append(None if known.empty else known.loc[known["known_at"].idxmax(), "length"])
    assert table["id"].to_pylist() == list(rows["id"])
    assert table["queue__length"].to_pylist() == expected


def test_the_same_key_at_the_same_time_is_answered_twice(many: tuple[FeatureStore, pd.DataFrame]) -> None:
    store, frame = many
    now = frame["known_at"].iloc[0].to_pydatetime()
    table = store.historical("waits", asked(("one", "a", "x", now), ("two", "a", "x", now)))
    first, second = table["queue__length"].to_pylist()
    assert first == second


def test_writing_an_interval_replaces_it_and_nothing_else(store: FeatureStore) -> None:
    days = [Interval(since=START + timedelta(days=n), until=START + timedelta(days=n + 1)) for n in range(4)]
    for number, day in enumerate(days):
        store.write_offline("queue_hourly", queue(("a", "x", day.since, float(number), 1)), day)
    folder = store.offline / "queue_hourly"
    assert sorted(path.name for path in folder.iterdir()) == ["2024-01.parquet", "2024-02.parquet"]
    before = store.read_offline("queue_hourly")
    for number, day in enumerate(days):  # again, as after a crash
        store.write_offline("queue_hourly", queue(("a", "x", day.since, float(number), 1)), day)
    assert store.read_offline("queue_hourly").equals(before)
    store.write_offline("queue_hourly", queue(), days[1])
    assert store.read_offline("queue_hourly")["length"].to_pylist() == [0.0, 2.0, 3.0]
    assert store.read_offline("queue_hourly", Interval(since=days[0].since, until=days[2].since)).num_rows == 1


def test_rows_must_lie_in_their_interval_and_fit_their_view(store: FeatureStore) -> None:
    day = Interval(since=START, until=START + timedelta(days=1))
    good = queue(("a", "x", START, 1.0, 1))
    with pytest.raises(InvalidData, match="outside"):
        store.write_offline("queue_hourly", good, Interval(since=day.until, until=day.until + HOUR))
    with pytest.raises(InvalidData, match=r"queue_hourly lacks staff and has unknown people"):
        store.write_offline("queue_hourly", good.rename(columns={"staff": "people"}), day)
    with pytest.raises(InvalidData, match="do not fit"):
        store.write_offline("queue_hourly", good.assign(staff=["many"]), day)
    with pytest.raises(InvalidData, match=r"no feature view reads source 'queues'.*places, queue_hourly"):
        store.write_offline("queues", good, day)
    assert store.read_offline("queue_hourly").num_rows == 0


def test_a_join_says_what_is_not_there(store: FeatureStore) -> None:
    rows = asked(("one", "a", "x", START))
    with pytest.raises(InvalidData, match="source queue_hourly has no rows"):
        store.historical("waits", rows)
    store.write_offline("queue_hourly", queue(("a", "x", START, 1.0, 1)), ALL)
    with pytest.raises(InvalidData, match="lack city"):
        store.historical("plain", rows.drop(columns="city"))
    with pytest.raises(NotFound, match="nowhere"):
        store.historical("nowhere", rows)


def test_a_signature_says_what_the_service_and_the_request_give(store: FeatureStore) -> None:
    fields = pa.schema([("basket", pa.int64()), ("price", pa.float64()), ("coupon", pa.bool_()), ("day", pa.string())])
    found = store.signature("waits", "model", fields)
    assert [(each.name, each.kind, each.dtype, each.view) for each in found.columns] == [
        ("city", "category", "String", None),
        ("basket", "number", "Int64", None),
        ("queue__length", "number", "Float64", "queue"),
        ("queue__staff", "number", "Int64", "queue"),
        ("place__kind", "category", "String", "place"),
    ]
    assert found.join_keys == {"shop": "String", "city": "String"}
    assert [(each.name, each.join_keys, each.ttl) for each in found.views] == [
        ("queue", ("shop", "city"), TTL),
        ("place", ("city",), None),
    ]
    inferred = store.signature("plain", "model", fields)
    assert [(each.name, each.kind, each.dtype) for each in inferred.columns] == [
        ("basket", "number", "Int64"),
        ("price", "number", "Float64"),
        ("coupon", "number", "Bool"),
        ("day", "category", "String"),
        ("queue__staff", "number", "Int64"),
    ]


def test_definitions_are_registered_once_and_again_when_they_change(store: FeatureStore) -> None:
    registry = Path(store.platform.feast_registry)
    before = registry.stat().st_mtime_ns
    store.apply(definitions())
    assert registry.stat().st_mtime_ns == before
    changed: Any = definitions()
    changed.queue.ttl = 5 * HOUR
    store.apply(changed)
    assert FeatureStore.open(store.platform, "waits-project").view("queue_hourly").ttl == 5 * HOUR


def test_definitions_that_cannot_be_joined_are_refused(tmp_path: Path) -> None:
    fresh = FeatureStore.open(Platform.local(tmp_path), "waits")
    with pytest.raises(NotFound, match="no features are registered"):
        fresh.sources()
    with pytest.raises(InvalidInput, match=r"joins on 'happened_at'.*known_at"):
        fresh.apply(definitions(timestamp_field="happened_at"))
    with pytest.raises(InvalidInput, match="defines no feature view"):
        fresh.apply(ModuleType("empty"))
    assert not Path(fresh.platform.feast_registry).exists()


def test_the_newest_row_of_each_key_goes_online(store: FeatureStore) -> None:
    rows = queue(("a", "x", START + HOUR, 2.0, None), ("a", "x", START, 1.0, 1), ("b", "x", START, 3.0, 2**40))
    assert store.write_online({"queue_hourly": rows, "places": places(("x", None))}) == 3
    assert online(store, "queue", shop="a", city="x") == (START + HOUR, {"length": 2.0, "staff": None})
    assert online(store, "queue", shop="b", city="x") == (START, {"length": 3.0, "staff": 2**40})
    assert online(store, "place", city="x")[1] == {"kind": None}
    assert online(store, "queue", shop="c", city="x") == (None, {})


def test_moments_written_one_by_one_show_what_was_known_at_each(store: FeatureStore) -> None:
    rows = queue(
        ("a", "x", START + HOUR, 2.0, None),
        ("a", "x", START, 0.0, 0),
        ("a", "x", START, 1.0, 1),  # known at the same moment, and later in the file
        ("b", "x", START, None, 7),
        ("b", "x", START + 2 * HOUR, 9.0, 9),
    )
    store.write_offline("queue_hourly", rows, ALL)
    store.write_offline("places", places(("x", "shop")), ALL)
    first, second = store.ticks(Interval(since=START, until=START + 2 * HOUR))
    assert (first.moment, second.moment) == (START, START + HOUR)
    assert store.write_tick(first) == 2
    assert online(store, "queue", shop="a", city="x") == (START, {"length": 1.0, "staff": 1})
    assert online(store, "queue", shop="b", city="x") == (START, {"length": None, "staff": 7})
    assert store.write_tick(second) == 1
    assert online(store, "queue", shop="a", city="x") == (START + HOUR, {"length": 2.0, "staff": None})
    assert online(store, "queue", shop="b", city="x")[0] == START
    # The store counts as filled to the end of the series from its first moment on: going back empties it.
    assert store.materialize(START - HOUR) == 1
    assert online(store, "queue", shop="a", city="x") == (None, {})
    assert store.ticks(Interval(since=START + 5 * HOUR, until=START + 6 * HOUR)) == []


def test_a_row_of_missing_values_replaces_what_was_online(store: FeatureStore) -> None:
    store.write_online({"queue_hourly": queue(("a", "x", START, 1.0, 1))})
    store.write_online({"queue_hourly": queue(("a", "x", START + HOUR, None, None))})
    assert online(store, "queue", shop="a", city="x") == (START + HOUR, {"length": None, "staff": None})


def test_materializing_gives_what_was_known_even_going_back(store: FeatureStore) -> None:
    rows = queue(*(("a", "x", START + n * HOUR, float(n), n) for n in range(5)), ("b", "x", START + 3 * HOUR, 9.0, 9))
    store.write_offline("queue_hourly", rows, ALL)
    assert store.materialize(START + 4 * HOUR) == 2
    assert online(store, "queue", shop="a", city="x")[1] == {"length": 4.0, "staff": 4}
    assert store.materialize(START + 2 * HOUR) == 1
    assert online(store, "queue", shop="a", city="x") == (START + 2 * HOUR, {"length": 2.0, "staff": 2})
    assert online(store, "queue", shop="b", city="x") == (None, {})  # not known yet


def test_online_and_offline_agree(many: tuple[FeatureStore, pd.DataFrame]) -> None:
    store, frame = many
    now = (frame["known_at"].max() - pd.Timedelta("200h30min")).to_pydatetime()
    store.materialize(now)
    table = store.historical("waits", asked(*((shop, shop, "x", now) for shop in "abc"))).to_pylist()
    for row in table:
        moment, values = online(store, "queue", shop=row["shop"], city="x")
        assert moment is not None
        fresh = moment >= now - TTL
        assert row["queue__length"] == (values["length"] if fresh else None)
