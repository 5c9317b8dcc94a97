"""Metrics of a real stack as totals by version, and what follows from what is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.control.arms import Sample, added, arms
from serinus.control.evidence import parse
from serinus.core.evidence import Arm
from serinus.engines.envoy_counts import Attempts, parse_totals

PAGES = Path(__file__).parent / "pages"


def test_a_page_of_a_real_stack() -> None:
    found = arms(parse((PAGES / "metrics.txt").read_text()), "delays", (1, 2, 9))
    stable, canary = found.live[1], found.live[2]
    assert (stable.requests, stable.errors, stable.routed) == (538, 0, 341)
    assert (canary.requests, canary.errors, canary.routed) == (360, 197, 349)
    assert stable.rows == sum(stable.latency) == sum(stable.predictions) == stable.requests
    assert stable.latency_edges[0] == 0.0005
    assert len(stable.latency_edges) == len(stable.latency) - 1 == 25
    assert len(stable.predictions) == 21
    assert stable.problems == (16 + 11 + 27) / 4
    assert found.live[9] == found.shadow[1] == Arm()


def test_a_page_of_a_real_envoy() -> None:
    found = parse_totals((PAGES / "envoy.txt").read_text(), "tiny")
    assert found.routed == {1: 414, 2: 86}
    assert found.attempts == {
        Attempts(1, "live", "ok"): 471,
        Attempts(2, "live", "ok"): 30,
        Attempts(2, "live", "none"): 6,
        Attempts(2, "live", "unavailable"): 55,
        Attempts(2, "shadow", "ok"): 50,
        Attempts(2, "shadow", "error"): 150,
    }
    assert parse_totals((PAGES / "envoy.txt").read_text(), "tin").attempts == {}


def sample(name: str, value: float, **labels: str) -> Sample:
    return Sample(name, {"model": "m", "version": "3", **labels}, value)


def test_pods_are_added_up_and_other_models_are_not() -> None:
    name = "serinus_upstream_requests_total"
    samples = [
        sample(name, 5, result="ok", traffic="live", pod="a"),
        sample(name, 7, result="none", traffic="live", pod="b"),
        sample(name, 100, result="ok", traffic="live", model="other"),
        sample(name, 100, result="ok", traffic="live", version="33"),
        sample(name, 2, result="error", traffic="shadow"),
    ]
    found = arms(samples, "m", (3,))
    assert (found.live[3].requests, found.live[3].errors) == (12, 7)
    assert (found.shadow[3].requests, found.shadow[3].errors) == (2, 2)


def test_metrics_without_a_kind_of_traffic_are_of_live_traffic() -> None:
    found = arms([sample("serinus_rows_total", 4, result="ok")], "m", (3,))
    assert (found.live[3].rows, found.shadow[3].rows) == (4, 0)


def test_a_row_with_one_of_three_views_missing_counts_a_third() -> None:
    samples = [sample("serinus_feature_stale_total", 0, view=view) for view in ("a", "b", "c")]
    samples.append(sample("serinus_feature_missing_total", 6, view="a", reason="absent", traffic="shadow"))
    assert arms(samples, "m", (3,)).shadow[3].problems == 2


def test_rows_that_were_never_looked_up_are_no_exposure() -> None:
    rows = [sample("serinus_rows_total", 1, result=result) for result in ("ok", "failed", "invalid")]
    assert arms(rows, "m", (3,)).live[3].rows == 2


counts = st.integers(0, 10**6).map(float)
filled = st.builds(
    Arm,
    requests=counts,
    errors=counts,
    latency_edges=st.just((0.1, 1.0)),
    latency=st.tuples(counts, counts, counts),
    rows=counts,
    problems=counts,
    predictions=st.just(()) | st.tuples(counts, counts),
    routed=counts,
)


@given(filled | st.just(Arm()), filled | st.just(Arm()))
def test_totals_grow_by_what_is_added(before: Arm, more: Arm) -> None:
    total = added(before, more)
    assert total is not None
    assert total.requests == before.requests + more.requests
    assert sum(total.latency) == sum(before.latency) + sum(more.latency)
    assert sum(total.predictions) == sum(before.predictions) + sum(more.predictions)
    assert added(total, Arm()) == total


def test_other_edges_cannot_be_added() -> None:
    first, other = (Arm(latency_edges=(edge,), latency=(1, 1)) for edge in (0.1, 0.2))
    assert added(first, other) is None


def test_what_is_no_page_of_metrics_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="invalid metric name"):
        parse("<html>nothing here</html>")
