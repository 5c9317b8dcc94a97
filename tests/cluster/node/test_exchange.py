"""The exchange of questions in the PostgreSQL that models and their operator rest on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sql

from serinus.engines.ledger_exchange import Exchange
from serinus.engines.ledger_sql import LedgerDatabase
from tests.support_exchange import ExchangePromises
from tests.support_platform import platform


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], Exchange]]:
    """With tables of its own: a scorer may be at work on the usual ones."""
    url, schema = platform(tmp_path).ledger_uri, f"exchange_{uuid4().hex[:8]}"
    assert url is not None
    engine = sql.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sql.schema.CreateSchema(schema))
    made: list[LedgerDatabase] = []

    def make() -> Exchange:
        made.append(LedgerDatabase(f"{url}?options=-csearch_path%3D{schema}"))
        return Exchange(made[-1])

    yield make
    for each in made:
        each.engine.dispose()
    with engine.begin() as connection:
        connection.execute(sql.schema.DropSchema(schema, cascade=True))
    engine.dispose()


@pytest.fixture
def exchange(opened: Callable[[], Exchange]) -> Exchange:
    return opened()


class TestExchange(ExchangePromises):
    """In PostgreSQL."""
