"""A scorer answers from a real log and registry, in a process of its own too."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import fsspec
import httpx
import pytest
import sqlalchemy as sql
import yaml

from serinus.control.scorer_loop import MeasuredScorer
from serinus.core.evidence import QualityEvidence
from serinus.core.platform import Platform
from serinus.core.spec.log import PredictionLog
from serinus.core.version import ModelVersion
from serinus.engines.mlflow import Registry
from serinus.engines.ports import free_ports
from tests.support import eventually
from tests.support_quality import CANARY, NAME, STABLE
from tests.support_s3 import BUCKET, running
from tests.support_scorer import MINUTE, ROWS, Parts, answered, sure, utc_now

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:unclosed file .*model_archiver.version.txt:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    found = Parts(tmp_path)
    yield found
    found.log.close()


def test_a_question_is_answered_as_a_laptop_would(parts: Parts) -> None:
    scorer = parts.scorer()
    assert scorer.step() is None
    parts.ask()
    assert answered(scorer.step()).labelled.rows == 0
    parts.traffic()
    question = parts.ask()
    found = answered(scorer.step())
    assert found == parts.answer()
    assert (found.at, found.missing, found.labelled.rows) == (question.asked, (), ROWS)
    assert sure(found) > 4
    versions = parts.log.versions
    laptop = parts.log.source("laptop", log=question.log).evidence(
        versions[CANARY], versions[STABLE], parts.began, question.asked
    )
    assert laptop == found


def test_a_log_in_a_bucket_is_read_with_the_platforms_own_key(parts: Parts, tmp_path: Path) -> None:
    parts.traffic()
    with running(tmp_path / "s3") as s3:
        options = {"endpoint_url": s3.url, "key": s3.key, "secret": s3.secret}
        bucket = fsspec.filesystem("s3", **options, skip_instance_cache=True)
        bucket.put(parts.log.log["destination"], f"{BUCKET}/log", recursive=True)
        log = PredictionLog(destination=f"s3://{BUCKET}/log")
        parts.ask(log=log)
        place = {"offline_uri": f"s3://{BUCKET}/features"}
        found = answered(parts.scorer(**place, storage_options=options).step())
        assert (found.missing, found.labelled.rows) == ((), ROWS)
        parts.ask(log=log)
        (words,) = answered(parts.scorer(**place, storage_options=options | {"secret": "none"}).step()).missing
    assert words.startswith(f"cannot list s3://{BUCKET}/log")
    assert s3.secret not in words


def test_what_was_lost_is_remembered_by_a_scorer_that_takes_over(parts: Parts, tmp_path: Path) -> None:
    scorer = parts.scorer()
    parts.traffic(200)
    parts.ask()
    assert answered(scorer.step()).missing == ()
    lost = parts.log.counts()
    lost = lost.model_copy(update={"answered": lost.answered + 400, "logged": lost.logged + 400, "dropped": {"x": 400}})
    parts.ask(counts=lost)
    words = ("400 of 400 rows of the prediction log were lost",)
    assert answered(scorer.step()).missing == words
    parts.ask(counts=lost)
    assert answered(parts.scorer(state=tmp_path / "another pod").step()).missing == words


def test_what_goes_wrong_with_one_question_is_its_answer_and_others_get_theirs(parts: Parts) -> None:
    parts.traffic(200)
    table = parts.exchange.table
    asked: dict[str, dict[str, object]] = {
        "unknown": {"canary": 9},
        "nowhere": {"log": PredictionLog()},
        "unreadable": {},
        "good": {},
    }
    for number, (name, changes) in enumerate(asked.items()):
        parts.ask(f"demo/{name}", **{**changes, "asked": utc_now() - MINUTE + number * timedelta(seconds=1)})
    engine = sql.create_engine(str(parts.platform.ledger_uri))
    with engine.begin() as connection:
        text = '{"model": "tiny", "novel": 1}'
        connection.execute(sql.update(table).where(table.c.place == "demo/unreadable").values(question=text))
    engine.dispose()
    scorer = parts.scorer()
    missing = [answered(scorer.step()).missing for _ in range(4)]
    assert "version 9" in missing[0][0]
    assert missing[1] == ("the log's destination is nowhere that a scorer could read",)
    assert "are operator and scorer of the same version?" in missing[2][0]
    assert missing[3] == ()
    assert scorer.step() is None


def test_an_archive_that_was_swapped_is_no_evidence(parts: Parts) -> None:
    swapped = next(parts.folder.rglob(f"artifacts/**/{NAME}-{CANARY}.mar"))
    swapped.write_bytes(b"something else")
    parts.ask()
    (words,) = answered(parts.scorer().step()).missing
    assert "sha256" in words


def test_a_fault_is_told_and_does_not_end_the_scorer(parts: Parts) -> None:
    parts.traffic(200)
    for each in (parts.log.folder / "store").rglob("predictions/**/*.parquet"):
        each.write_bytes(b"no Parquet")
    parts.ask()
    scorer = parts.scorer()
    assert answered(scorer.step()).missing
    assert scorer.step() is None


def test_a_scorer_that_is_told_to_end_leaves_its_question_to_others(parts: Parts) -> None:
    class Ending(Registry):
        def get(self, name: str, which: int | str) -> ModelVersion:
            raise SystemExit(0)

    parts.ask()
    scorer = parts.scorer()
    scorer._registry = Ending(parts.platform.tracking_uri)
    with pytest.raises(SystemExit):
        scorer.step()
    assert answered(parts.scorer().step()).missing == ()


def test_what_nobody_asks_about_any_more_is_forgotten(parts: Parts) -> None:
    parts.traffic(200)
    parts.ask("demo/old", asked=utc_now() - 31 * MINUTE)
    parts.ask("demo/new")
    scorer = parts.scorer()
    kept = parts.platform.state / "quality" / "demo"
    (kept / "old" / NAME).mkdir(parents=True)
    assert answered(scorer.step()).labelled.rows == 200
    assert [each.name for each in kept.iterdir()] == ["new"]
    assert parts.answer("demo/old") is None


def test_its_own_figures(parts: Parts) -> None:
    now = utc_now()
    moments = iter([now + timedelta(seconds=each) for each in range(100)])
    at = [now]

    def clock() -> datetime:
        at[0] = next(moments)
        return at[0]

    scorer = parts.scorer()
    measured = MeasuredScorer(scorer.step, lambda: scorer.waits_since, clock, timedelta(seconds=50))
    assert measured.step() is False
    parts.ask(canary=9)
    assert measured.step() is True

    def figure(name: str, **labels: str) -> float | None:
        return measured.registry.get_sample_value(name, labels)

    assert figure("serinus_scorer_passes_total") == 2
    assert figure("serinus_scorer_failures_total") == 0
    assert figure("serinus_scorer_answers_total", result="missing") == 1
    assert figure("serinus_scorer_answer_seconds_count") == 1
    waited = figure("serinus_scorer_oldest_seconds")
    assert waited is not None
    assert waited > 0
    assert measured.alive()
    while at[0] < now + timedelta(seconds=90):
        clock()
    assert not measured.alive()


@contextmanager
def process(parts: Parts) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`serinus scorer` as its Deployment starts it, and the address of its page."""
    port = free_ports(1)[0]
    platform = yaml.safe_dump(parts.platform.model_dump(mode="json"))
    command = [sys.executable, "-P", "-m", "serinus", "scorer", "--interval=0", "--every=0.2", f"--port={port}"]
    with (parts.folder / "scorer.log").open("ab") as log:
        found = subprocess.Popen(command, env={**os.environ, "SERINUS_PLATFORM": platform}, stdout=log, stderr=log)
    try:
        yield found, f"http://127.0.0.1:{port}"
    finally:
        found.kill()
        found.wait(20)


