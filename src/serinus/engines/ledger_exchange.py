"""Questions about quality and their answers, as one table beside the ledger: one row a ModelDeployment.

The operator writes a question and reads the answer; a scorer takes questions, the one that has waited longest first. No
row is locked while it is worked on, or the operator would wait for the scorer: a claim says until when a question is
taken, and ends by itself where the scorer has died. Texts are kept as they come; whoever reads them judges them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from serinus.engines.ledger_sql import LedgerDatabase

if TYPE_CHECKING:
    import sqlalchemy as sql


@dataclass(frozen=True)
class Asked:
    """A question as it is written: its text, its identity, when it was asked, and until when it is worth an answer."""

    text: str
    identity: str
    at: datetime
    expires: datetime


@dataclass(frozen=True)
class Standing:
    """What a row says. `first` is when this question was asked for the first time, `asked` for the last; the answer, if
    there is one, is to the question as it was asked at `about`."""

    identity: str
    first: datetime
    asked: datetime
    answer: str | None
    about: datetime | None


@dataclass(frozen=True)
class Task:
    """A question that was taken. `memory` is what whoever answered before wished to be kept."""

    place: str
    text: str
    identity: str
    asked: datetime
    memory: str | None


class Exchange:
    """The table of a ledger's database.

    Raises, wherever it is asked for something:
        EngineError: the database cannot be reached, or takes no table.
        Conflict: somebody else has written the same row meanwhile; the next attempt finds it.
    """

    def __init__(self, database: LedgerDatabase) -> None:
        self._database = database

    def standing(self, place: str) -> Standing | None:
        """How the question about a deployment, `NAMESPACE/NAME`, stands; None where none was asked."""
        import sqlalchemy as sql

        row = self.table.c
        asked = sql.select(row.identity, row.first, row.asked, row.answer, row.about).where(row.place == place)
        with self._database.translated("cannot be read"), self._engine.connect() as connection:
            found = connection.execute(asked).one_or_none()
        if found is None:
            return None
        about = _aware(found.about) if found.about is not None else None
        return Standing(found.identity, _aware(found.first), _aware(found.asked), found.answer, about)

    def ask(self, place: str, asked: Asked) -> None:
        """Ask a question, or the same one again. Another one than before has no answer yet."""
        import sqlalchemy as sql

        table, at = self.table, _naive(asked.at)
        lasting = {"question": asked.text, "asked": at, "expires": _naive(asked.expires)}
        anew = {"identity": asked.identity, "first": at, "turn": at, "answer": None, "about": None, "claimed": None}
        mine = table.c.place == place
        with self._database.translated("cannot be written"), self._engine.begin() as connection:
            same = sql.update(table).where(mine, table.c.identity == asked.identity).values(**lasting)
            if connection.execute(same).rowcount:
                return
            if not connection.execute(sql.update(table).where(mine).values(**lasting, **anew)).rowcount:
                connection.execute(sql.insert(table).values(place=place, **lasting, **anew))

    def take(self, now: datetime, patience: timedelta) -> Task | None:
        """The question whose turn has come first; None where none waits. For `patience` nobody else gets it."""
        import sqlalchemy as sql

        table, moment = self.table, _naive(now)
        free = sql.or_(table.c.claimed.is_(None), table.c.claimed <= moment)
        waiting = sql.select(table).where(self._waits(), free, table.c.turn <= moment).order_by(table.c.turn).limit(1)
        with self._database.translated("cannot be written"), self._engine.begin() as connection:
            # SQLite knows no such lock: there the second condition below decides who was first.
            found = connection.execute(waiting.with_for_update(skip_locked=True)).one_or_none()
            if found is None:
                return None
            taken = sql.update(table).where(table.c.place == found.place, free).values(claimed=_naive(now + patience))
            if not connection.execute(taken).rowcount:
                return None
        return Task(found.place, found.question, found.identity, _aware(found.asked), found.memory)

    def give(self, task: Task, answer: str, memory: str | None, turn: datetime) -> bool:
        """Answer a question; False where another one is asked meanwhile. If it was asked again, it may be taken again
        from `turn` on."""
        import sqlalchemy as sql

        values = {
            "answer": answer,
            "about": _naive(task.asked),
            "memory": memory,
            "turn": _naive(turn),
            "claimed": None,
        }
        with self._database.translated("cannot be written"), self._engine.begin() as connection:
            return bool(connection.execute(sql.update(self.table).where(self._of(task)).values(**values)).rowcount)

    def put_back(self, task: Task) -> None:
        """Leave a question to whoever comes next."""
        import sqlalchemy as sql

        with self._database.translated("cannot be written"), self._engine.begin() as connection:
            connection.execute(sql.update(self.table).where(self._of(task)).values(claimed=None))

    def places(self, now: datetime) -> set[str]:
        """Deployments about which something is asked; questions that have expired are forgotten."""
        import sqlalchemy as sql

        table = self.table
        with self._database.translated("cannot be written"), self._engine.begin() as connection:
            connection.execute(sql.delete(table).where(table.c.expires < _naive(now)))
            return set(connection.execute(sql.select(table.c.place)).scalars())

    def longest(self) -> datetime | None:
        """Since when the question has waited that has waited longest, or its turn will come; None where none waits."""
        import sqlalchemy as sql

        first = sql.select(sql.func.min(self.table.c.turn)).where(self._waits())
        with self._database.translated("cannot be read"), self._engine.connect() as connection:
            found = connection.execute(first).scalar()
        return None if found is None else _aware(found)

    @cached_property
    def table(self) -> sql.Table:
        """One row a ModelDeployment. Times are UTC, without a zone: SQLite knows none."""
        import sqlalchemy as sql

        return sql.Table(
            "serinus_quality",
            sql.MetaData(),
            sql.Column("place", sql.String(320), primary_key=True),
            sql.Column("question", sql.Text, nullable=False),
            sql.Column("identity", sql.String(64), nullable=False),
            sql.Column("first", sql.DateTime, nullable=False),
            sql.Column("asked", sql.DateTime, nullable=False),
            sql.Column("expires", sql.DateTime, nullable=False),
            sql.Column("answer", sql.Text),
            sql.Column("about", sql.DateTime),
            sql.Column("memory", sql.Text),
            sql.Column("turn", sql.DateTime, nullable=False),
            sql.Column("claimed", sql.DateTime),
        )

    @cached_property
    def _engine(self) -> sql.Engine:
        engine = self._database.engine
        with self._database.translated("cannot be opened"):
            self.table.metadata.create_all(engine)
            return engine

    def _waits(self) -> sql.ColumnElement[bool]:
        """There is no answer, or one to what was asked before."""
        import sqlalchemy as sql

        return sql.or_(self.table.c.about.is_(None), self.table.c.asked > self.table.c.about)

    def _of(self, task: Task) -> sql.ColumnElement[bool]:
        import sqlalchemy as sql

        return sql.and_(self.table.c.place == task.place, self.table.c.identity == task.identity)


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)
