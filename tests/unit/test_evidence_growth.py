"""How far counters grew: the same for any way of looking, and never less."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.core.errors import EngineError, InvalidInput
from serinus.engines.envoy_counts import Attempts, DoorTotals
from serinus.engines.prometheus import Connection, Prometheus, growth, quoted
from serinus.serve.door_counts import Kept

counters = st.lists(st.integers(0, 1000), min_size=1, max_size=30)


@given(counters, st.lists(st.integers(0, 30)))
def test_any_split_into_looks_gives_the_same_total(samples: list[int], cuts: list[int]) -> None:
    borders = sorted({0, len(samples), *(min(cut, len(samples)) for cut in cuts)})
    total, base = 0.0, None
    for start, end in pairwise(borders):
        more = growth(base, samples[start:end])
        assert more >= 0
        total, base = total + more, samples[end - 1]
    assert total == growth(None, samples)


@given(st.lists(st.lists(st.integers(0, 100), min_size=1, max_size=5), min_size=1, max_size=5))
def test_lives_that_begin_at_nought_add_up(lives: list[list[int]]) -> None:
    samples, truth = [], 0
    for steps in lives:
        if samples:
            samples.append(0)  # the look after the restart: without it, a life that overtakes hides the one before
        value = 0
        for step in steps:
            value += step
            samples.append(value)
        truth += value
    assert growth(None, samples) == truth


def test_a_counter_grows_from_where_it_was() -> None:
    assert growth(None, [5, 7]) == 7
    assert growth(5, [7]) == 2
    assert growth(5, [3]) == 3
    assert growth(5, []) == growth(None, []) == 0


steps = st.tuples(st.sampled_from("ab"), st.integers(0, 50), st.integers(0, 50))


@given(st.lists(steps, max_size=20))
def test_totals_of_the_door_never_fall_and_hold_all_of_each_process(looks: list[tuple[str, int, int]]) -> None:
    kept, process, life = Kept(), "", 0
    ok, routed = Attempts(3, "live", "ok"), 0
    attempts, door = 0, {"ok": 0, "routed": 0}
    for name, more, given_to in looks:
        if name != process:
            process, life, door = name, life + 1, {"ok": 0, "routed": 0}
        door["ok"] += more
        door["routed"] += given_to
        attempts, routed = attempts + more, routed + given_to
        found = DoorTotals(type(kept.totals.attempts)({ok: door["ok"]}), type(kept.totals.routed)({3: door["routed"]}))
        after = Kept.model_validate_json(kept.grown(found, f"{name}{life}").model_dump_json())
        assert after.totals.attempts[ok] == attempts
        assert after.totals.routed[3] == routed
        assert after.grown(found, f"{name}{life}") == after, "a look that is repeated changes nothing"
        kept = after


def test_a_version_that_is_gone_keeps_its_totals() -> None:
    def door(**counts: int) -> DoorTotals:
        totals = Kept().totals
        totals.routed.update({int(name[1:]): count for name, count in counts.items()})
        return totals

    kept = Kept().grown(door(v1=5, v2=7), "a").grown(door(v2=8), "a").grown(door(v1=2, v2=9), "a")
    assert kept.totals.routed == {1: 7, 2: 9}, "it came back, and was counted from nought"


def test_promql_strings_are_quoted() -> None:
    assert quoted('a"b\\c\n') == '"a\\"b\\\\c\\n"'


def test_no_credentials_are_told() -> None:
    with pytest.raises(EngineError, match=r"http://127\.0\.0\.1:1 does not answer") as caught:
        Prometheus(Connection("http://user:geheim@127.0.0.1:1?token=geheim")).instant("up", datetime.now(UTC))
    assert "geheim" not in str(caught.value)
    with pytest.raises(InvalidInput, match="cannot be read") as refused:
        Prometheus(Connection("http://user:geheim@host:port"))
    assert "geheim" not in str(refused.value)
