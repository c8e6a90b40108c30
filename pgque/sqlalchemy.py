"""SQLAlchemy in a handler: sessions on the client's connection (extra ``sqlalchemy``).

    @consumer.on("order.placed")
    def bill(message, client):
        with session_on(client) as session:
            session.add(Bill(order=message.json()["order"]))

The session's writes are part of the client's transaction. They are committed with the ack, so they
take effect exactly once. SQLAlchemy's transaction is a savepoint: ``session.commit()`` releases it,
``session.rollback()`` rolls back to it, and the next statement sets a new one. Neither the session
nor SQLAlchemy's pool can commit, roll back or close the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.rows import tuple_row

from pgque.errors import PgqueInvalidArgument
from pgque.wire.borrowing import lent
from pgque.wire.calls import new_cursor

try:
    from sqlalchemy import Connection, Engine, create_engine
    from sqlalchemy.dialects import registry
    from sqlalchemy.dialects.postgresql.psycopg import (
        PGDialect_psycopg,
        PGExecutionContext_psycopg,
    )
    from sqlalchemy.exc import ArgumentError
    from sqlalchemy.orm import Session
    from sqlalchemy.pool import NullPool
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "SQLAlchemy 2 is missing: pip install 'pgque[sqlalchemy]'", name=error.name
    ) from error

if TYPE_CHECKING:
    from pgque.client import PgqueClient


@contextmanager
def session_on(
    client: PgqueClient, make: Callable[..., Session] | None = None, **options: Any
) -> Iterator[Session]:
    """Lend a session on the client's connection, in its transaction.

    At the end of the block the session is flushed and closed. If the block raises, all its writes
    are rolled back, including those before a ``session.commit()``.

    :param make: creates the session; the application's `sessionmaker` or a class, default
        `sqlalchemy.orm.Session`. Its engine is not used.
    :param options: further arguments for ``make``, such as ``expire_on_commit=False``.
    :raises PgqueTransactionAborted: if the block ignored an error of the database and the
        transaction is aborted.
    """
    with connection_on(client) as connection:
        session = (make or Session)(bind=connection, binds=None, **options)
        with session:
            yield session
            session.commit()


@contextmanager
def connection_on(client: PgqueClient) -> Iterator[Connection]:
    """Lend a SQLAlchemy connection on the client's connection, in its transaction.

    ``connection.commit()`` and ``connection.rollback()`` act on a savepoint, see `session_on`. The
    writes of the block are committed with the client's transaction.

    :raises PgqueTransactionAborted: see `session_on`.
    """
    with lent(client) as conn:
        token = _loan.set(_Loan(conn))
        try:
            with _engine(*_facts_of(conn)).connect() as connection:
                yield connection
                if not connection.closed:
                    connection.commit()
        finally:
            _loan.reset(token)


@dataclass
class _Loan:
    """A connection lent to SQLAlchemy, and the savepoints that serve as its transactions."""

    conn: psycopg.Connection[Any]
    savepoints: list[str] = field(default_factory=list)


_loan: Final[ContextVar[_Loan]] = ContextVar("pgque.sqlalchemy")


def _lent_connection() -> psycopg.Connection[Any]:
    loan = _loan.get(None)
    if loan is None:
        raise PgqueInvalidArgument(
            "the engine of pgque.sqlalchemy has a connection only inside session_on() and "
            "connection_on()"
        )
    return loan.conn


def _facts_of(conn: psycopg.Connection[Any]) -> tuple[int, bool]:
    """Return the facts that SQLAlchemy needs: the server's version, and whether ``\\`` escapes."""
    strings = conn.info.parameter_status("standard_conforming_strings")
    return conn.info.server_version, strings == "off"


@lru_cache(maxsize=16)
def _engine(version: int, backslashes: bool) -> Engine:
    """Return the engine for a server version. Keeping it costs nothing, because it has no pool."""
    return create_engine(
        "postgresql+pgque://",
        creator=_lent_connection,
        poolclass=NullPool,
        pool_reset_on_return=None,
        use_native_hstore=False,
    )


class _ExecutionContext(PGExecutionContext_psycopg):
    def create_default_cursor(self) -> Any:
        # The application's connection may have another cursor class or row factory.
        return new_cursor(_loan.get().conn)

    def create_server_side_cursor(self) -> Any:
        name = f"pgque_{id(self):x}"
        return psycopg.ServerCursor(_loan.get().conn, name, row_factory=tuple_row)


class LentDialect(PGDialect_psycopg):
    """The psycopg dialect on a borrowed connection, whose transaction it must not end."""

    supports_statement_cache = True
    execution_ctx_cls = _ExecutionContext

    def do_begin(self, dbapi_connection: Any) -> None:
        """Set the savepoint that serves as SQLAlchemy's transaction."""
        loan, name = _loan.get(), _name(dbapi_connection)
        _execute(loan, f"savepoint {name}")
        loan.savepoints.append(name)

    def do_commit(self, dbapi_connection: Any) -> None:
        """Release the savepoint."""
        self._end(dbapi_connection, "release savepoint {0}")

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Roll back to the savepoint, and release it."""
        self._end(dbapi_connection, "rollback to savepoint {0}; release savepoint {0}")

    def _end(self, dbapi_connection: Any, how: str) -> None:
        loan, name = _loan.get(), _name(dbapi_connection)
        if name in loan.savepoints:
            loan.savepoints.remove(name)
            _execute(loan, how.format(name))

    def do_close(self, dbapi_connection: Any) -> None:
        """Leave the connection open."""

    def do_terminate(self, dbapi_connection: Any) -> None:
        """Leave the connection open."""

    def on_connect(self) -> None:
        """Leave the connection unchanged: the application uses it before and afterwards."""

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        """Refuse: the transaction has begun."""
        raise ArgumentError("the client's transaction has begun: its isolation level is fixed")

    def get_default_isolation_level(self, dbapi_conn: Any) -> Any:
        """Return PostgreSQL's default, without a query."""
        return "READ COMMITTED"

    def _get_server_version_info(self, connection: Any) -> tuple[int, int]:
        return divmod(_loan.get().conn.info.server_version, 10_000)

    def _get_default_schema_name(self, connection: Any) -> str:
        return "public"

    def _set_backslash_escapes(self, connection: Any) -> None:
        self._backslash_escapes = _facts_of(_loan.get().conn)[1]


def _name(dbapi_connection: Any) -> str:
    return f"pgque_{id(dbapi_connection):x}"


def _execute(loan: _Loan, statements: str) -> None:
    new_cursor(loan.conn).execute(statements.encode(), prepare=False)


registry.register("postgresql.pgque", __name__, LentDialect.__name__)
