"""A consistent dump: pg_dump with pgque's tables locked before its snapshot is taken.

pg_dump takes its snapshot first and locks the tables afterwards. TRUNCATE ignores snapshots, so a
rotation in between leaves a hole in the dump. This module locks the tables first, which blocks
rotation, and then exports a snapshot for pg_dump.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import tuple_row

from pgque.errors import PgqueBusy, PgqueError, PgqueSchemaMissing, mapped

_ATTEMPTS = 10
_TABLES = """
    select c.oid, c.relname
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'pgque' and c.relkind in ('r', 'p')
    order by c.oid
"""
_WAIT_FOR_LONG = """
    select set_config(name, '0', false)
    from pg_catalog.pg_settings
    where name in ('idle_in_transaction_session_timeout', 'transaction_timeout')
"""


def dump(dsn: str, options: Sequence[str] = (), *, program: str = "pg_dump") -> int:
    """Run ``pg_dump`` on a database so that no rotation leaves a hole in the dump.

    ``options`` are pg_dump's options, except for the connection and ``--snapshot``. ``program`` is
    the pg_dump to run, a name or a path. Producers, consumers and tickers keep running; rotation
    waits until the dump is complete. The role must be able to read the schema pgque, as pg_dump
    itself requires.

    Returns the exit status of pg_dump. Raises `PgqueConnectionError`, `PgqueSchemaMissing` if pgque
    is not installed, `PgquePermissionDenied`, `PgqueBusy` if queues are created and dropped all the
    time, and `PgqueError` if the program does not exist.
    """
    found = shutil.which(program)
    if found is None:
        raise PgqueError(f"{program} is not installed: it is part of PostgreSQL's client programs")
    with consistent_snapshot(dsn) as snapshot:
        where, environment = _connection(dsn)
        command = [found, f"--snapshot={snapshot}", *options, f"--dbname={where}"]
        return subprocess.run(command, env=environment, check=False).returncode


@contextmanager
def consistent_snapshot(dsn: str) -> Iterator[str]:
    """Lock pgque's tables against rotation, then yield the id of a new snapshot.

    For programs other than pg_dump: pass the id to ``set transaction snapshot``. It is valid inside
    the block. Raises the same errors as `dump`.
    """
    with mapped:
        conn = psycopg.connect(
            dsn,
            client_encoding="utf8",
            fallback_application_name="pgque dump",
            prepare_threshold=None,
            row_factory=tuple_row,
        )
    with conn:
        with mapped:
            snapshot = _lock_and_export(conn)
        yield snapshot


def _lock_and_export(conn: psycopg.Connection[tuple[object, ...]]) -> str:
    conn.execute(_WAIT_FOR_LONG)
    for _ in range(_ATTEMPTS):
        tables = _tables(conn)
        conn.commit()
        if not tables:
            raise PgqueSchemaMissing(
                f"the schema pgque is not in this database\n{PgqueSchemaMissing.advice}"
            )
        conn.execute("set transaction isolation level repeatable read, read only")
        try:
            # LOCK TABLE takes no snapshot; the next query does.
            conn.execute(_lock(tables))
        except pg.UndefinedTable:  # a queue was dropped in between
            conn.rollback()
            continue
        # A table created in between may be in the snapshot but is not locked.
        if _tables(conn) == tables:
            row = conn.execute("select pg_catalog.pg_export_snapshot()").fetchone()
            assert row is not None
            return str(row[0])
        conn.rollback()
    raise PgqueBusy("queues are being created or dropped all the time: dump again")


def _tables(conn: psycopg.Connection[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return conn.execute(_TABLES).fetchall()


def _lock(tables: Sequence[tuple[object, ...]]) -> sql.Composed:
    names = [sql.SQL("only {}").format(sql.Identifier("pgque", str(name))) for _, name in tables]
    return sql.SQL("lock table {} in access share mode").format(sql.SQL(", ").join(names))


def _connection(dsn: str) -> tuple[str, dict[str, str]]:
    """Return a connection string without the password, and an environment that contains it."""
    given = conninfo_to_dict(dsn)
    environment = dict(os.environ)
    password = given.pop("password", None)
    if password is not None:
        environment["PGPASSWORD"] = str(password)
    return make_conninfo("", **given), environment
