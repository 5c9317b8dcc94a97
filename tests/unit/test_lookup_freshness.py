"""Ages against limits, policies for what is missing or stale, and the cache of decoded rows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from serinus.core.signature import View
from serinus.core.spec import FeaturePolicy
from serinus.serve.freshness import ABSENT_TIME, Judge, Judged, State
from serinus.serve.lookup import Cache, Row

NOW = 1_700_000_000_000_000
HOUR = 3_600_000_000


def judge(known_at: int, ttl: float | None = 3600.0, *, available: bool = True, **policy: Any) -> Judged:
    one = Judge(View(name="view", join_keys=("key",), ttl_seconds=ttl), FeaturePolicy(**policy))
    return one.judge(np.array([known_at]), np.array([available]), np.array([NOW]))


@pytest.mark.parametrize(
    ("known_at", "ttl", "state"),
    [
        (NOW, 3600, State.PRESENT),
        (NOW + 1, 3600, State.EARLY),
        (NOW - HOUR, 3600, State.PRESENT),
        (NOW - HOUR - 1, 3600, State.STALE),
        (NOW - 10**6 * HOUR, None, State.PRESENT),
        (NOW - 10**6 * HOUR, 0, State.PRESENT),
        (ABSENT_TIME, 3600, State.ABSENT),
        (ABSENT_TIME, None, State.ABSENT),
    ],
)
def test_a_value_lives_from_the_time_it_is_known_until_its_ttl_has_passed(
    known_at: int, ttl: float | None, state: State
) -> None:
    judged = judge(known_at, ttl)
    assert judged.states.tolist() == [state]
    assert judged.hidden.tolist() == [state != State.PRESENT]
    assert judged.rejected == judged.flagged == []


def test_a_store_that_did_not_answer_is_told_from_one_that_has_nothing() -> None:
    assert judge(ABSENT_TIME, available=False).states.tolist() == [State.UNAVAILABLE]


@pytest.mark.parametrize(
    ("policy", "hidden", "rejected", "flagged"),
    [
        ({"on_stale": "impute"}, True, [], []),
        ({"on_stale": "flag"}, False, [], [0]),
        ({"on_stale": "reject"}, True, [0], []),
    ],
)
def test_stale_values_follow_the_policy(
    policy: dict[str, Any], hidden: bool, rejected: list[int], flagged: list[int]
) -> None:
    judged = judge(NOW - 2 * HOUR, **policy)
    assert (judged.hidden.tolist(), judged.rejected, judged.flagged) == ([hidden], rejected, flagged)


@pytest.mark.parametrize(("known_at", "available"), [(ABSENT_TIME, True), (NOW + 1, True), (ABSENT_TIME, False)])
def test_missing_values_follow_the_policy(known_at: int, available: bool) -> None:
    assert judge(known_at, available=available, on_missing="reject").rejected == [0]
    assert judge(known_at, available=available, on_missing="impute", on_stale="reject").rejected == []


def test_the_policys_age_takes_the_place_of_the_ttl() -> None:
    assert judge(NOW - 2 * HOUR, maximum_age=timedelta(hours=2)).states.tolist() == [State.PRESENT]
    assert judge(NOW - HOUR, None, maximum_age=timedelta(minutes=59)).states.tolist() == [State.STALE]


def test_reasons_name_view_entity_age_and_limit() -> None:
    one = Judge(View(name="hourly", join_keys=("origin",), ttl_seconds=7200), FeaturePolicy())
    stale = one.reason(State.STALE, {"origin": "JFK"}, NOW - 3 * HOUR, NOW)
    assert stale.message == "feature view hourly for origin='JFK': values are 3h old, limit 2h"
    assert stale.status == 422
    assert one.reason(State.ABSENT, {}, ABSENT_TIME, NOW).message == "feature view hourly for all rows: no values"
    assert "known only after" in one.reason(State.EARLY, {"origin": "JFK"}, NOW + 1, NOW).message
    assert one.reason(State.UNAVAILABLE, {"origin": "JFK"}, ABSENT_TIME, NOW).status == 503


def test_the_cache_forgets_by_age_and_by_number() -> None:
    rows = {(name,): Row(at, (), ()) for at, name in enumerate("abc")}
    cache = Cache(seconds=1.0, rows=2)
    cache.put(rows, now=10.0)
    assert cache.get(("a",), 10.0) is None
    assert cache.get(("b",), 10.5) == rows["b",]
    assert cache.get(("b",), 11.0) is None
    cache.put({("b",): rows["b",]}, now=11.0)
    cache.put({("d",): rows["a",]}, now=11.1)
    assert cache.get(("c",), 10.5) is None
    assert cache.get(("b",), 11.2) == rows["b",]
