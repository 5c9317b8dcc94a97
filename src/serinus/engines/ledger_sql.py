"""The ledger as two tables of a database: one row an entry, only ever added, and one row a deployment for the head.

An entry and the head it leaves are one transaction. The key of an entry is its deployment and number, so that of two
operators which decide at once only one can write: the other one's decision was never made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from serinus.core.errors import Conflict, EngineError, IntegrityError, NotFound
from serinus.core.ledger import (
    Checked,
    Entry,
    Head,
    Progress,
    advance,
    entry_from,
    line_of,
    missing,
    other,
    replay,
    state_digest,
    verify,
)
from serinus.core.rollout import RolloutState

if TYPE_CHECKING:
    import sqlalchemy as sql

_HINT = "`serinus ledger verify` tells more"
_CHUNK = 500
_IDLE_SECONDS = 5.0


class LedgerDatabase:
    """A database that holds the ledgers of many deployments.

    Args:
        url: SQLAlchemy's, such as `postgresql+psycopg2://user:password@host/serinus` or `sqlite:///ledger.db`.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def ledger(self, deployment: str) -> SqlLedger:
        """The ledger of a deployment, named `NAMESPACE/NAME`."""
        return SqlLedger(self, deployment)

    @cached_property
    def engine(self) -> sql.Engine:
        """Raises EngineError: the database cannot be reached, or takes no tables."""
        import sqlalchemy as sql

        with self.translated("cannot be opened"):
            engine = sql.create_engine(self._url)
            _ping_what_was_idle(engine)
            self._metadata.create_all(engine, tables=[self.entries, self.heads])
            return engine

    @cached_property
    def entries(self) -> sql.Table:
        """One row an entry."""
        import sqlalchemy as sql

        return sql.Table(
            "serinus_ledger",
            self._metadata,
            sql.Column("deployment", sql.String(256), primary_key=True),
            sql.Column("number", sql.BigInteger, primary_key=True, autoincrement=False),
            sql.Column("line", sql.LargeBinary, nullable=False),
        )

    @cached_property
    def heads(self) -> sql.Table:
        """One row a deployment."""
        import sqlalchemy as sql

        return sql.Table(
            "serinus_ledger_head",
            self._metadata,
            sql.Column("deployment", sql.String(256), primary_key=True),
            sql.Column("head", sql.LargeBinary, nullable=False),
        )

    @cached_property
    def _metadata(self) -> sql.MetaData:
        import sqlalchemy as sql

        return sql.MetaData()

    @contextmanager
    def reading(self) -> Iterator[sql.Connection]:
        """A connection for one question. Without a transaction PostgreSQL gets two messages instead of three."""
        engine = self.engine
        with self.translated("cannot be read"), engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def translated(self, what: str) -> Iterator[None]:
        """Errors of the database as ours; its address may hold a password and is not shown."""
        from sqlalchemy import exc

        try:
            yield
        except exc.IntegrityError as error:
            raise Conflict("somebody else has decided meanwhile") from error
        except ImportError as error:
            raise EngineError(f"the ledger's database needs a driver: {error}") from error
        except exc.SQLAlchemyError as error:
            words = str(getattr(error, "orig", None) or type(error).__name__).splitlines()[0]
            raise EngineError(f"the ledger's database {what}: {words}") from error


def _ping_what_was_idle(engine: sql.Engine) -> None:
    """Have a connection that nobody used for a while asked whether it is still there, and replaced if it is not. To ask
    each time, as `pool_pre_ping` does, is a message more for each question."""
    import time

    from sqlalchemy import event, exc

    def used(connection: Any, record: Any, *_: Any) -> None:
        record.info["used"] = time.monotonic()

    def checked(connection: Any, record: Any, *_: Any) -> None:
        if time.monotonic() - record.info["used"] < _IDLE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise exc.DisconnectionError("it was closed meanwhile") from error

    event.listen(engine, "connect", used)
    event.listen(engine, "checkin", used)
    event.listen(engine, "checkout", checked)


