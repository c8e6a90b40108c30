"""Calling the schema's SQL functions on a connection. All calls of the client use this module."""

from __future__ import annotations

import codecs
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, Final
from weakref import WeakKeyDictionary

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg.types.datetime import IntervalBinaryLoader, TimestamptzBinaryLoader

from pgque.errors import (
    PgqueInvalidArgument,
    PgquePermissionDenied,
    PgqueQueueNotFound,
    is_lost_statement,
    mapped,
)
from pgque.wire.connections import check_process

_ALWAYS: Final[dict[str, Any]] = {
    "client_encoding": "utf8",
    "fallback_application_name": "pgque",
}
"""Parameters of pgque's own connections. Without utf8 a database in SQL_ASCII returns bytes."""

_UNLESS_GIVEN: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""With these a dead network is detected within about ten seconds; libpq would wait for hours."""

_NOTICE_A_CLIENT_THAT_IS_GONE: Final = """
    select name, set_config(name, value, false)
    from pg_settings
    join (
        values ('tcp_keepalives_idle', '5'), ('tcp_keepalives_interval', '2'),
            ('tcp_keepalives_count', '3'), ('tcp_user_timeout', '10000')
    ) ours (name, value) using (name)
    where source = 'default' and inet_client_addr() is not null
"""


def connection_defaults(dsn: str) -> dict[str, Any]:
    """Return the parameters to add to a DSN for our own connection; the DSN's take precedence."""
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:  # connecting will raise it
        return _ALWAYS
    if os.environ.get("PGCONNECT_TIMEOUT"):
        given["connect_timeout"] = os.environ["PGCONNECT_TIMEOUT"]
    return _ALWAYS | {name: value for name, value in _UNLESS_GIVEN.items() if name not in given}


