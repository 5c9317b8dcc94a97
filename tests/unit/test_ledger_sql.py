"""The ledger in a database: the same promises as the file's, and of two that decide at once only one is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sql

from serinus.core.errors import Conflict, EngineError, IntegrityError, NotFound
from serinus.core.ledger import Head, entry_of
from serinus.core.rollout import Situation, decide
from serinus.engines.ledger_sql import LedgerDatabase, SqlLedger
from tests.support_ledger import BAD, Recorded
from tests.support_rollout import Rollout, World


@pytest.fixture
def database(tmp_path: Path) -> LedgerDatabase:
    return LedgerDatabase(f"sqlite:///{tmp_path / 'ledger.db'}")


@pytest.fixture
def ledger(database: LedgerDatabase) -> SqlLedger:
    """A rollout that was taken back, beside another deployment's ledger."""
    found = database.ledger("demo/flights")
    for each in (found, database.ledger("demo/trains")):
        one = Recorded(World(Rollout(), canary=BAD), each)  # type: ignore[arg-type]
        one.until("rollback", most=60)
    return found


def change(database: LedgerDatabase, statement: sql.Executable) -> None:
    with database.engine.begin() as connection:
        connection.execute(statement)


def test_it_is_good_and_comes_out_again(ledger: SqlLedger) -> None:
    verified = ledger.verify()
    assert verified == ledger.replay()
    assert verified.broken is None
    assert verified.entries == ledger.count() > 5
    oldest_first = list(ledger.entries())
    assert list(ledger.newest_first()) == oldest_first[::-1]
    assert ledger.entry(3) == oldest_first[2]
    head = ledger.head()
    assert (head.number, head.digest) == (oldest_first[-1].number, oldest_first[-1].digest)


def test_long_ledgers_are_read_in_parts(ledger: SqlLedger) -> None:
    assert [len(line) for line in ledger._lines(chunk=2)] == [len(line) for line in ledger._lines()]


def test_a_changed_entry_is_named(ledger: SqlLedger, database: LedgerDatabase) -> None:
    table = database.entries
    third = (table.c.deployment == "demo/flights") & (table.c.number == 3)
    with database.engine.connect() as connection:
        line = connection.execute(sql.select(table.c.line).where(third)).scalar_one()
    change(database, sql.update(table).where(third).values(line=line.replace(b'"who":"serinus"', b'"who":"someone"')))
    broken = ledger.verify().broken
    assert broken is not None
    assert broken.number == 3
    with pytest.raises(IntegrityError, match="entry 3 of the ledger of demo/flights"):
        ledger.entry(3)
    assert database.ledger("demo/trains").verify().broken is None


def test_entries_that_were_taken_away_are_missed(ledger: SqlLedger, database: LedgerDatabase) -> None:
    table, last = database.entries, ledger.count()
    change(database, sql.delete(table).where(table.c.deployment == "demo/flights", table.c.number == last))
    broken = ledger.verify().broken
    assert broken is not None
    assert broken.number == last
    with pytest.raises(IntegrityError, match="it is missing"):
        ledger.head()


def test_a_head_that_was_lost_or_changed_is_made_again(ledger: SqlLedger, database: LedgerDatabase) -> None:
    head, table = ledger.head(), database.heads
    change(database, sql.delete(table).where(table.c.deployment == "demo/flights"))
    again = ledger.head()
    assert (again.number, again.digest) == (head.number, head.digest)
    assert head.state is not None
    wrong = head.model_copy(update={"state": head.state.model_copy(update={"stable": 99})})
    change(
        database,
        sql.insert(table).values(deployment="demo/flights", head=wrong.model_dump_json(by_alias=True).encode()),
    )
    found = ledger.head().state
    assert found is not None
    assert found.stable == head.state.stable


def test_of_two_that_decide_at_once_one_is_written(ledger: SqlLedger) -> None:
    head = ledger.head()
    assert head.state is not None
    last = next(ledger.newest_first())
    decision = decide(Rollout(), head.state, Situation(), last.at)
    entry = entry_of(head, "flights", Rollout(), Situation(), decision)
    ledger.append(head, entry, decision.state)
    with pytest.raises(Conflict, match="decided meanwhile"):
        ledger.append(head, entry, decision.state)
    assert ledger.head().number == head.number + 1
    assert ledger.verify().broken is None


def test_nothing_was_decided_yet(database: LedgerDatabase) -> None:
    empty = database.ledger("demo/none")
    assert empty.head() == empty.seen() == Head()
    assert empty.count() == 0
    with pytest.raises(NotFound, match="no entry 1"):
        empty.entry(1)


def test_a_database_that_is_away_is_told_without_its_password(tmp_path: Path) -> None:
    away = LedgerDatabase(f"sqlite:///{tmp_path / 'geheim' / 'ledger.db'}")
    with pytest.raises(EngineError, match="cannot be opened: unable to open database file") as caught:
        away.ledger("demo/flights").head()
    assert "geheim" not in str(caught.value)
    with pytest.raises(EngineError, match="needs a driver"):
        LedgerDatabase("mssql+pymssql://someone@127.0.0.1/serinus").ledger("demo/flights").head()
