"""Feature sources in a real S3 bucket: the same rows as in a folder, with what is remembered about them beside them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serinus.core.errors import InvalidInput
from serinus.core.platform import Platform
from serinus.engines.feast import FeatureStore
from serinus.engines.feast_offline import place
from serinus.engines.locks import database_lock
from serinus.training.ingest import ingest, mark_path
from serinus.training.project import LoadedProject, load_project
from serinus.training.validate import accepted_path, validate
from tests import support_s3
from tests.support_s3 import BUCKET, S3

TINY = Path(__file__).parents[1] / "projects" / "tiny"
AS_OF = datetime(2020, 2, 15, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with support_s3.running(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture(scope="module")
def tiny() -> LoadedProject:
    return load_project(TINY)


def on_s3(s3: S3, state: Path, folder: str) -> FeatureStore:
    """A store as a cluster's pods have it: their own state, sources in a bucket."""
    options = {"key": s3.key, "secret": s3.secret, "endpoint_url": s3.url}
    local = Platform.local(state)
    return FeatureStore.open(
        local.model_copy(update={"offline_uri": f"s3://{BUCKET}/{folder}", "storage_options": options}), "tiny"
    )


def test_a_bucket_holds_the_same_rows_as_a_folder(s3: S3, tiny: LoadedProject, tmp_path: Path) -> None:
    here = FeatureStore.open(Platform.local(tmp_path / "here"), "tiny")
    there = on_s3(s3, tmp_path / "there", "same")
    assert ingest(tiny, here, AS_OF).sources == ingest(tiny, there, AS_OF).sources
    for source in here.sources():
        assert there.read_offline(source).equals(here.read_offline(source))
    asked = tiny.project.requests(AS_OF - 2 * DAY, AS_OF)
    assert there.historical("tiny", asked).equals(here.historical("tiny", asked))


def test_another_pod_goes_on_where_the_first_one_was(s3: S3, tiny: LoadedProject, tmp_path: Path) -> None:
    first = ingest(tiny, on_s3(s3, tmp_path / "first", "shared"), AS_OF - DAY)
    second = on_s3(s3, tmp_path / "second", "shared")
    assert second.offline != first
    report = ingest(tiny, second, AS_OF)
    assert (report.since, report.until) == (AS_OF - DAY, AS_OF)
    assert mark_path(second).exists()
    checked = validate(second, AS_OF)
    assert checked.checks
    assert accepted_path(second).exists()
    assert validate(on_s3(s3, tmp_path / "third", "shared"), AS_OF).checks == ()


def test_two_projects_in_one_bucket_do_not_meet(s3: S3, tmp_path: Path) -> None:
    store = on_s3(s3, tmp_path / "one", "both")
    other = FeatureStore.open(store.platform, "another")
    assert store.offline != other.offline
    assert store.offline.parent == other.offline.parent


def test_a_folder_is_a_path_and_stays_one(tmp_path: Path) -> None:
    assert place(str(tmp_path), {}) == tmp_path


def test_a_registry_without_locks_is_told() -> None:
    with (
        pytest.raises(InvalidInput, match="sqlite has no locks that Serinus can use"),
        database_lock("sqlite:///registry.db", "ingest"),
    ):
        raise AssertionError
