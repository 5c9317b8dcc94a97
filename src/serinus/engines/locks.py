"""Locks between processes, which end with the process that holds them, however that ends."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serinus.core.errors import EngineError, InvalidInput


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold a lock of this machine; wait for it where another process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def database_lock(url: str, name: str) -> Iterator[None]:
    """Hold a lock of a PostgreSQL database, a session's advisory one; wait for it where another session does.

    Raises:
        InvalidInput: the database is of another kind.
        EngineError: it cannot be asked.
    """
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    kind = sqlalchemy.make_url(url).get_backend_name()
    if kind != "postgresql":
        raise InvalidInput(f"{kind} has no locks that Serinus can use", hint="let feast_registry be a PostgreSQL")
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:number)"), {"number": number})
            yield
    except SQLAlchemyError as error:
        raise EngineError(f"the lock {name!r} cannot be had: {type(error).__name__}") from error
    finally:
        engine.dispose()
