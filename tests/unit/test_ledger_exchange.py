"""The exchange of questions in SQLite; tests/cluster/node has the same promises in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from serinus.core.errors import EngineError
from serinus.engines.ledger_exchange import Exchange
from serinus.engines.ledger_sql import LedgerDatabase
from tests.support_exchange import ExchangePromises


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[], Exchange]:
    return lambda: Exchange(LedgerDatabase(f"sqlite:///{tmp_path / 'ledger.db'}"))


@pytest.fixture
def exchange(opened: Callable[[], Exchange]) -> Exchange:
    return opened()


class TestExchange(ExchangePromises):
    """In SQLite."""


def test_a_database_that_is_away_is_told(tmp_path: Path) -> None:
    away = Exchange(LedgerDatabase(f"sqlite:///{tmp_path / 'nowhere' / 'ledger.db'}"))
    with pytest.raises(EngineError, match="cannot be opened"):
        away.standing("demo/flights")
