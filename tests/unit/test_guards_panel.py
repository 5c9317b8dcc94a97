"""The panel: the same answer for one rollout and for many, after packing, and nothing said without data."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serinus.core.errors import InvalidInput
from serinus.core.evidence import Arm
from serinus.core.guards.panel import Panel, States
from serinus.core.guards.reading import ArmCounts, Evidences, Traffic
from serinus.core.sequential import decide_by_evidence
from serinus.core.spec.rollout import Rollout
from tests.support_guards import EDGES, PREDICTIONS, Service, World, interval, latencies, one, panel

QUERY = {"name": "refunds", "numerator": 'bad{v="$version"}', "denominator": 'all{v="$version"}'}
ROLLOUT = Rollout.model_validate({"guards": {"queries": [QUERY]}})
BAD = World(canary=Service(errors=0.05, latency=latencies(1.6), problems=0.2, query=0.2))
quick = settings(max_examples=25, deadline=None, derandomize=True)


def leaves(states: Any) -> list[np.ndarray[Any, Any]]:
    if isinstance(states, tuple):
        return [leaf for part in states for leaf in leaves(part)]
    return [np.asarray(states)]


def same(ours: States, theirs: States) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(leaves(ours), leaves(theirs), strict=True))


def run(board: Panel, traffic: list[Traffic], shape: tuple[int, ...] = ()) -> States:
    states = board.start(shape)
    for each in traffic:
        states = board.update(states, each)
    return states


def evidences(board: Panel, states: States) -> list[Evidences]:
    return [guard.evidences(state) for guard, state in zip(board.guards, states, strict=True)]


worlds = st.builds(
    World,
    canary=st.builds(
        Service,
        errors=st.floats(0, 0.3),
        latency=st.floats(0.7, 2).map(latencies),
        problems=st.floats(0, 0.5),
        predictions=st.integers(0, 20).map(
            lambda b: tuple(0.7 * p + 0.3 * (i == b) for i, p in enumerate(PREDICTIONS))
        ),
        query=st.floats(0, 1),
    ),
    requests=st.sampled_from([0, 10, 2000]),
    weight=st.sampled_from([0.0, 0.05, 0.5]),
)


@quick
@given(st.lists(worlds, min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_many_rollouts_at_once_are_the_same_as_one_by_one(seen: list[World], seed: int) -> None:
    rng, board = np.random.default_rng(seed), panel(ROLLOUT)
    traffic = [world.traffic(rng, 3, board.slow_above) for world in seen]
    together = run(board, traffic, (3,))
    codes = board.codes(together)
    assert codes.shape == (3, len(board.names))
    assert codes.dtype == np.int8
    for rollout in range(3):
        alone = run(board, [one(each, rollout) for each in traffic])
        np.testing.assert_array_equal(board.codes(alone), codes[rollout])
        for ours, theirs in zip(evidences(board, together), evidences(board, alone), strict=True):
            np.testing.assert_allclose(ours.harm[rollout], theirs.harm, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(ours.safe[rollout], theirs.safe, rtol=1e-9, atol=1e-9)


@quick
@given(st.lists(worlds, min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_codes_are_what_the_evidence_amounts_to_and_what_readings_say(seen: list[World], seed: int) -> None:
    rng, board = np.random.default_rng(seed), panel(ROLLOUT)
    states = run(board, [one(world.traffic(rng, 1, board.slow_above), 0) for world in seen])
    codes = board.codes(states)
    for position, (each, share) in enumerate(zip(evidences(board, states), board.shares, strict=True)):
        assert codes[position] == decide_by_evidence(each.harm, each.safe, share)
    said = {"safe": -1, "undecided": 0, "harm": 1}
    readings = board.readings(states)
    assert [said[reading.verdict] for reading in readings] == codes.tolist()
    assert [reading.guard for reading in readings] == list(board.names)
    assert [reading.blocking for reading in readings] == board.blocking.tolist()
    for reading in readings:
        assert reading.model_validate_json(reading.model_dump_json()) == reading
        assert (reading.harm_evidence >= 1) == (reading.verdict == "harm")
        assert reading.verdict != "safe" or reading.safe_evidence >= 1


@quick
@given(st.lists(worlds, min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_the_interval_of_a_rate_agrees_with_its_verdict(seen: list[World], seed: int) -> None:
    rng, board = np.random.default_rng(seed), panel(ROLLOUT)
    states = run(board, [one(world.traffic(rng, 1, board.slow_above), 0) for world in seen])
    for reading, state, guard, share in zip(board.readings(states), states, board.guards, board.shares, strict=True):
        if reading.guard not in ("errors", "slow", "features", "refunds"):
            continue
        assert reading.harm_above == 0
        assert reading.safe_below is not None
        assert (reading.low is not None and reading.low >= 0) == (reading.verdict == "harm")
        safe = float(guard.evidences(state).safe) >= -np.log(share.safe)
        assert (reading.high is not None and reading.high <= reading.safe_below) == safe


@quick
@given(st.lists(worlds, min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_packing_loses_nothing(seen: list[World], seed: int) -> None:
    rng, board = np.random.default_rng(seed), panel(ROLLOUT)
    *early, last = [one(world.traffic(rng, 1, board.slow_above), 0) for world in [*seen, BAD]]
    states = run(board, early)
    back = board.unpack(json.loads(json.dumps(board.pack(states), allow_nan=False)))
    assert same(back, states)
    assert same(board.update(back, last), board.update(states, last))
    assert board.readings(back) == board.readings(states)


def test_a_state_of_other_guards_is_refused() -> None:
    board, other = panel(ROLLOUT), panel(Rollout())
    with pytest.raises(InvalidInput, match="refunds"):
        board.unpack(other.pack(other.start()))
    packed = board.pack(board.start())
    with pytest.raises(InvalidInput, match=r"errors.canary has shape \(3,\)"):
        board.unpack({**packed, "errors": {**packed["errors"], "canary": [0.0, 0.0, 0.0]}})
    with pytest.raises(InvalidInput, match="the state of errors lacks"):
        board.unpack({**packed, "errors": {"canary": [0.0, 0.0]}})


def unlearned(board: Panel, states: States) -> list[np.ndarray[Any, Any]]:
    """All evidence but the one that learns from earlier intervals what to bet on in later ones."""
    pairs = dict(zip(board.names, evidences(board, states), strict=True))
    return [np.asarray(each) for name, pair in pairs.items() for each in pair[name == "predictions" :]]


def test_the_order_of_intervals_does_not_matter() -> None:
    rng, board = np.random.default_rng(5), panel(ROLLOUT)
    traffic = [one(world.traffic(rng, 1, board.slow_above), 0) for world in (BAD, World(), World(weight=0.4))]
    first, *others = (unlearned(board, run(board, list(order))) for order in permutations(traffic))
    for other in others:
        np.testing.assert_allclose(first, other, rtol=1e-9, atol=1e-9)


def merged(arms: list[ArmCounts]) -> ArmCounts:
    return ArmCounts(*(np.sum(values, axis=0) for values in zip(*arms, strict=True)))


def test_intervals_of_equal_exposure_may_be_merged() -> None:
    rng, board = np.random.default_rng(6), panel(ROLLOUT)
    ours = [World(requests=100, weight=1.0).traffic(rng, 1, board.slow_above).canary for _ in range(2)]
    theirs = [World(requests=900, weight=0.0).traffic(rng, 1, board.slow_above).stable for _ in range(2)]
    weight = np.asarray(0.1)
    parts = [Traffic(canary, stable, weight) for canary, stable in zip(ours, theirs, strict=True)]
    whole = Traffic(merged(ours), merged(theirs), weight)
    split, together = (unlearned(board, run(board, each, (1,))) for each in (parts, [whole]))
    np.testing.assert_allclose(split, together, rtol=1e-9, atol=1e-9)


def test_an_empty_interval_changes_nothing_however_often_it_comes() -> None:
    rng, board = np.random.default_rng(7), panel(ROLLOUT)
    states = run(board, [one(BAD.traffic(rng, 1, board.slow_above), 0)])
    empty = board.traffic(interval(Arm(), Arm()), 0.05)
    assert same(run_on(board, states, [empty] * 3), states)


def run_on(board: Panel, states: States, traffic: list[Traffic]) -> States:
    for each in traffic:
        states = board.update(states, each)
    return states


@pytest.mark.parametrize("shadow", [False, True])
def test_without_traffic_every_guard_is_undecided_and_says_so(shadow: bool) -> None:
    board = panel(ROLLOUT, shadow=shadow)
    states = run(board, [board.traffic(interval(Arm(), Arm()), 0.05)])
    assert board.codes(states).tolist() == [0] * len(board.names)
    for reading in board.readings(states):
        assert "yet: undecided" in reading.text
        assert (reading.value, reading.low, reading.high) == (None, None, None)
        assert (reading.canary, reading.stable) == (0, 0)
    assert not any(each.stable_sick or each.canary_well for each in board.health(states).values())


@pytest.mark.parametrize("side", ["canary", "stable"])
def test_traffic_of_one_version_only_is_never_safe_nor_harm(side: str) -> None:
    """But for what the candidate itself was expected to predict, which needs no stable version."""
    rng, board = np.random.default_rng(8), panel(ROLLOUT)
    world = BAD.at(1.0 if side == "canary" else 0.0)
    states = run(board, [one(world.traffic(rng, 1, board.slow_above), 0) for _ in range(5)])
    assert board.codes(states).tolist() == [0] * len(board.names)
    missing = "stable version" if side == "canary" else "canary"
    for reading in board.readings(states):
        if reading.guard not in ("expected", "sample-ratio"):
            assert f"of the {missing} yet: undecided" in reading.text


def test_guards_without_their_data_stay_undecided_beside_those_with() -> None:
    board = panel(ROLLOUT)
    quiet = board.traffic(interval(Arm(requests=5000), Arm(requests=95000, errors=10)), 0.05)
    codes = dict(zip(board.names, board.codes(run(board, [quiet])).tolist(), strict=True))
    assert codes.pop("errors") == -1
    assert set(codes.values()) == {0}


def test_an_interval_becomes_traffic() -> None:
    board = panel(ROLLOUT)
    buckets = tuple(float(step) for step in range(len(EDGES) + 1))
    arm = Arm(
        requests=7,
        errors=2,
        latency_edges=EDGES,
        latency=buckets,
        rows=9,
        problems=1.5,
        predictions=tuple(float(step) for step in range(21)),
        queries={"others": (9, 9), "refunds": (3, 4)},
        routed=6,
    )
    ours, theirs, weight, seconds, apart = board.traffic(
        interval(arm, Arm()).model_copy(update={"apart": timedelta(seconds=15)}), 0.05
    )
    over = next(step for step, edge in enumerate(EDGES) if edge >= 0.1)
    assert float(ours.slow) == sum(buckets[over + 1 :])
    assert [float(each) for each in (ours.requests, ours.errors, ours.rows, ours.problems)] == [7, 2, 9, 1.5]
    assert ours.latency.tolist() == list(buckets)
    assert ours.predictions.tolist() == list(range(21))
    assert ours.queries.tolist() == [[3, 4]]
    assert float(ours.routed) == 6
    assert float(weight) == 0.05
    assert (seconds, apart) == (60, 15)
    assert theirs.latency.shape == ours.latency.shape
    assert theirs.queries.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("threshold", "edges", "slow"),
    [("100ms", (0.05, 0.1, 0.2), 7), ("101ms", (0.05, 0.1, 0.2), 4), ("9s", (0.05, 0.1), 3)],
)
def test_slow_begins_at_the_next_edge_or_the_last(threshold: str, edges: tuple[float, ...], slow: int) -> None:
    rollout = Rollout.model_validate({"guards": {"slow": {"threshold": threshold}}})
    board = Panel.of(rollout, shadow=False, expected=None, latency_edges=edges)
    arm = Arm(latency_edges=edges, latency=(1.0, 2.0, 3.0, 4.0)[: len(edges) + 1])
    assert float(board.traffic(interval(arm, arm), 0.5).canary.slow) == slow


def test_latency_without_known_edges_is_not_judged() -> None:
    board = Panel.of(Rollout(), shadow=False, expected=None, latency_edges=())
    arm = Arm(requests=10_000, latency_edges=EDGES, latency=(5.0,) * (len(EDGES) + 1))
    said = {each.guard: each.verdict for each in board.readings(run(board, [board.traffic(interval(arm, arm), 0.5)]))}
    assert (said["slow"], said["latency"], said["errors"]) == ("undecided", "undecided", "safe")


def test_bins_that_do_not_fit_are_refused() -> None:
    board = panel(Rollout())
    for arm in (
        Arm(latency_edges=(0.1,), latency=(1, 2)),
        Arm(latency_edges=tuple(2 * edge for edge in EDGES), latency=(1.0,) * (len(EDGES) + 1)),
        Arm(predictions=(1, 2, 3)),
    ):
        with pytest.raises(InvalidInput, match=r"bins|edges"):
            board.traffic(interval(arm, Arm()), 0.05)


def test_what_is_not_enabled_is_not_asked() -> None:
    off = {name: {"enabled": False} for name in ("errors", "latency", "predictions", "sampleRatio")}
    board = panel(Rollout.model_validate({"guards": {**off, "queries": [{**QUERY, "blocking": False}]}}))
    assert board.names == ("slow", "features", "refunds")
    assert board.blocking.tolist() == [True, True, False]
    assert set(board.health(board.start())) == {"features"}
    none = {name: {"enabled": False} for name in ("slow", "features", "quality")}
    nobody = panel(Rollout.model_validate({"confirmation": None, "guards": {**off, **none}}))
    assert nobody.codes(nobody.start()).tolist() == []
    assert nobody.readings(nobody.start()) == ()


def test_a_shadow_has_no_split_and_an_unknown_expectation_no_guard() -> None:
    assert set(panel(Rollout()).names) - set(panel(Rollout(), shadow=True).names) == {"sample-ratio"}
    board = Panel.of(Rollout(), shadow=False, expected=None, latency_edges=EDGES)
    assert set(panel(Rollout()).names) - set(board.names) == {"expected"}
