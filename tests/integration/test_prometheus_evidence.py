"""Evidence by Prometheus alone: totals over restarts and losses of pods, targets and Prometheus, and users' queries."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from serinus.core.evidence import Snapshot, Unusable, between
from serinus.core.spec.rollout import QueryGuard
from tests.support import eventually
from tests.support_evidence import ROLES, counts, looks_of, of, source_of
from tests.support_metrics import Exporter, Server, scraping

pytestmark = [pytest.mark.prometheus, pytest.mark.timeout(300)]


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[tuple[Exporter, Exporter, Server]]:
    with Exporter("a") as first, Exporter("b") as second, scraping(tmp_path, first, second) as server:
        yield first, second, server


def test_totals_go_on_over_restarts_and_ends_of_pods(pods: tuple[Exporter, Exporter, Server]) -> None:
    first, second, server = pods
    looks = looks_of(server)
    first.asked(3, ok=1000)
    start = looks.settled()
    totals: list[float] = []

    def reached(requests: float) -> None:
        def there(found: Snapshot) -> bool:
            totals.append(found.arm(3).requests)
            return totals[-1] == start.arm(3).requests + requests and not found.missing

        assert looks.until(there).epoch == start.epoch

    first.asked(3, ok=10)
    second.asked(3, ok=20)
    reached(30)
    first.restart("c")
    first.asked(3, ok=7)
    reached(37)
    second.asked(3, ok=3)
    reached(40)
    server.scrape(first)
    second.stop()
    first.asked(3, ok=1)
    reached(41)
    with Exporter("d") as third:
        third.asked(3, ok=100)
        server.scrape(first, third)
        reached(141)
    assert totals == sorted(totals), "no total ever fell"

    looked_once = looks_of(server)
    looked_once.last = start
    assert of(start, looked_once.complete()).stable.requests == 141, "one look over all of it gives the same"


def test_a_target_that_is_down_is_missing_until_it_is_no_target_any_more(
    pods: tuple[Exporter, Exporter, Server],
) -> None:
    first, second, server = pods
    looks = looks_of(server)
    second.asked(4, ok=3)
    start = looks.settled()
    second.asked(4, ok=3)
    looks.until(lambda found: found.arm(4).requests == start.arm(4).requests + 3)
    second.stop()
    gap = looks.until(lambda found: bool(found.missing))
    assert gap.missing == (f"Prometheus cannot scrape serinus 127.0.0.1:{second.port}",)
    server.scrape(first)
    after = looks.complete()
    assert of(start, after).canary.requests == 3, "what it had counted stays"


def test_while_prometheus_is_away_totals_and_their_moment_stay(pods: tuple[Exporter, Exporter, Server]) -> None:
    first, _, server = pods
    looks = looks_of(server)
    first.asked(3, ok=1)
    start = looks.settled()
    first.asked(3, ok=4)
    before = looks.until(lambda found: of(start, found).stable.requests == 4)
    server.stop()
    gap = looks.look()
    assert "does not answer" in gap.missing[0]
    assert (gap.at, gap.live, gap.epoch) == (before.at, before.live, start.epoch)
    first.asked(3, ok=2)
    server.start()
    # A server that has just begun may take longer for a scrape than a look waits for one.
    back = datetime.now(UTC)
    eventually(lambda: server.scraped_all_since(back), 60)
    after = looks.until(
        lambda found: found.at > before.at and not found.missing and of(start, found).stable.requests == 6
    )
    assert after.epoch == start.epoch


def test_a_prometheus_that_lost_its_data_counts_anew(pods: tuple[Exporter, Exporter, Server], tmp_path: Path) -> None:
    first, second, server = pods
    looks = looks_of(server)
    first.asked(3, ok=1)
    start = looks.settled()
    first.asked(3, ok=1000)
    before = looks.until(lambda found: of(start, found).stable.requests == 1000)
    other = tmp_path / "other"
    other.mkdir()
    with scraping(other, first, second) as empty:
        looks.source = source_of(empty)
        # Until it has scraped the one that counted, nothing tells that anything is lost, and nothing more is counted.
        after = looks.until(lambda found: not found.missing and counts(found) and found.epoch != start.epoch)
    assert after.arm(3).requests == 0
    assert after.epoch not in ("", start.epoch)
    assert between(before, after, ROLES, shadow=False) == Unusable(reason="counting began anew")


def test_the_users_queries_are_asked_for_each_version(pods: tuple[Exporter, Exporter, Server]) -> None:
    first, _, server = pods
    first.count("shop_baskets_total", 100, 3)
    first.count("shop_baskets_total", 7, 4)
    first.count("shop_empty_baskets_total", 5, 3)
    baskets = 'sum(shop_baskets_total{version="$version"})'
    empty = 'sum(shop_empty_baskets_total{version="$version"})'
    good = QueryGuard(name="empty", numerator=f"{empty} or vector(0)", denominator=baskets)
    looks = looks_of(server, good)
    found = looks.until(lambda found: not found.missing and found.arm(3).queries == {"empty": (5, 100)})
    assert found.arm(4).queries == found.arm(4, shadow=True).queries == {"empty": (0, 7)}

    bad = [
        QueryGuard(name="none", numerator=empty, denominator=baskets),
        QueryGuard(name="many", numerator="up * on () group_left () vector($version)", denominator=baskets),
        QueryGuard(name="odd", numerator="vector(-$version)", denominator=baskets),
        QueryGuard(name="broken", numerator="sum(($version)", denominator=baskets),
        QueryGuard(name="off", numerator="sum(($version)", denominator=baskets, enabled=False),
    ]
    # On a busy machine a scrape may be late, which is told too.
    missing = looks_of(server, *bad).until(lambda found: not any("recent" in each for each in found.missing)).missing
    assert len(missing) == 7, missing
    for words in (
        f"none: {empty.replace('$version', '4')} gives nothing; if that means none, add `or vector(0)`",
        "many: up * on () group_left () vector(3) gives 2 series; sum them up",
        "odd: vector(-4) gives -4, which is no count",
    ):
        assert words in missing
    assert any(each.startswith("broken:") and "refused sum((3)" in each for each in missing)
