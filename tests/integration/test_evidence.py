"""Both sources of evidence against real metrics: one contract, then what only a scrape meets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from serinus.control.evidence import ScrapeSource
from serinus.core.evidence import Arm, Unusable, between
from serinus.core.spec.rollout import QueryGuard
from tests.support_evidence import ROLES, VERSIONS, Looks, looks_of, of
from tests.support_metrics import MODEL, Exporter, scraping

pytestmark = pytest.mark.timeout(300)

EDGES = ("0.01", "0.1")


@contextmanager
def scraped(exporter: Exporter, _: Path) -> Iterator[Looks]:
    yield Looks(ScrapeSource(exporter.address, MODEL))


@contextmanager
def by_prometheus(exporter: Exporter, folder: Path) -> Iterator[Looks]:
    with scraping(folder, exporter) as server:
        yield looks_of(server)


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    with Exporter() as found:
        yield found


@pytest.fixture(params=[pytest.param(scraped), pytest.param(by_prometheus, marks=pytest.mark.prometheus)])
def looks(request: pytest.FixtureRequest, exporter: Exporter, tmp_path: Path) -> Iterator[Looks]:
    exporter.asked(3, ok=1000, error=10)
    exporter.count("serinus_feature_stale_total", 0, 3, view="hourly", traffic="live")
    exporter.count("serinus_feature_stale_total", 0, 3, view="daily", traffic="live")
    with request.param(exporter, tmp_path) as found:
        yield found


def everything(exporter: Exporter) -> None:
    """Some traffic of two versions, and copies."""
    exporter.asked(3, ok=95, error=4, none=1)
    exporter.asked(4, ok=8, none=2)
    exporter.asked(4, ok=20, error=1, traffic="shadow")
    exporter.took(3, (0.005, 0.01, 0.05, 3.0), EDGES)
    exporter.took(4, (0.05,), EDGES, "shadow")
    exporter.count("serinus_rows_total", 90, 3, result="ok", traffic="live")
    exporter.count("serinus_rows_total", 10, 3, result="failed", traffic="live")
    exporter.count("serinus_feature_missing_total", 6, 3, view="hourly", reason="absent", traffic="live")
    exporter.count("serinus_feature_missing_total", 3, 3, view="daily", reason="early", traffic="live")
    exporter.count("serinus_feature_stale_total", 1, 3, view="hourly", traffic="live")
    for at, amount in (("1", 7), ("20", 2)):
        exporter.count("serinus_prediction_values_total", amount, 3, bin=at, traffic="live")
    exporter.count("serinus_routed_requests_total", 100, 3)
    exporter.count("serinus_routed_requests_total", 10, 4)


def test_both_sources_tell_the_same_of_the_same_traffic(looks: Looks, exporter: Exporter) -> None:
    first = looks.complete()
    everything(exporter)
    exporter.count("serinus_routed_requests_total", 1000, 7)
    after = looks.until(lambda found: found.arm(4).routed == 10)
    expected = Arm(
        requests=100,
        errors=5,
        latency_edges=(0.01, 0.1),
        latency=(2, 1, 1),
        rows=100,
        problems=5,
        predictions=(0, 7, *[0] * 18, 2),
        routed=100,
    )
    found = of(first, after)
    assert (found.stable, found.canary) == (expected, Arm(requests=10, errors=2, routed=10))
    copies = of(first, after, shadow=True)
    assert copies.stable == expected
    assert copies.canary == Arm(requests=21, errors=1, latency_edges=(0.01, 0.1), latency=(0, 1, 0))

    again = looks.complete()
    nothing = of(after, again)
    assert (nothing.stable.requests, nothing.canary.requests, again.epoch) == (0, 0, first.epoch)
    assert again.at >= after.at


def test_what_cannot_be_read_is_missing_and_made_up_for_later(looks: Looks, exporter: Exporter) -> None:
    first = looks.complete()
    exporter.stop()
    gap = looks.until(lambda found: bool(found.missing))
    assert isinstance(between(first, gap, ROLES, shadow=False), Unusable)
    assert str(exporter.port) in gap.missing[0]
    exporter.asked(4, ok=5)
    exporter.start()
    back = looks.until(lambda found: found.arm(4).requests == 5 and not found.missing)
    assert of(first, back).canary.requests == 5


def test_without_the_front_doors_counts_nothing_is_complete(looks: Looks, exporter: Exporter) -> None:
    looks.complete()
    exporter.door = 0.0
    assert "front door" in looks.until(lambda found: bool(found.missing)).missing[0]


def test_a_scrape_tells_that_counting_began_anew(exporter: Exporter) -> None:
    looks = Looks(ScrapeSource(exporter.address, MODEL))
    exporter.asked(3, ok=5)
    first = looks.complete()
    exporter.restart("b")
    exporter.asked(3, ok=50)
    found = between(first, looks.complete(), ROLES, shadow=False)
    assert found == Unusable(reason="counting began anew")


def test_queries_need_prometheus(exporter: Exporter) -> None:
    guard = QueryGuard(name="refunds", numerator="a$version", denominator="b$version")
    found = ScrapeSource(exporter.address, MODEL, [guard]).snapshot(VERSIONS, None, datetime.now(UTC))
    assert found.missing == ("refunds is a query, which only Prometheus answers",)


def test_a_page_that_is_something_else_is_missing(exporter: Exporter) -> None:
    exporter.count("serinus_prediction_values_total", 1, 3, bin="many", traffic="live")
    found = ScrapeSource(exporter.address, MODEL).snapshot(VERSIONS, None, datetime.now(UTC))
    assert "shows no metrics that can be read" in found.missing[0]
