"""Quality on a cluster, the operator's part: it asks with what Prometheus counted, and judges what it is answered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from serinus.control.quality_cluster import ClusterQuality
from serinus.core.evidence import QualityEvidence
from serinus.core.prediction_log import LogCounts
from serinus.core.question import Question
from serinus.core.rollout import Candidate, RolloutState
from serinus.core.spec.deployment import ModelDeploymentSpec
from serinus.core.spec.log import PredictionLog
from serinus.engines.kubernetes import Kind, Object
from serinus.engines.prometheus import Connection, Prometheus
from tests.support import eventually
from tests.support_metrics import SCRAPE_SECONDS, Exporter, Server, scraping
from tests.support_quality import CANARY, NAME, STABLE
from tests.support_scorer import MINUTE, PLACE, ROWS, Parts, answered, sure, utc_now

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:unclosed file .*model_archiver.version.txt:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]

SPEC = {
    "model": {"name": NAME, "version": STABLE},
    "rollout": {"guards": {"quality": {"earlyOutcomes": True}}},
}


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    found = Parts(tmp_path)
    yield found
    found.log.close()


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
