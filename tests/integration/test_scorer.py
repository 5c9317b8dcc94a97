"""Quality on a cluster, by its parts: the operator asks, a scorer answers from a real log, registry and Prometheus."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import httpx
import numpy as np
import pytest
import sqlalchemy as sql
import yaml

from serinus.control.quality_cluster import ClusterQuality
from serinus.control.scorer import QuestionScorer
from serinus.control.scorer_loop import MeasuredScorer
from serinus.core.evidence import QualityEvidence
from serinus.core.platform import Platform
from serinus.core.prediction_log import LogCounts
from serinus.core.question import Question
from serinus.core.rollout import Candidate, RolloutState
from serinus.core.spec.deployment import ModelDeploymentSpec
from serinus.core.spec.log import PredictionLog
from serinus.core.spec.rollout import Quality
from serinus.core.version import ModelVersion, RunRecord
from serinus.engines.kubernetes import Kind, Object
from serinus.engines.ledger_exchange import Asked, Exchange
from serinus.engines.ledger_sql import LedgerDatabase
from serinus.engines.mlflow import Registry
from serinus.engines.ports import free_ports
from serinus.engines.prometheus import Connection, Prometheus
from tests.support import eventually
from tests.support_metrics import SCRAPE_SECONDS, Exporter, Server, scraping
from tests.support_quality import CANARY, NAME, STABLE, LogSite, draw
from tests.support_s3 import BUCKET, running

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:unclosed file .*model_archiver.version.txt:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]

PLACE = ("demo", "tiny")
WHERE = "/".join(PLACE)
ROWS = 2000
MINUTE = timedelta(minutes=1)
SPEC = {
    "model": {"name": NAME, "version": STABLE},
    "rollout": {"guards": {"quality": {"earlyOutcomes": True}}},
}


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Parts:
    """A log with two versions in a registry, and a rollout that began some minutes ago."""

    folder: Path
    log: LogSite = field(init=False)
    began: datetime = field(default_factory=lambda: utc_now() - 30 * MINUTE)

    def __post_init__(self) -> None:
        self.log = LogSite(self.folder)
        local = Platform.local(self.folder / "state")
        self.platform = local.model_copy(update={"ledger_uri": f"sqlite:///{self.folder / 'ledger.db'}"})
        self.registry = Registry(self.platform.tracking_uri, self.platform.artifact_uri)
        for number, version in self.log.versions.items():
            record = RunRecord(name=NAME, lineage=version.lineage, accepted=True, metrics={}, card="# tiny\n")
            path = self.log.registry / version.archive
            assert self.registry.register(record, path, version.digest).version == number
        self.exchange = self.opened()

    def opened(self) -> Exchange:
        assert self.platform.ledger_uri is not None
        return Exchange(LedgerDatabase(self.platform.ledger_uri))

    def scorer(self, **changes: Any) -> QuestionScorer:
        """A new one, as after a restart; with another platform it is another pod."""
        platform = self.platform.model_copy(update=changes)
        return QuestionScorer(self.opened(), platform, self.registry, utc_now, timedelta(0))

    def traffic(self, rows: int = ROWS, seed: int = 1) -> None:
        """Answered requests, one in a hundred by the canary, and what became of them."""
        columns, labels = draw(rows, seed)
        callers = [f"{seed}-{row}" for row in range(rows)]
        canary = np.arange(rows) % 100 == 0
        for version, own in ((CANARY, canary), (STABLE, ~canary)):
            asked = {name: values[own] for name, values in columns.items()}
            self.log.serve(self.began + MINUTE, version, (asked, [callers[row] for row in np.flatnonzero(own)]))
        self.log.report(self.began + 2 * MINUTE, list(zip(callers, labels.tolist(), strict=True)))
        self.log.ship()

    def question(self, **changes: object) -> Question:
        """What the operator would ask, with the counters as they are."""
        now = utc_now()
        question = Question(
            model=NAME,
            canary=CANARY,
            stable=STABLE,
            since=self.began,
            quality=Quality(),
            log=PredictionLog(destination=self.log.log["destination"]),
            label_delay=timedelta(0),
            holdout=None,
            whole_cohorts=False,
            lag=timedelta(0),
            counts=self.log.counts(),
            asked=now,
        )
        return question.model_copy(update=changes)

    def ask(self, place: str = WHERE, **changes: object) -> Question:
        question = self.question(**changes)
        until = question.asked + 30 * MINUTE
        self.exchange.ask(
            place, Asked(question.model_dump_json(by_alias=True), question.identity, question.asked, until)
        )
        return question

    def answer(self, place: str = WHERE) -> QualityEvidence | None:
        standing = self.exchange.standing(place)
        if standing is None or standing.answer is None:
            return None
        return QualityEvidence.model_validate_json(standing.answer)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    found = Parts(tmp_path)
    yield found
    found.log.close()


def sure(evidence: QualityEvidence) -> float:
    """The mean difference in standard errors."""
    sums = evidence.labelled
    mean = sums.total / sums.rows
    return float(mean / np.sqrt((sums.squares / sums.rows - mean**2) / sums.rows))


def answered(evidence: QualityEvidence | None) -> QualityEvidence:
    assert evidence is not None
    return evidence


# -- the scorer -------------------------------------------------------------------------------------------------------


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
    for number, (name, changes) in enumerate(
        {
            "unknown": {"canary": 9},
            "nowhere": {"log": PredictionLog()},
            "unreadable": {},
            "good": {},
        }.items()
    ):
        parts.ask(f"demo/{name}", **changes, asked=utc_now() - MINUTE + number * timedelta(seconds=1))  # type: ignore[arg-type]
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


# -- the operator -----------------------------------------------------------------------------------------------------


class NoTraining:
    """A cluster on which no ContinuousTraining feeds the deployment."""

    def all(self, kind: Kind, namespace: str) -> list[Object]:
        return []


@dataclass
class Asking:
    """An operator's part: it asks Prometheus, which scrapes what the log counts."""

    parts: Parts
    exporter: Exporter
    server: Server
    shown: dict[tuple[str, str], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        document = {**SPEC, "log": self.parts.log.log}
        self.spec = ModelDeploymentSpec.model_validate(document, by_alias=True)
        canary = Candidate(version=CANARY, digest=self.parts.log.versions[CANARY].digest)
        self.state = RolloutState(stable=STABLE, phase="step", canary=canary, started=self.parts.began)
        prometheus, interval = Prometheus(Connection(self.server.url)), timedelta(seconds=SCRAPE_SECONDS)
        self.quality = ClusterQuality(
            NoTraining(), PLACE, self.parts.exchange, prometheus, interval, ask_again=timedelta(0)
        )

    def look(self, **changes: object) -> QualityEvidence:
        """One of the operator's, at this very moment."""
        return answered(self.quality.evidence(self.spec, self.state.model_copy(update=changes), utc_now()))

    def count(self, counts: LogCounts | None = None) -> None:
        """Show the log's counters as they are."""
        counts = counts or self.parts.log.counts()
        wanted = {
            ("serinus_rows_total", "result=ok"): counts.answered,
            ("serinus_log_rows_total", ""): counts.logged,
            ("serinus_log_shipped_rows_total", "stream=predictions"): counts.shipped,
            ("serinus_log_spool_rows", "stream=predictions"): counts.spooled,
        }
        for (name, label), value in wanted.items():
            labels = dict([label.split("=")]) if label else {}
            self.exporter.count(name, value - self.shown.get((name, label), 0), STABLE, namespace=PLACE[0], **labels)
            self.shown[name, label] = value
        shown = utc_now()
        eventually(lambda: self.server.scraped_all_since(shown), 60)


@pytest.fixture
def asking(parts: Parts, tmp_path: Path) -> Iterator[Asking]:
    exporter = Exporter()
    folder = tmp_path / "prometheus"
    folder.mkdir()
    with scraping(folder, exporter) as server:
        found = Asking(parts, exporter, server)
        found.count()
        yield found
    exporter.stop()


@pytest.mark.prometheus
def test_an_operator_gets_evidence_from_a_scorer(asking: Asking) -> None:
    assert asking.look().missing == ("the scorer has not answered yet",)
    scorer = asking.parts.scorer()
    scorer.step()
    asking.parts.traffic()
    asking.count()

    def whole() -> QualityEvidence | None:
        found = asking.look()
        scorer.step()
        return found if not found.missing and found.labelled.rows == ROWS else None

    found = answered(eventually(whole, 60, interval=0.5))
    assert sure(found) > 4
    assert asking.quality.evidence(asking.spec, asking.state, found.at + 9 * MINUTE) is not None
    # Of another canary nothing is known yet, whatever was found of this one.
    other = Candidate(version=3, digest="sha256:three")
    assert asking.look(canary=other).missing == ("the scorer has not answered yet",)


@pytest.mark.prometheus
def test_an_answer_that_is_old_or_unreadable_is_none(asking: Asking) -> None:
    asking.look()
    scorer = asking.parts.scorer()
    scorer.step()
    now = utc_now() + 11 * MINUTE
    (old,) = answered(asking.quality.evidence(asking.spec, asking.state, now)).missing
    assert old.startswith("the scorer's answer is older than 10 minutes (Deployment serinus-scorer")
    exchange = asking.parts.exchange
    task = exchange.take(now, MINUTE)
    assert task is not None
    exchange.give(task, "{}", None, now)
    assert asking.look().missing == (
        "the scorer's answer cannot be read (are operator and scorer of the same version?)",
    )


@pytest.mark.prometheus
def test_a_scorer_that_never_answers_is_named(asking: Asking) -> None:
    asking.look()
    late = answered(asking.quality.evidence(asking.spec, asking.state, utc_now() + 11 * MINUTE)).missing
    assert "the scorer has not answered yet (Deployment serinus-scorer" in late[0]


@pytest.mark.prometheus
def test_what_waited_on_a_pod_that_has_ended_is_expected_at_the_destination(asking: Asking) -> None:
    asking.quality = replace(asking.quality, ended_after=timedelta(seconds=3))
    asking.count(LogCounts(answered=1000, logged=1000, shipped=950, spooled=50))

    def counted() -> tuple[int, int]:
        asking.look()
        task = asking.parts.exchange.take(utc_now(), timedelta(0))
        assert task is not None
        counts = Question.model_validate_json(task.text).counts
        return counts.shipped, counts.spooled

    assert counted() == (950, 50)
    asking.exporter.stop()
    eventually(lambda: counted() == (1000, 0), 60, interval=0.5)


@pytest.mark.prometheus
def test_without_counters_or_a_destination_nothing_is_asked(asking: Asking) -> None:
    asking.spec = asking.spec.model_copy(update={"log": PredictionLog()})
    assert "names no object store" in asking.look().missing[0]
    elsewhere = ClusterQuality(
        NoTraining(), ("elsewhere", "tiny"), asking.parts.exchange, asking.quality.server, timedelta(seconds=1)
    )
    spec = ModelDeploymentSpec.model_validate({**SPEC, "log": asking.parts.log.log}, by_alias=True)
    found = answered(elsewhere.evidence(spec, asking.state, utc_now()))
    assert found.missing == ("Prometheus knows nothing of the prediction log of tiny",)
    assert asking.parts.exchange.places(utc_now()) == set()


# -- the process ------------------------------------------------------------------------------------------------------


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
