"""From a project folder to a dataset: what is ingested, what is refused, what is built."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from serinus.core.errors import InvalidData, InvalidInput, NotFound
from serinus.core.platform import Platform
from serinus.core.profile import Profile
from serinus.core.project import Project
from serinus.core.signature import Signature
from serinus.engines.feast import FeatureStore
from serinus.training.dataset import build_dataset, content_digest, read_rows
from serinus.training.ingest import IngestMark, ingest, mark_path
from serinus.training.project import LoadedProject, load_project
from serinus.training.rows import DatasetFolder
from serinus.training.validate import accepted_path, validate

TINY = Path(__file__).parents[1] / "projects" / "tiny"
AS_OF = datetime(2020, 2, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)

Change = Callable[[pd.DataFrame], pd.DataFrame]


class Changed(Project):
    """The tiny project with other rows of one source, or other raw data, or other labels."""

    def __init__(
        self, inner: Project, source: str = "", change: Change | None = None, raw: str = "", lead: timedelta = 0 * DAY
    ) -> None:
        self.inner, self.source, self.change, self.raw, self.lead = inner, source, change, raw, lead
        self.asked: list[tuple[datetime, datetime]] = []

    def ingest(self, since: datetime, until: datetime) -> Mapping[str, pd.DataFrame]:
        self.asked.append((since, until))
        frames = dict(self.inner.ingest(since, until))
        if self.change is not None:
            frames[self.source] = self.change(frames[self.source].copy())
        return frames

    def requests(self, since: datetime, until: datetime) -> pd.DataFrame:
        return self.inner.requests(since, until)

    def labels(self, until: datetime) -> pd.DataFrame:
        labels = self.inner.labels(until)
        return labels.assign(label_timestamp=labels["label_timestamp"] - self.lead)

    def model(self, params: Mapping[str, Any], signature: Signature) -> Any:
        return self.inner.model(params, signature)

    def fingerprint(self, until: datetime) -> str:
        return self.inner.fingerprint(until) + self.raw


@pytest.fixture(scope="module")
def tiny() -> LoadedProject:
    return load_project(TINY)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.open(Platform.local(tmp_path / ".serinus"), "tiny")


@pytest.fixture(scope="module")
def filled(tiny: LoadedProject, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """A store with everything until AS_OF; tests only read it."""
    made = FeatureStore.open(Platform.local(tmp_path_factory.mktemp("filled") / ".serinus"), "tiny")
    ingest(tiny, made, AS_OF)
    return made


def _with(loaded: LoadedProject, **changes: Any) -> LoadedProject:
    return replace(loaded, project=Changed(loaded.project, **changes))


# Ingest


def test_what_is_new_is_ingested_once(tiny: LoadedProject, store: FeatureStore) -> None:
    watched = _with(tiny)
    first = ingest(watched, store, AS_OF)
    assert first.sources["shop_hourly"] == len(
        tiny.project.ingest(datetime(2000, 1, 1, tzinfo=UTC), AS_OF)["shop_hourly"]
    )
    again = ingest(watched, store, AS_OF)
    assert (again.rows, again.digest) == (0, first.digest)
    ingest(watched, store, AS_OF + DAY)
    assert watched.project.asked == [(first.since, AS_OF), (AS_OF, AS_OF + DAY)]  # type: ignore[attr-defined]
    assert ingest(watched, store, AS_OF - DAY).rows == 0  # the store is ahead already


def test_days_one_by_one_make_the_same_store_as_all_at_once(
    tiny: LoadedProject, store: FeatureStore, filled: FeatureStore
) -> None:
    for back in range(25, -1, -1):
        report = ingest(tiny, store, AS_OF - back * DAY)
    assert report.digest == ingest(tiny, filled, AS_OF).digest
    for source in store.sources():
        assert store.read_offline(source).equals(filled.read_offline(source))


def test_an_ingestion_that_dies_halfway_is_simply_done_again(
    tiny: LoadedProject, store: FeatureStore, filled: FeatureStore
) -> None:
    ingest(tiny, store, AS_OF - 3 * DAY)
    broken = _with(tiny, source="city_daily", change=lambda rows: rows.drop(columns="price"))
    with pytest.raises(InvalidData, match="city_daily lacks price"):
        ingest(broken, store, AS_OF)
    assert IngestMark.model_validate_json(mark_path(store).read_bytes()).until == AS_OF - 3 * DAY
    ingest(tiny, store, AS_OF)
    for source in store.sources():
        assert store.read_offline(source).equals(filled.read_offline(source))


def test_only_code_that_the_project_imports_is_a_reason_to_begin_again(store: FeatureStore, folder: Path) -> None:
    first = ingest(load_project(folder / "serinus.yaml"), store, AS_OF)
    (folder / "demo.py").write_text("from .project import Tiny\n")
    again = ingest(load_project(folder / "serinus.yaml"), store, AS_OF)
    assert (again.rows, again.digest) == (0, first.digest)
    (folder / "world.py").write_text((folder / "world.py").read_text() + "\n")
    changed = ingest(load_project(folder / "serinus.yaml"), store, AS_OF)
    assert (changed.rows, changed.digest != first.digest) == (first.rows, True)


def test_other_past_data_are_ingested_from_the_beginning(tiny: LoadedProject, store: FeatureStore) -> None:
    first = ingest(tiny, store, AS_OF)
    validate(store, AS_OF)
    mended = _with(tiny, source="city_daily", change=lambda rows: rows.assign(price=1.0), raw="mended")
    second = ingest(mended, store, AS_OF)
    assert second.sources == first.sources
    assert second.digest != first.digest
    assert set(store.read_offline("city_daily")["price"].to_pylist()) == {1.0}
    assert not accepted_path(store).exists()


def test_other_code_is_ingested_from_the_beginning(store: FeatureStore, tmp_path: Path) -> None:
    folder = shutil.copytree(TINY, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__", ".serinus"))
    first = ingest(load_project(folder), store, AS_OF)
    with (folder / "world.py").open("a") as file:
        file.write("\n# a thought\n")
    second = ingest(load_project(folder), store, AS_OF)
    assert second.sources == first.sources
    assert second.digest != first.digest


def test_a_project_that_forgets_a_source_is_told(tiny: LoadedProject, store: FeatureStore) -> None:
    forgetful = _with(tiny)
    forgetful.project.ingest = lambda since, until: {}  # type: ignore[method-assign]
    with pytest.raises(InvalidData, match="no rows for city_daily, shop_hourly"):
        ingest(forgetful, store, AS_OF)


# Validate


def test_good_data_are_accepted_and_not_looked_at_again(tiny: LoadedProject, store: FeatureStore) -> None:
    ingest(tiny, store, AS_OF)
    report = validate(store, AS_OF)
    assert {check.name for check in report.checks} >= {"schema", "duplicates", "order of times", "freshness"}
    assert report.failed == ()
    assert report.summaries["shop_hourly"].columns["queue"].missing == pytest.approx(0.05, abs=0.01)
    assert validate(store, AS_OF).checks == ()
    ingest(tiny, store, AS_OF + DAY)
    later = validate(store, AS_OF + DAY)
    assert later.since == AS_OF
    assert {check.name for check in later.checks} >= {"volume", "missing queue", "values of queue"}


def _fifty(column: str, value: Any) -> Change:
    def change(rows: pd.DataFrame) -> pd.DataFrame:
        rows.loc[:49, column] = value
        return rows

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_fifty("shop", None), "times and keys: found 50 missing in shop"),
        (
            lambda rows: rows.assign(happened_at=rows["known_at"] + pd.Timedelta("1s")),
            "order of times: found 192 rows known before they happened",
        ),
        (lambda rows: pd.concat([rows, rows.head(7)]), "duplicates: found 7 rows"),
        (
            lambda rows: rows[rows["known_at"] < AS_OF + DAY / 2],
            "freshness: found newest row known at 2020-02-20T23:10",
        ),
        (lambda rows: rows[rows["shop"] == "shop-1"], "volume: found 24 rows a day, allowed: 6"),
        (lambda rows: rows.assign(queue=None), "missing queue: found 100.0%"),
        (_fifty("queue", 1e6), "values of queue: found "),
        (lambda rows: rows.head(0), "freshness: found no rows"),
    ],
)
def test_bad_data_stop_the_run_until_they_are_mended(
    tiny: LoadedProject, store: FeatureStore, change: Change, message: str
) -> None:
    ingest(tiny, store, AS_OF)
    validate(store, AS_OF)
    accepted = accepted_path(store).read_bytes()
    ingest(_with(tiny, source="shop_hourly", change=change), store, AS_OF + DAY)
    for _ in range(2):
        with pytest.raises(InvalidData, match="nothing was trained") as raised:
            validate(store, AS_OF + DAY)
        assert f"shop_hourly: {message}" in raised.value.message
    assert accepted_path(store).read_bytes() == accepted


# Dataset


def test_a_dataset_holds_what_was_known_and_what_came_of_it(
    tiny: LoadedProject, filled: FeatureStore, tmp_path: Path
) -> None:
    made = build_dataset(tiny, filled, AS_OF, tmp_path / "first")
    rows = read_rows(tmp_path / "first")
    assert made.digest == content_digest(rows) == build_dataset(tiny, filled, AS_OF, tmp_path / "second").digest
    assert made.rows == rows.num_rows > 4_000
    frame = rows.to_pandas()
    assert frame["event_timestamp"].is_monotonic_increasing
    assert frame["label_timestamp"].max() < AS_OF
    world = tiny.project._world  # type: ignore[attr-defined]
    last = frame.tail(50).merge(world.orders[["id", "label"]], on="id", suffixes=("", "_true"))
    assert (last["label"] == last["label_true"]).all()
    for row in last.to_dict("records"):
        shops = world.shops[(world.shops["shop"] == row["shop"]) & (world.shops["known_at"] <= row["event_timestamp"])]
        newest = shops.iloc[-1]
        assert row["shop_hourly__staff"] == newest["staff"]
        assert pd.isna(row["shop_hourly__queue"]) == pd.isna(newest["queue"])
        if not pd.isna(newest["queue"]):
            assert row["shop_hourly__queue"] == newest["queue"]


def test_signature_and_profile_are_of_the_training_rows(
    tiny: LoadedProject, filled: FeatureStore, tmp_path: Path
) -> None:
    made = build_dataset(tiny, filled, AS_OF, tmp_path)
    read = DatasetFolder.read(tmp_path)
    assert read.manifest == made
    assert [column.name for column in read.signature.columns] == [
        *("channel", "amount", "shop_hourly__queue", "shop_hourly__staff", "city_daily__price"),
    ]
    assert read.signature.categories[0].categories == ("desk", "phone", "web")
    assert read.signature.model == tiny.model_name
    profile = Profile.model_validate_json((tmp_path / "profile.json").read_bytes())
    assert profile.rows == len(read.part("train"))


def test_a_label_known_before_its_request_stops_the_dataset(
    tiny: LoadedProject, filled: FeatureStore, tmp_path: Path
) -> None:
    with pytest.raises(InvalidData, match="known before the request"):
        build_dataset(_with(tiny, lead=timedelta(hours=6)), filled, AS_OF, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_dataset_needs_time_and_data(tiny: LoadedProject, store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="the training window is empty"):
        build_dataset(tiny, store, datetime(2020, 1, 5, tzinfo=UTC), tmp_path)
    store.apply(tiny.features)
    with pytest.raises(InvalidData, match=r"source \w+ has no rows"):
        build_dataset(tiny, store, AS_OF, tmp_path)


# Projects


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__", ".serinus")))


def test_two_projects_with_the_same_module_names_live_side_by_side(tiny: LoadedProject, folder: Path) -> None:
    (folder / "world.py").write_text((folder / "world.py").read_text().replace("SEED = 7", "SEED = 8"))
    other = load_project(folder / "serinus.yaml")
    assert type(other.project) is not type(tiny.project)
    assert other.project.fingerprint(AS_OF) != tiny.project.fingerprint(AS_OF)
    assert other.code_digest != tiny.code_digest
    assert other.features is not tiny.features


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (None, NotFound, "there is no module project in"),
        ("", NotFound, "has no Tiny"),
        ("Tiny = 3", InvalidInput, "Tiny in .* is not a subclass of serinus.Project"),
        ("class Tiny: pass", InvalidInput, "is not a subclass"),
        ("import absent_package", InvalidInput, "No module named 'absent_package'"),
        ("from . import absent_module", InvalidInput, "cannot import name 'absent_module'"),
        ("1 / 0", InvalidInput, "ZeroDivisionError"),
        ("def broken(:", InvalidInput, "SyntaxError"),
        ("from serinus import Project\nclass Tiny(Project): pass", InvalidInput, "cannot be created: .*abstract"),
    ],
)
def test_a_project_that_cannot_be_loaded_says_why(
    folder: Path, code: str | None, error: type[Exception], message: str
) -> None:
    path = folder / "project.py"
    path.unlink()
    if code is not None:
        path.write_text(code)
    with pytest.raises(error, match=message):
        load_project(folder)


def test_a_spec_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"serinus\.yaml"):
        load_project(tmp_path / "serinus.yaml")