def test_the_process_answers_and_ends_when_it_is_told_to(parts: Parts) -> None:
    with process(parts) as (running, page):
        parts.ask(since=parts.began)
        eventually(lambda: parts.answer() is not None, 120, interval=0.2)
        parts.traffic()
        question = parts.ask()

        def whole() -> QualityEvidence | None:
            found = parts.answer()
            return found if found is not None and found.at == question.asked else None

        found = answered(eventually(whole, 120, interval=0.2))
        assert (found.missing, found.labelled.rows) == ((), ROWS), (parts.folder / "scorer.log").read_text()
        assert sure(found) > 4
        assert httpx.get(f"{page}/healthz").text == "well\n"
        metrics = httpx.get(f"{page}/metrics").text
        assert re.search(r'^serinus_scorer_answers_total\{result="evidence"\} [12]\.0$', metrics, re.MULTILINE)
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0


def test_without_a_database_it_says_so(tmp_path: Path) -> None:
    platform = yaml.safe_dump(Platform.local(tmp_path).model_dump(mode="json"))
    command = [sys.executable, "-P", "-m", "serinus", "scorer"]
    done = subprocess.run(
        command, env={**os.environ, "SERINUS_PLATFORM": platform}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "the platform has no ledger_uri" in done.stderr) == (2, True)
