"""The operator's queue: nothing is forgotten, nothing is looked at by two at once, each at its earliest time."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serinus.operator.queue import Key, WorkQueue

KEYS = [Key("ModelDeployment", "demo", name) for name in ("a", "b", "c")]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def due(queue: WorkQueue) -> Key | None:
    """What `take` would give without waiting."""
    if not len(queue):
        return None
    taken: list[Key] = []
    thread = threading.Thread(target=lambda: taken.append(queue.take()[0]), daemon=True)  # type: ignore[index]
    thread.start()
    thread.join(timeout=0.5)
    if not taken:
        queue.close()
        thread.join()
        raise AssertionError("something was due, and nothing was given")
    return taken[0]


def test_the_earliest_time_counts_and_a_look_is_taken_once() -> None:
    clock = Clock()
    queue = WorkQueue(clock)
    queue.add(KEYS[0], 60)
    queue.add(KEYS[0], 5)
    queue.add(KEYS[0], 30)
    assert len(queue) == 0
    clock.now = 7
    assert queue.take() == (KEYS[0], pytest.approx(2.0))
    assert len(queue) == 0


def test_what_happens_during_a_look_makes_another_one() -> None:
    clock = Clock()
    queue = WorkQueue(clock)
    queue.add(KEYS[0])
    assert queue.take() == (KEYS[0], 0.0)
    queue.add(KEYS[0])
    queue.add(KEYS[1])
    assert queue.take() == (KEYS[1], 0.0), "one that is looked at is not given to a second worker"
    queue.done(KEYS[0], after=100)
    assert queue.take() == (KEYS[0], 0.0)
    queue.done(KEYS[0])
    clock.now = 1000
    assert len(queue) == 0, "nobody asked for another look"


def test_what_is_due_often_does_not_queue_behind_what_is_due_seldom() -> None:
    clock = Clock()
    queue = WorkQueue(clock)
    idle = [Key("ModelDeployment", "demo", f"idle-{at}") for at in range(1000)]
    for key in idle:
        queue.add(key, 60)
    queue.add(KEYS[0], 62)
    clock.now = 61
    queue.add(KEYS[1], 10)
    queue.add(KEYS[2], 2, slack=30)
    clock.now = 71
    taken = [queue.take() for _ in range(1003)]
    assert taken[0] == (KEYS[1], 0.0)
    # Nothing waits for ever: what was due long ago comes before what has just become due.
    assert [each[0] for each in taken[1:] if each] == [*sorted(idle), KEYS[0], KEYS[2]]


def test_those_who_wait_are_let_go() -> None:
    queue = WorkQueue()
    given_back: list[object] = []
    thread = threading.Thread(target=lambda: given_back.append(queue.take()))
    thread.start()
    queue.close()
    thread.join(timeout=10)
    assert given_back == [None]


def test_who_waits_is_woken() -> None:
    queue = WorkQueue()
    taken: list[object] = []
    thread = threading.Thread(target=lambda: taken.append(queue.take()), daemon=True)
    thread.start()
    queue.add(KEYS[2], after=0.05)
    thread.join(timeout=10)
    assert len(taken) == 1


class Looks(RuleBasedStateMachine):
    """Any order of adding, taking and ending, against a plain model."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.queue = WorkQueue(self.clock)
        self.times: dict[Key, tuple[float, float]] = {}
        self.busy: set[Key] = set()

    @rule(key=st.sampled_from(KEYS), after=st.floats(0, 10))
    def add(self, key: Key, after: float) -> None:
        self.queue.add(key, after)
        self.added(key, after)

    def added(self, key: Key, after: float) -> None:
        at = self.clock.now + after
        deadline = at + after / 4
        before = self.times.get(key, (at, deadline))
        self.times[key] = (min(at, before[0]), min(deadline, before[1]))

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def take(self) -> None:
        ready = {key: each for key, each in self.times.items() if each[0] <= self.clock.now and key not in self.busy}
        if not ready:
            return
        found = self.queue.take()
        assert found is not None
        key, late = found
        assert ready[key][1] == min(deadline for _, deadline in ready.values())
        assert late == pytest.approx(self.clock.now - self.times.pop(key)[0])
        self.busy.add(key)

    @rule(after=st.one_of(st.none(), st.floats(0, 10)), data=st.data())
    def done(self, after: float | None, data: st.DataObject) -> None:
        if not self.busy:
            return
        key = data.draw(st.sampled_from(sorted(self.busy)))
        self.busy.remove(key)
        self.queue.done(key, after)
        if after is not None:
            self.added(key, after)

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert len(self.queue) == sum(at <= self.clock.now for at, _ in self.times.values())


TestLooks = Looks.TestCase


@given(st.permutations(KEYS))
def test_keys_come_in_the_order_of_their_times(order: list[Key]) -> None:
    clock = Clock()
    queue = WorkQueue(clock)
    for position, key in enumerate(order):
        queue.add(key, float(position))
    clock.now = 10
    assert [due(queue) for _ in order] == order
