"""What an exchange of questions promises in any database: SQLite in tests/unit, PostgreSQL in tests/cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from serinus.engines.ledger_exchange import Asked, Exchange, Task

NOW = datetime(2024, 5, 2, 12, 0, 0, 123456, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
FLIGHTS, TRAINS = "demo/flights", "demo/trains"


def ask(exchange: Exchange, place: str = FLIGHTS, at: datetime = NOW, identity: str = "one") -> None:
    exchange.ask(place, Asked(f"{identity} at {at:%H:%M:%S}", identity, at, at + 30 * MINUTE))


def take(exchange: Exchange, at: datetime) -> Task:
    found = exchange.take(at, 5 * MINUTE)
    assert found is not None
    return found


class ExchangePromises:
    """Tests of an `exchange` that is empty, and of another one, `opened` by another process on the same table."""

    def test_a_question_is_answered(self, exchange: Exchange) -> None:
        assert exchange.standing(FLIGHTS) is None
        assert exchange.take(NOW, MINUTE) is None
        assert exchange.longest() is None
        ask(exchange)
        assert exchange.longest() == NOW
        task = take(exchange, NOW)
        assert task == Task(FLIGHTS, "one at 12:00:00", "one", NOW, None)
        assert exchange.give(task, "fine", "what I know", NOW + 30 * SECOND)
        standing = exchange.standing(FLIGHTS)
        assert standing is not None
        assert (standing.identity, standing.first, standing.asked) == ("one", NOW, NOW)
        assert (standing.answer, standing.about) == ("fine", NOW)
        assert exchange.longest() is None

    def test_it_is_answered_again_once_it_was_asked_again_and_its_turn_has_come(self, exchange: Exchange) -> None:
        ask(exchange)
        exchange.give(take(exchange, NOW), "fine", "what I know", NOW + 30 * SECOND)
        assert exchange.take(NOW + MINUTE, MINUTE) is None
        ask(exchange, at=NOW + 10 * SECOND)
        assert exchange.take(NOW + 29 * SECOND, MINUTE) is None
        assert exchange.longest() == NOW + 30 * SECOND
        standing = exchange.standing(FLIGHTS)
        assert standing is not None
        assert (standing.answer, standing.first, standing.asked) == ("fine", NOW, NOW + 10 * SECOND)
        again = take(exchange, NOW + 30 * SECOND)
        assert again == Task(FLIGHTS, "one at 12:00:10", "one", NOW + 10 * SECOND, "what I know")

    def test_another_question_has_no_answer_yet_and_takes_none_that_comes_late(self, exchange: Exchange) -> None:
        ask(exchange)
        late = take(exchange, NOW)
        ask(exchange, at=NOW + SECOND, identity="two")
        assert not exchange.give(late, "about one", None, NOW)
        standing = exchange.standing(FLIGHTS)
        assert standing is not None
        assert (standing.identity, standing.first, standing.answer) == ("two", NOW + SECOND, None)
        assert take(exchange, NOW + SECOND).identity == "two"

    def test_who_has_waited_longest_comes_first(self, exchange: Exchange) -> None:
        ask(exchange, TRAINS, NOW + SECOND)
        ask(exchange, FLIGHTS, NOW)
        assert [take(exchange, NOW + MINUTE).place for _ in range(2)] == [FLIGHTS, TRAINS]

    def test_what_is_taken_is_nobody_elses_until_it_is_put_back_or_time_is_up(
        self, exchange: Exchange, opened: Callable[[], Exchange]
    ) -> None:
        other = opened()
        ask(exchange)
        task = take(exchange, NOW)
        assert other.take(NOW + 4 * MINUTE, MINUTE) is None
        assert take(other, NOW + 5 * MINUTE).place == FLIGHTS
        other.put_back(task)
        assert take(exchange, NOW + 5 * MINUTE).place == FLIGHTS

    def test_asking_does_not_wait_for_who_answers(self, exchange: Exchange, opened: Callable[[], Exchange]) -> None:
        ask(exchange)
        task = take(exchange, NOW)
        ask(opened(), at=NOW + 10 * SECOND)
        assert exchange.give(task, "fine", None, NOW + SECOND)
        standing = exchange.standing(FLIGHTS)
        assert standing is not None
        assert (standing.asked, standing.about) == (NOW + 10 * SECOND, NOW)

    def test_of_several_scorers_each_question_has_one(self, exchange: Exchange, opened: Callable[[], Exchange]) -> None:
        wanted = {f"demo/model-{number}" for number in range(20)}
        for number, place in enumerate(sorted(wanted)):
            ask(exchange, place, NOW + number * SECOND)
        taken: Counter[str] = Counter()

        def work(own: Exchange) -> None:
            while set(taken) != wanted:
                task = own.take(NOW + MINUTE, MINUTE)
                if task is not None:
                    taken[task.place] += 1

        with ThreadPoolExecutor(3) as pool:
            for done in [pool.submit(work, opened()) for _ in range(3)]:
                done.result(timeout=60)
        assert set(taken.values()) == {1}

    def test_what_nobody_asks_any_more_is_forgotten(self, exchange: Exchange) -> None:
        ask(exchange, FLIGHTS)
        ask(exchange, TRAINS, NOW + MINUTE)
        assert exchange.places(NOW + 30 * MINUTE) == {FLIGHTS, TRAINS}
        assert exchange.places(NOW + 30 * MINUTE + SECOND) == {TRAINS}
        assert exchange.standing(FLIGHTS) is None
