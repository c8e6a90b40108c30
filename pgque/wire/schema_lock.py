"""Exclusive changes to the schema of a database: one transaction under the installers' lock."""

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

_LOCK = b"select pg_catalog.pg_advisory_xact_lock(1885827445, 0)"  # the lock of sql/tables
_ATTEMPTS = 12

# A change of a table waits for the transactions that use it, and new ones queue behind the change.
# So it waits only briefly, lets them pass, and tries again.
_LOCK_TIMEOUT_MS = 200
_LOCK_ATTEMPTS = 120

# Roles belong to the whole cluster. An installer in another database may create or grant the same
# roles at the same time, and no lock of this database prevents that. The loser of such a race may
# believe until the end of its transaction that the role is missing: UndefinedObject.
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
    """Lend the given connection, or open one from the DSN and close it afterwards."""
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
    """Run ``work`` in one transaction under the lock; repeat it after a collision."""
    own = conn.info.transaction_status == TransactionStatus.IDLE
    collisions = waits = 0
    while True:
        try:
            with mapped, conn.transaction():
                if own:
                    # A snapshot from before the lock would not see the other installer's work.
                    query(conn, b"set transaction isolation level read committed")
                query(conn, _LOCK)
                if own:
                    query(conn, f"set local lock_timeout = {_LOCK_TIMEOUT_MS}".encode())
                return work(conn)
        except PgqueBusy as error:
            waits += 1
            if not own or waits == _LOCK_ATTEMPTS:
                raise PgqueBusy(
                    f"{error}\nA long transaction uses a table that must be changed: end it "
                    "(pg_stat_activity shows it) and try again.",
                    sqlstate=error.sqlstate,
                ) from error.__cause__
            time.sleep(random.uniform(0.1, 0.5))  # noqa: S311
        except PgqueError as error:
            collisions += 1
            if collisions == _ATTEMPTS or not _is_collision(error.__cause__):
                raise
            time.sleep(random.uniform(0.02, 0.05) * collisions)  # noqa: S311


def query(conn: Connection, statements: bytes) -> None:
    """Run statements, whatever row factory the caller's connection has."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(statements)


def row(conn: Connection, statement: bytes) -> tuple[Any, ...]:
    """Return the only row of a query."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        found = cursor.execute(statement).fetchone()
        assert found is not None
        return found


def value(conn: Connection, statement: bytes) -> Any:
    """Return the only value of a query."""
    return row(conn, statement)[0]


def _is_collision(cause: BaseException | None) -> bool:
    if isinstance(cause, pg.InternalError_):
        return "concurrently" in str(cause)
    return isinstance(cause, _COLLISIONS)