class SqlLedger:
    """One deployment's ledger in a database."""

    def __init__(self, database: LedgerDatabase, deployment: str) -> None:
        self._database = database
        self._deployment = deployment
        self.path = f"{deployment} in the database"

    def head(self) -> Head:
        """Where the ledger stands.

        Raises:
            IntegrityError: the ledger is broken: an entry is damaged, was changed or is missing.
            EngineError: it cannot be read.
        """
        kept, newest = self._newest()
        if newest is None and kept is None:
            return Head()
        if newest is None or (kept is not None and kept.number > newest.number):
            assert kept is not None
            raise self._broken(newest.number + 1 if newest else 1, missing(kept))
        if kept is not None and kept.number == newest.number:
            if kept.digest != newest.digest:
                raise self._broken(newest.number, other(kept))
            if kept.state is not None and state_digest(kept.state) == newest.after:
                return kept
        known = Head()
        for each in self.entries():
            known = advance(known, each)
        return known

    seen = head

    def append(self, head: Head, entry: Entry, state: RolloutState) -> Head:
        """Add the entry that follows `head`, and say where the ledger stands then.

        Raises:
            Conflict: somebody else has decided meanwhile; then this entry does not count.
            EngineError: it cannot be written; then it does not count.
        """
        import sqlalchemy as sql

        after = Head(number=entry.number, digest=entry.digest, policy=entry.policy or head.policy, state=state)
        own = {"deployment": self._deployment}
        kept = {"head": after.model_dump_json(by_alias=True).encode()}
        tables = self._database
        engine = tables.engine
        with tables.translated("cannot be written"), engine.begin() as connection:
            connection.execute(sql.insert(tables.entries).values(**own, number=entry.number, line=line_of(entry)))
            mine = tables.heads.c.deployment == self._deployment
            if not connection.execute(sql.update(tables.heads).where(mine).values(**kept)).rowcount:
                connection.execute(sql.insert(tables.heads).values(**own, **kept))
        return after

    def entries(self) -> Iterator[Entry]:
        """Every entry, oldest first.

        Raises:
            IntegrityError: one was changed.
        """
        for number, line in enumerate(self._lines(), start=1):
            yield self._entry(line, number)

    def newest_first(self) -> Iterator[Entry]:
        """Every entry, the newest first, read as far as is asked for. Raises as `entries`."""
        for line in self._lines(newest_first=True, chunk=1):
            yield self._entry(line)

    def entry(self, number: int) -> Entry:
        """One entry.

        Raises:
            NotFound: there is none of the number.
            IntegrityError: it was changed.
        """
        import sqlalchemy as sql

        table = self._database.entries
        one = sql.select(table.c.line).where(table.c.deployment == self._deployment, table.c.number == number)
        with self._database.reading() as connection:
            line = connection.execute(one).scalar()
        if line is None:
            raise NotFound(f"there is no entry {number} in the ledger of {self.path}")
        return self._entry(line, number)

    def count(self) -> int:
        """How many entries there are."""
        import sqlalchemy as sql

        table = self._database.entries
        asked = sql.select(sql.func.count()).where(table.c.deployment == self._deployment)
        with self._database.reading() as connection:
            return int(connection.execute(asked).scalar_one())

    def verify(self, progress: Progress | None = None) -> Checked:
        """Whether the entries are as they were written, none is missing, and the head names one of them."""
        return verify(self._lines(), self._kept(), progress)

    def replay(self, progress: Progress | None = None) -> Checked:
        """Make every decision again, and say which is the first that does not come out as it was written."""
        return replay(self._lines(), progress)

    def _lines(self, *, newest_first: bool = False, chunk: int = _CHUNK) -> Iterator[bytes]:
        import sqlalchemy as sql

        table = self._database.entries
        order = table.c.number.desc() if newest_first else table.c.number
        asked = sql.select(table.c.number, table.c.line).where(table.c.deployment == self._deployment).order_by(order)
        last = None
        while True:
            page = asked
            if last is not None:
                page = asked.where(table.c.number < last if newest_first else table.c.number > last)
            with self._database.reading() as connection:
                rows = connection.execute(page.limit(chunk)).all()
            yield from (row.line for row in rows)
            if len(rows) < chunk:
                return
            last = rows[-1].number

    def _entry(self, line: bytes, number: int | None = None) -> Entry:
        try:
            return entry_from(line)
        except IntegrityError as error:
            which = "an entry" if number is None else f"entry {number}"
            raise IntegrityError(
                f"{which} of the ledger of {self.path} is broken: {error.message}", hint=_HINT
            ) from error

    def _newest(self) -> tuple[Head | None, Entry | None]:
        """The head that was kept, and the newest entry. Asked for at every look, so in one go."""
        import sqlalchemy as sql

        table = self._database.entries
        line = sql.select(table.c.line).where(table.c.deployment == self._deployment).order_by(table.c.number.desc())
        both = sql.select(self._head().scalar_subquery(), line.limit(1).scalar_subquery())
        with self._database.reading() as connection:
            kept, newest = connection.execute(both).one()
        return self._parsed(kept), None if newest is None else self._entry(newest)

    def _kept(self) -> Head | None:
        with self._database.reading() as connection:
            return self._parsed(connection.execute(self._head()).scalar())

    def _head(self) -> sql.Select[bytes]:
        import sqlalchemy as sql

        table = self._database.heads
        return sql.select(table.c.head).where(table.c.deployment == self._deployment)

    @staticmethod
    def _parsed(found: bytes | None) -> Head | None:
        try:
            return None if found is None else Head.model_validate_json(found)
        except ValidationError:
            return None

    def _broken(self, number: int, why: str) -> IntegrityError:
        return IntegrityError(f"entry {number} of the ledger of {self.path} is broken: {why}", hint=_HINT)
