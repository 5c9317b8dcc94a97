"""On-demand feature views: computed by one code in training and in serving, whatever the store and the batch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serinus.core.errors import InvalidInput
from serinus.core.platform import Platform
from serinus.core.signature import Signature
from serinus.core.times import Interval
from serinus.engines.feast import FeatureStore
from serinus.engines.feast_on_demand import Transform, source_of
from serinus.serve.arrival import Raw
from serinus.serve.fields import microseconds
from serinus.serve.handler import online_source
from serinus.serve.lookup import Lookup
from serinus.training.dataset import build_dataset, read_rows
from serinus.training.ingest import ingest
from serinus.training.project import load_project
from tests import support_redis
from tests import support_serving as toy

FIELDS = {"distance": [1000.5, 20.0, None, 3.0], "hour": [9, 23, 5, None]}
KEYS = {"origin": ["JFK", "LGA", "XXX", "JFK"], "carrier": ["AA", "B6", "AA", "UA"], "plane": [1, 2**40, 5, 1]}
COMPUTED = {
    "slot__share": [1.5 / 11, -2.0 / 12, None, 1.5 / 11],
    "slot__name": ["9 of 11", "23 of 12", "5 of nan", "nan of 11"],
    "size__room": [180 * 1000.5, 400.0, None, 540.0],
    "size__wide": [1.0, 0.0, None, 1.0],
    "one__next": [10.0, 24.0, 6.0, 0.0],
}


def definitions() -> ModuleType:
    """The toy's views, and three that are computed from them and from the request, one in each of Feast's ways."""
    from feast import FeatureService, Field, RequestSource
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Bool, Float64, Int64, String

    module = toy.definitions()
    trip = RequestSource(name="trip", schema=[Field(name="hour", dtype=Int64)])
    length = RequestSource(name="length", schema=[Field(name="distance", dtype=Float64)])

    @on_demand_feature_view(
        sources=[module.hourly, trip], schema=[Field(name="share", dtype=Float64), Field(name="name", dtype=String)]
    )
    def slot(inputs: pd.DataFrame) -> pd.DataFrame:
        found = pd.DataFrame()
        found["share"] = inputs["hourly__delay"] / inputs["flights"]
        found["name"] = inputs["hour"].astype(str) + " of " + inputs["flights"].astype(str)
        return found

    @on_demand_feature_view(
        sources=[module.planes, length],
        schema=[Field(name="room", dtype=Float64), Field(name="wide", dtype=Bool)],
        mode="python",
    )
    def size(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
        def times(seats: int | None, miles: float | None) -> float | None:
            return None if seats is None or miles is None else float(seats * miles)

        seats = inputs["planes__seats"]
        return {
            "room": [times(*pair) for pair in zip(seats, inputs["distance"], strict=True)],
            "wide": [None if each is None else each > 100 for each in seats],
        }

    @on_demand_feature_view(sources=[trip], schema=[Field(name="next", dtype=Int64)], mode="python", singleton=True)
    def one(inputs: dict[str, Any]) -> dict[str, Any]:
        hour = inputs["hour"]
        return {"next": 0 if hour is None else hour + 1}

    module.slot, module.size, module.one = slot, size, one  # type: ignore[attr-defined]
    module.trip, module.length = trip, length  # type: ignore[attr-defined]
    taken = [module.hourly[["delay"]], module.daily, slot, size, one]
    module.computed = FeatureService(name="computed", features=taken)  # type: ignore[attr-defined]
    return module


def fill(where: Platform) -> Platform:
    FeatureStore.open(where, toy.PROJECT).apply(definitions())
    toy.write_online(where, toy.rows())
    return where


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def where(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        yield fill(Platform.local(folder / "state"))
        return
    with support_redis.running(folder) as redis:
        yield fill(support_redis.platform(folder / "state", redis.port))


@pytest.fixture(scope="module")
def signature(where: Platform) -> Signature:
    found = FeatureStore.open(where, toy.PROJECT).signature("computed", toy.MODEL, toy.REQUESTS)
    known = {"daily__tier": ("full", "low"), "terminal": ("A", "B"), "slot__name": ("9 of 11",)}
    columns = [
        column.model_copy(update={"categories": known[column.name]}) if column.kind == "category" else column
        for column in found.columns
    ]
    return Signature.model_validate(found.model_dump() | {"columns": columns})


@pytest.fixture(scope="module")
def lookup(where: Platform, signature: Signature) -> Iterator[Lookup]:
    config = toy.config(where)
    found = Lookup(signature, config, online_source(config, signature))
    yield found
    found.close()


def plain(values: Any) -> list[Any]:
    return [None if value is None or value != value else value for value in values]


def test_the_signature_says_what_is_read_and_what_is_computed(signature: Signature) -> None:
    assert [column.name for column in signature.columns] == [
        *("distance", "hour", "night", "terminal", "hourly__delay", "daily__rate", "daily__tier"),
        *COMPUTED,
    ]
    assert [view.name for view in signature.views] == ["hourly", "daily", "planes"]
    assert [column.name for column in signature.read_columns("hourly")] == ["hourly__delay", "hourly__flights"]
    assert set(signature.join_keys) == {"origin", "carrier", "plane"}
    assert [(spec.name, spec.mode, spec.singleton) for spec in signature.on_demand] == [
        ("slot", "pandas", False), ("size", "python", False), ("one", "python", True),
    ]  # fmt: skip
    assert "on_demand_feature_view" not in signature.on_demand[0].code
    assert signature == Signature.model_validate_json(signature.model_dump_json())


def test_code_is_a_part_of_what_must_agree(signature: Signature) -> None:
    changed = signature.on_demand[0].model_copy(update={"code": signature.on_demand[0].code + "\n"})
    other = signature.model_copy(update={"on_demand": (changed, *signature.on_demand[1:])})
    assert Signature.model_validate(other.model_dump()).schema_digest != signature.schema_digest


def test_values_are_computed_from_what_the_store_has_and_the_request_gives(lookup: Lookup) -> None:
    found = lookup.read(KEYS | FIELDS, np.full(4, microseconds(toy.NOW), dtype=np.int64))
    computed = {name: plain(found.columns[name].tolist()) for name in COMPUTED}
    assert computed == COMPUTED
    assert found.errors == {}


def test_the_values_are_those_of_feasts_own_read(where: Platform, lookup: Lookup) -> None:
    import feast

    _, feast_config, _ = FeatureStore.open(where, toy.PROJECT).online_views([])
    store = feast.FeatureStore(config=feast_config)
    for row in range(2):
        entity = {name: values[row] for name, values in (KEYS | FIELDS).items()}
        served = store.get_online_features(
            ["slot:share", "slot:name", "size:room", "size:wide", "one:next"], [entity]
        ).to_dict()
        found = lookup.read({name: [value] for name, value in entity.items()}, np.array([microseconds(toy.NOW)]))
        ours = {name.partition("__")[2]: found.columns[name].tolist() for name in COMPUTED}
        assert ours == {name: served[name] for name in ours}


def test_what_is_served_is_what_the_point_in_time_join_gives(
    where: Platform, lookup: Lookup, signature: Signature
) -> None:
    store = FeatureStore.open(where, toy.PROJECT)
    whole = Interval(since=toy.NOW - timedelta(days=60), until=toy.NOW + timedelta(days=1))
    for source, frame in toy.rows().items():
        store.write_offline(source, frame, whole)
    tick = timedelta(microseconds=1)
    moments = [toy.NOW + offset for offset in (-2 * toy.HOUR, -tick, timedelta(0), tick, toy.HOUR, toy.HOUR + tick)]
    random = np.random.default_rng(5)
    asked = pd.DataFrame(
        [
            (origin, moment, "AA", plane, hour, distance)
            for origin in ("JFK", "LGA", "EWR", "BOS", "XXX")
            for moment in moments
            for plane, hour, distance in [(1, 9, 1e3), (2**40, 23, None), (7, None, 0.1)]
        ],
        columns=["origin", "event_timestamp", "carrier", "plane", "hour", "distance"],
    ).sample(frac=1, random_state=random)
    asked["event_timestamp"] = pd.DatetimeIndex(asked["event_timestamp"]).as_unit("us")
    asked["hour"] = asked["hour"].astype("Int64")
    joined = store.historical("computed", asked)
    given = {name: plain(asked[name].astype(object).where(asked[name].notna(), None)) for name in [*KEYS, *FIELDS]}
    found = lookup.read(given, np.array([microseconds(moment) for moment in asked["event_timestamp"]]))
    inputs = [column.name for column in signature.columns if column.view]
    assert {name: plain(found.columns[name].tolist()) for name in inputs} == {
        name: plain(joined[name].to_pylist()) for name in inputs
    }
    assert 0 < sum(each is None for each in plain(found.columns["slot__share"].tolist())) < len(asked)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_row_is_computed_alike_in_any_batch(signature: Signature, data: st.DataObject) -> None:
    missing = st.none()
    numbers = st.floats(-1e9, 1e9) | missing
    whole = st.integers(-(2**40), 2**40) | missing
    kinds = {"hourly__delay": numbers, "hourly__flights": whole, "hour": whole, "planes__seats": whole}
    kinds |= {
        "planes__jet": st.booleans() | missing,
        "planes__maker": st.text(max_size=3) | missing,
        "distance": numbers,
    }
    for spec in signature.on_demand:
        row = st.tuples(*(kinds[column.name] for column in spec.inputs))
        rows = data.draw(st.lists(row, min_size=1, max_size=8))

        def columns(of: list[Any], spec: Any = spec) -> dict[str, Any]:
            return {
                column.name: np.array(
                    [each[at] for each in of], dtype=object if column.kind == "category" else np.float64
                )
                for at, column in enumerate(spec.inputs)
            }

        transform = Transform(spec)
        together, errors = transform.apply(columns(rows), len(rows))
        assert errors == {}
        for at, one in enumerate(rows):
            alone, _ = transform.apply(columns([one]), 1)
            assert {name: plain(values)[at] for name, values in together.items()} == {
                name: plain(values)[0] for name, values in alone.items()
            }


def test_a_row_for_which_code_fails_fails_alone(signature: Signature) -> None:
    code = "def slot(inputs):\n    if (inputs['hour'] == 13).any():\n        raise ValueError('no thirteen')\n"
    code += "    return pd.DataFrame({'share': inputs['hour'] * 1.0, 'name': 'x'}, index=inputs.index)"
    transform = Transform(signature.on_demand[0].model_copy(update={"code": code}))
    hours = np.arange(20.0)
    nothing = np.full(20, np.nan)
    found, errors = transform.apply({"hour": hours, "hourly__delay": nothing, "hourly__flights": nothing}, 20)
    assert errors == {13: "ValueError: no thirteen"}
    assert plain(found["slot__share"]) == [None if hour == 13 else hour for hour in hours.tolist()]


def test_a_predictor_answers_with_computed_features(where: Platform, signature: Signature, tmp_path: Path) -> None:
    code = "def size(inputs):\n    rooms = [1 / (each - 20) for each in inputs['distance']]\n"
    code += "    return {'room': rooms, 'wide': [None] * len(rooms)}"
    broken = signature.on_demand[1].model_copy(update={"code": code})
    own = signature.model_copy(update={"on_demand": (signature.on_demand[0], broken, signature.on_demand[2])})
    toy.write_model(tmp_path, own)
    predictor = toy.predictor(toy.config(where), tmp_path)
    rows = [toy.row(), toy.row(distance=20.0), toy.row(origin="LGA", hour=23)]
    [answer] = predictor.handle(
        [Raw({"x-serinus-protocol": "v2"}, toy.infer(rows, "probability", "served_features", "error"))]
    )
    predictor.close()
    assert answer.status == 200
    outputs = {each["name"]: each["data"] for each in orjson.loads(answer.body)["outputs"]}
    assert outputs["error"] == [None, "feature view size cannot be computed for this row", None]
    served = [json.loads(text) if text else None for text in outputs["served_features"]]
    assert (served[0]["slot__name"], served[2]["slot__name"], served[1]) == ("9 of 11", "23 of 12", None)
    assert (served[0]["size__room"], served[0]["one__next"]) == (1 / 980.5, 10)
    assert "hourly__flights" not in served[0]


EXTENDED = '''

from feast import RequestSource
from feast.on_demand_feature_view import on_demand_feature_view

order = RequestSource(name="order", schema=[Field(name="amount", dtype=Float64)])


@on_demand_feature_view(sources=[shop_hourly, order], schema=[Field(name="load", dtype=Float64)])
def work(inputs):
    """Money that waits for each of the staff."""
    return inputs[[]].assign(load=inputs["queue"] * inputs["amount"] / inputs["staff"])


tiny = FeatureService(name="tiny", features=[shop_hourly[["queue"]], work])
'''


def test_a_dataset_is_built_with_computed_features(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(Path(__file__).parents[1] / "projects" / "tiny", folder)
    with (folder / "features.py").open("a") as file:
        file.write(EXTENDED)
    loaded = load_project(folder)
    store = FeatureStore.open(Platform.local(tmp_path / "state"), "tiny")
    as_of = datetime(2020, 2, 10, tzinfo=UTC)
    ingest(loaded, store, as_of)
    build_dataset(loaded, store, as_of, tmp_path / "dataset")
    rows = read_rows(tmp_path / "dataset").to_pandas()
    assert "shop_hourly__staff" not in rows
    assert rows["work__load"].notna().mean() > 0.9
    assert (rows["work__load"].notna() == rows["shop_hourly__queue"].notna()).all()
    ratio = rows["shop_hourly__queue"] * rows["amount"] / rows["work__load"]
    assert set(ratio[ratio.notna() & (rows["amount"] > 0)].round(6)) == {1.0, 2.0, 3.0, 4.0, 5.0}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("f = lambda inputs: inputs", "is not one function"),
        ("def f(inputs):\n    return helper(inputs)", "uses helper, defined outside"),
        ("def f(inputs):\n    return [FACTOR * x for x in inputs['x']]", "uses FACTOR, defined outside"),
        ("def f(inputs:", "cannot be read"),
    ],
)
def test_code_that_is_more_than_its_function_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        source_of(text, "view f")


def test_views_that_cannot_be_served_are_refused_when_they_are_registered(tmp_path: Path) -> None:
    module = definitions()
    module.slot.write_to_online_store = True  # type: ignore[attr-defined]
    with pytest.raises(InvalidInput, match="slot is written to the online store"):
        FeatureStore.open(Platform.local(tmp_path), toy.PROJECT).apply(module)


def test_definitions_are_registered_again_only_when_they_changed(tmp_path: Path) -> None:
    where = Platform.local(tmp_path)
    FeatureStore.open(where, toy.PROJECT).apply(definitions())
    registry = Path(where.feast_registry)
    before = registry.read_bytes()
    FeatureStore.open(where, toy.PROJECT).apply(definitions())
    assert registry.read_bytes() == before
