"""The PostgreSQL that models and their operator rest on: questions are exchanged in it, and its connections end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sql

from serinus.core.errors import EngineError
from serinus.core.ledger import Head
from serinus.engines import ledger_sql
from serinus.engines.ledger_exchange import Exchange
from serinus.engines.ledger_sql import LedgerDatabase
from tests.support_exchange import ExchangePromises
from tests.support_platform import platform


@pytest.fixture
def schema() -> str:
    return f"tests_{uuid4().hex[:8]}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[sql.Engine]:
    url = platform(tmp_path).ledger_uri
    assert url is not None
    engine = sql.create_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def database(server: sql.Engine, schema: str) -> Iterator[Callable[[], LedgerDatabase]]:
    """With tables of its own: a scorer may be at work on the usual ones."""
    with server.begin() as connection:
        connection.execute(sql.schema.CreateSchema(schema))
    url = server.url.render_as_string(hide_password=False)
    made: list[LedgerDatabase] = []

    def make() -> LedgerDatabase:
        made.append(LedgerDatabase(f"{url}?options=-csearch_path%3D{schema}&application_name={schema}"))
        return made[-1]

    yield make
    for each in made:
        each.engine.dispose()
    with server.begin() as connection:
        connection.execute(sql.schema.DropSchema(schema, cascade=True))


@pytest.fixture
def opened(database: Callable[[], LedgerDatabase]) -> Callable[[], Exchange]:
    return lambda: Exchange(database())


@pytest.fixture
def exchange(opened: Callable[[], Exchange]) -> Exchange:
    return opened()


class TestExchange(ExchangePromises):
    """In PostgreSQL."""


def end_connections(server: sql.Engine, of: str) -> int:
    """As a restart of the server does; how many there were."""
    ended = sql.text("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = :of")
    with server.connect() as connection:
        return len(connection.execute(ended, {"of": of}).all())


def test_a_connection_that_ended_while_nobody_used_it_is_replaced(
    database: Callable[[], LedgerDatabase], server: sql.Engine, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = database().ledger("demo/flights")
    assert ledger.head() == Head()
    assert end_connections(server, schema) == 1
    monkeypatch.setattr(ledger_sql, "_IDLE_SECONDS", 0.0)
    assert ledger.head() == Head()


def test_one_that_ended_between_two_questions_is_told_once(
    database: Callable[[], LedgerDatabase], server: sql.Engine, schema: str
) -> None:
    ledger = database().ledger("demo/flights")
    assert ledger.head() == Head()
    assert end_connections(server, schema) == 1
    with pytest.raises(EngineError, match="cannot be read"):
        ledger.head()
    assert ledger.head() == Head()
