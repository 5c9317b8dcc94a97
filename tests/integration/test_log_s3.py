"""The prediction log in a real object store: shipped once whatever dies, and no credentials in any word of ours."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pytest

from serinus.core.errors import EngineError
from serinus.core.platform import Platform
from serinus.engines.prediction_log import join, read_predictions
from serinus.engines.prediction_store import PredictionStore
from tests import support_s3
from tests.support import eventually
from tests.support_log import MODEL
from tests.support_s3 import BUCKET, S3
from tests.support_workers import EVER, site

pytestmark = pytest.mark.timeout(240)

DESTINATION = f"s3://{BUCKET}/log"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with support_s3.running(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture
def s3(running: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The server, known to this process and to those started from it as operators make it known."""
    for name, value in running.environment().items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield running
    running.start()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def files() -> list[str]:
    return PredictionStore(DESTINATION).files("")


def nothing_secret(s3: S3, *folders: Path) -> None:
    """No file that was written says who may write to the store."""
    for path in (each for folder in folders for each in folder.rglob("*") if each.is_file()):
        content = path.read_bytes()
        assert s3.secret.encode() not in content, path
        assert s3.key.encode() not in content, path


def test_predictions_and_outcomes_are_shipped_once_though_store_and_sidecar_die(s3: S3, tmp_path: Path) -> None:
    with site(tmp_path, {"destination": DESTINATION}) as here:
        worker = here.worker(pause=0.01)
        eventually(lambda: here.counts().shipped >= 500, timeout=60)
        s3.kill()
        here.kill()
        here.start()
        eventually(lambda: here.number("serinus_log_spool_rows", stream="predictions") > 1000, timeout=60)
        s3.start()
        here.kill()  # within or after its attempt: what it brought comes again, under the same name
        here.start()
        here.end(worker)
        found = here.settled()
        assert (found.lost, found.complete) == (0, True)
        predictions = here.predictions()
        ids = predictions["prediction_id"].to_pylist()
        assert len(ids) == len(set(ids)) == found.answered
        assert found.answered >= 2000

        known_at = datetime.now(UTC).isoformat()
        rows = [
            {"prediction_id": each, "label": at % 2, "label_timestamp": known_at} for at, each in enumerate(ids[:400])
        ]
        assert here.post(rows).status_code == 200
        assert here.post(rows).status_code == 200, "again: it does no harm"
        eventually(lambda: here.outcomes().num_rows >= 400, timeout=60)
        assert join(predictions, here.outcomes()).num_rows == 400
        assert here.stop() == 0
        nothing_secret(s3, tmp_path)


def test_wrong_credentials_are_told_without_being_shown(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "W" * 40)
    with site(tmp_path, {"destination": f"s3://{BUCKET}/elsewhere"}) as here:
        worker = here.worker(batches=20)
        assert worker.wait(60) == 0
        eventually(lambda: here.number("serinus_log_upload_failures_total") >= 1, timeout=60)
        assert here.counts().spooled == 320, "kept until somebody mends it"
        told = (tmp_path / "sidecar.log").read_text()
        assert f"cannot write s3://{BUCKET}/elsewhere/predictions" in told
        assert "W" * 40 not in told
        nothing_secret(s3, tmp_path)


@pytest.mark.parametrize("right", [True, False])
def test_who_asks_is_told_by_the_platform_where_the_environment_is_silent(
    running: S3, tmp_path: Path, right: bool
) -> None:
    """As in a cluster's pods: the Secret that says where the engines are also says who may write the log."""
    secret = running.secret if right else "W" * 40
    options = {"endpoint_url": running.url, "key": running.key, "secret": secret}
    platform = Platform.local(tmp_path).model_copy(
        update={"offline_uri": f"s3://{BUCKET}/features", "storage_options": options}
    )
    destination = f"s3://{BUCKET}/{tmp_path.name}"
    with site(tmp_path, {"destination": destination}, platform=platform) as here:
        assert here.worker(batches=20).wait(60) == 0
        told = tmp_path / "sidecar.log"
        if right:
            assert here.settled().complete
            assert read_predictions(PredictionStore(destination, options), MODEL, EVER).num_rows == 320
        else:
            eventually(lambda: here.number("serinus_log_upload_failures_total") >= 1, timeout=60)
            assert f"cannot write {destination}/predictions" in told.read_text()
            assert here.counts().spooled == 320
        assert secret not in told.read_text()


def test_a_bucket_that_does_not_exist_is_an_error_and_is_not_made(s3: S3) -> None:
    with pytest.raises(EngineError, match="cannot write s3://typo/log"):
        PredictionStore("s3://typo/log").put("predictions/x.parquet", b"x")
    assert BUCKET in fsspec.filesystem("s3").ls("")
    assert "typo" not in fsspec.filesystem("s3").ls("", refresh=True)
