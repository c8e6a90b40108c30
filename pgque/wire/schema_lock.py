"""Working alone on the schema of a database: one transaction under the installers' lock."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from pgque.errors import PgqueBusy, PgqueError, mapped

Connection = psycopg.Connection[Any]
T = TypeVar("T")

_LOCK = b"select pg_catalog.pg_advisory_xact_lock(1885827445, 0)"  # the one of sql/tables
_ATTEMPTS = 12

# A change of a table waits for the transactions that use it, and all others wait behind it. So it
# waits for a moment only, lets them pass, and comes back.
_LOCK_TIMEOUT_MS = 200
_LOCK_ATTEMPTS = 120

# Roles belong to the whole cluster: an installer in another database may create or grant the
# same ones at this moment, which no lock of this database can keep away. Who has just lost such a
# race may remember until its transaction ends that the role is not there: UndefinedObject.
_COLLISIONS = (
    pg.UniqueViolation,
    pg.DuplicateObject,
    pg.DuplicateSchema,
    pg.DeadlockDetected,
    pg.SerializationFailure,
    pg.UndefinedObject,
)


@contextmanager
def connection(target: str | Connection) -> Iterator[Connection]:
    """Lend a connection: the one given, or one of our own that is closed afterwards."""
    if isinstance(target, psycopg.Connection):
        yield target
        return
    with mapped:
        conn = psycopg.connect(
            target,
            autocommit=True,
            client_encoding="utf8",
            fallback_application_name="pgque install",
            prepare_threshold=None,  # for poolers; each statement runs once
        )
    with conn:
        yield conn


def locked(conn: Connection, work: Callable[[Connection], T]) -> T:
    """Do ``work`` in one transaction, alone in this database; again after a collision."""
    own = conn.info.transaction_status == TransactionStatus.IDLE
    collisions = waits = 0
    while True:
        try:
            with mapped, conn.transaction():
                if own:
                    # A snapshot from before the lock would not see what was waited for.
                    query(conn, b"set transaction isolation level read committed")
                query(conn, _LOCK)
                if own:
                    query(conn, f"set local lock_timeout = {_LOCK_TIMEOUT_MS}".encode())
                return work(conn)
        except PgqueBusy as error:
            waits += 1
            if not own or waits == _LOCK_ATTEMPTS:
                raise PgqueBusy(
                    f"{error}\nA transaction has been using for long what has to be changed: "
                    "end it (pg_stat_activity shows it) and do this again.",
                    sqlstate=error.sqlstate,
                ) from error.__cause__
            time.sleep(random.uniform(0.1, 0.5))  # noqa: S311
        except PgqueError as error:
            collisions += 1
            if collisions == _ATTEMPTS or not _is_collision(error.__cause__):
                raise
            time.sleep(random.uniform(0.02, 0.05) * collisions)  # noqa: S311


def query(conn: Connection, statements: bytes) -> None:
    """Run statements, whatever rows the caller's connection makes."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(statements)


def row(conn: Connection, statement: bytes) -> tuple[Any, ...]:
    """Return the one row of a query."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        found = cursor.execute(statement).fetchone()
        assert found is not None
        return found


def value(conn: Connection, statement: bytes) -> Any:
    """Return the one value of a query."""
    return row(conn, statement)[0]


def _is_collision(cause: BaseException | None) -> bool:
    if isinstance(cause, pg.InternalError_):
        return "concurrently" in str(cause)
    return isinstance(cause, _COLLISIONS)