class Calls:
    """A psycopg connection, and calls of SQL functions on it."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        if not isinstance(conn, psycopg.Connection):
            raise PgqueInvalidArgument(
                f"a psycopg.Connection is needed, not {type(conn).__module__}.{type(conn).__name__}"
            )
        self._conn = conn
        self._process = os.getpid()

    @property
    def conn(self) -> psycopg.Connection[Any]:
        """The psycopg connection. Committing or rolling back its transaction is up to you.

        If pgque opened the connection, committing an aborted transaction raises
        `psycopg.errors.InFailedSqlTransaction`. Raises `PgqueConnectionError` in a forked child.
        """
        check_process(self._process)
        return self._conn

    def _rows(self, query: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows, fetched in binary; raise errors of pgque."""
        check_process(self._process)
        with mapped:
            return execute(new_cursor(self._conn), query.encode(), params).fetchall()

    def _times(self, query: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Same as `_rows`, for rows whose times and intervals may be infinite or huge."""
        check_process(self._process)
        with mapped:
            cursor = new_cursor(self._conn)
            cursor.adapters.register_loader("interval", _AnyInterval)
            cursor.adapters.register_loader("timestamptz", _AnyTime)
            return execute(cursor, query.encode(), params).fetchall()

    def _value(self, query: str, params: Sequence[Any] = ()) -> Any:
        """Run one statement and return the only value of its only row."""
        return self._rows(query, params)[0][0]


class _AnyInterval(IntervalBinaryLoader):
    """Loads infinity, and intervals too long for a timedelta, as the longest timedelta."""

    def load(self, data: Any) -> timedelta:
        try:
            return super().load(data)
        except (psycopg.DataError, OverflowError):
            micros, days, months = struct.unpack("!qii", data)
            return timedelta.max if (months, days, micros) > (0, 0, 0) else timedelta.min


class _AnyTime(TimestamptzBinaryLoader):
    """Loads infinity, and years that Python lacks, as datetime.min or datetime.max, in UTC."""

    def load(self, data: Any) -> datetime:
        try:
            return super().load(data)
        except (psycopg.DataError, OverflowError):
            (micros,) = struct.unpack("!q", data)
            return (datetime.max if micros > 0 else datetime.min).replace(tzinfo=timezone.utc)


def new_cursor(conn: psycopg.Connection[Any]) -> psycopg.Cursor[tuple[Any, ...]]:
    """Return a plain cursor, whatever cursor class and row factory the application has set.

    A single cursor for all calls would keep the last payload or batch in memory, and the first
    encoding of its connection.
    """
    return psycopg.Cursor(conn, row_factory=tuple_row)


Cursor = psycopg.Cursor[tuple[Any, ...]]


def execute(cursor: Cursor, query: bytes, params: Sequence[Any]) -> Cursor:
    """Run one of our statements, with results in binary.

    If its prepared form was lost outside of a transaction, nothing has happened yet, so the
    statement is run again unprepared.
    """
    conn = cursor.connection
    prepare = may_prepare(conn)
    alone = conn.pgconn.transaction_status == TransactionStatus.IDLE
    try:
        return cursor.execute(query, params, prepare=prepare, binary=True)
    except psycopg.Error as error:
        if not alone or not is_lost_statement(error) or conn.pgconn.pipeline_status:
            raise
    conn.rollback()
    conn.execute("deallocate all", prepare=False)  # psycopg forgets them as well
    return cursor.execute(query, params, prepare=False, binary=True)


@contextmanager
def only_reading(conn: psycopg.Connection[Any], *, seconds: float, **also: str) -> Iterator[None]:
    """Run the block in a read-only transaction with a statement timeout of ``seconds``.

    A table with row security raises an error, so that hidden rows do not appear to be missing.
    ``also`` are further settings of the server for this transaction.
    """
    settings = {
        "transaction_read_only": "on",
        "row_security": "off",
        "statement_timeout": f"{seconds:.0f}s",
        **also,
    }
    with conn.transaction():
        new_cursor(conn).execute(
            "select set_config(name, value, true)"
            " from unnest(%s::text[], %s::text[]) as given (name, value)",
            (list(settings), list(settings.values())),
            prepare=False,
        )
        yield


def find_queue(conn: psycopg.Connection[Any], queue: str) -> tuple[int, sql.Identifier]:
    """Return a queue's id, and the parent table of its log.

    :raises PgqueQueueNotFound: if the queue does not exist.
    :raises PgquePermissionDenied: if row security hides events from this user.
    """
    rows = Calls(conn)._rows(
        "select queue_id, queue_data_pfx, row_security_active(queue_data_pfx) from pgque.queue "
        "where queue_name = %s::text",
        (queue,),
    )
    if not rows:
        raise PgqueQueueNotFound(f"queue not found: {queue}")
    if rows[0][2]:
        raise PgquePermissionDenied(f"row security hides events in {rows[0][1]}: see pgque doctor")
    return rows[0][0], sql.Identifier(*rows[0][1].split("."))


def is_pooled(conn: psycopg.Connection[Any]) -> bool:
    """Tell whether the connection goes through a pooler that may change sessions in between.

    Clients of a pooler share backends, so it announces an invented process id. Behind such a
    pooler, prepared statements, session locks and LISTEN are unreliable.
    """
    with mapped:
        row = new_cursor(conn).execute("select pg_backend_pid()", prepare=False).fetchone()
    return row is not None and row[0] != conn.info.backend_pid


_settings: Final[WeakKeyDictionary[psycopg.Connection[Any], dict[str, str]]] = WeakKeyDictionary()
"""The settings that `settle_for_pooler` has made in a connection's session."""

# Settings that a pooler maintains for each client in the shared sessions.
_SET_BY_POOLERS: Final = (
    "application_name",
    "client_encoding",
    "DateStyle",
    "IntervalStyle",
    "standard_conforming_strings",
    "TimeZone",
)

_pooled: Final[WeakKeyDictionary[psycopg.Connection[Any], bool]] = WeakKeyDictionary()


def may_prepare(conn: psycopg.Connection[Any]) -> bool | None:
    """Return psycopg's argument ``prepare`` for a call: False behind a pooler.

    The session of the next transaction may have another client's statement under the same name, and
    would run that one instead of ours. An application's connection is checked only once.
    """
    if conn.prepare_threshold is None:
        return None
    pooled = _pooled.get(conn)
    if pooled is None:
        pooled = _pooled[conn] = is_pooled(conn)
    return False if pooled else None


def settle_for_pooler(conn: psycopg.Connection[Any]) -> bool:
    """Turn off prepared statements behind a pooler, on our own connection; return `is_pooled`.

    Without a pooler, configure keepalives so that the server soon notices a lost client. Until then
    the client's session holds a batch, or the ticker's lead.
    """
    pooled = _pooled[conn] = is_pooled(conn)
    if pooled:
        conn.prepare_threshold = None
    else:
        with mapped:
            rows = new_cursor(conn).execute(_NOTICE_A_CLIENT_THAT_IS_GONE, prepare=False)
            _settings[conn] = dict(rows.fetchall())
    return pooled


def settings_of_session(conn: psycopg.Connection[Any]) -> bytes:
    """Return statements that restore our session's settings after RESET ALL."""
    if _pooled.get(conn):
        statuses = {name: conn.info.parameter_status(name) for name in _SET_BY_POOLERS}
        settings = {name: value for name, value in statuses.items() if value is not None}
    else:
        settings = _settings.get(conn, {})
    statements = [
        sql.SQL("set {} = {}; ").format(sql.Identifier(name.lower()), value)
        for name, value in settings.items()
    ]
    return sql.Composed(statements).as_bytes(conn)


def server_encoding(conn: psycopg.Connection[Any]) -> str:
    """Return Python's name for the encoding of the database; ``utf-8`` if Python has none.

    A database in SQL_ASCII may contain any bytes; events from this client are in UTF-8.
    """
    name = conn.info.parameter_status("server_encoding") or "UTF8"
    return _encoding(name)


def is_converted(conn: psycopg.Connection[Any]) -> bool:
    """Tell whether the server can convert every text for the client.

    If not, it is better to read texts as bytes: a failed conversion aborts the transaction, and its
    error does not name the row.
    """
    status = conn.info.parameter_status
    return status("client_encoding") == "UTF8" and status("server_encoding") in ("UTF8", "LATIN1")


def as_bytes(text: str) -> str:
    """Return an SQL expression for the stored bytes of a text."""
    return f"pg_catalog.convert_to({text}, pg_catalog.getdatabaseencoding())"


def decode_leniently(row: Sequence[Any], encoding: str) -> tuple[Any, ...]:
    """Return a row with its bytes decoded to str; invalid bytes are escaped."""
    return tuple(
        value.decode(encoding, "backslashreplace") if isinstance(value, bytes) else value
        for value in row
    )


@lru_cache(maxsize=64)
def _encoding(name: str) -> str:
    if name in ("UTF8", "SQL_ASCII"):
        return "utf-8"
    candidates = (_LIKE_PYTHON.get(name, name), name.replace("WIN", "cp"), name.replace("_", "-"))
    for candidate in candidates:
        with suppress(LookupError):
            return codecs.lookup(candidate).name
    return "utf-8"


_LIKE_PYTHON: Final = {
    "EUC_CN": "gb2312",
    "EUC_JIS_2004": "euc_jis_2004",
    "LATIN6": "iso8859-10",
    "LATIN7": "iso8859-13",
    "LATIN8": "iso8859-14",
    "LATIN9": "iso8859-15",
    "LATIN10": "iso8859-16",
    "WIN866": "cp866",
    "WIN874": "cp874",
}
"""Encodings that have another name in Python, or whose name means another encoding there."""


SECONDS_A_DAY: Final = 86400.0


def to_interval(value: timedelta | float, name: str) -> timedelta:
    """Return seconds or a timedelta as a timedelta; `PgqueInvalidArgument` for anything else."""
    if isinstance(value, timedelta):
        return value
    try:
        return timedelta(seconds=value)
    except (TypeError, ValueError, OverflowError) as error:
        raise PgqueInvalidArgument(
            f"{name} must be a number of seconds or a timedelta, not {value!r}"
        ) from error
