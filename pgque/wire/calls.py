"""Calling a function of the schema on a connection: the one way by which the client does it."""

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
"""How pgque makes connections of its own. A database in SQL_ASCII would else return bytes."""

_UNLESS_GIVEN: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""A network that is silent is noticed within ten seconds or so; libpq would wait for hours."""

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
    """Return the parameters for a connection of our own beside those of the DSN, which win."""
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:  # connecting says so
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
        """The psycopg connection: its transaction is yours to commit or roll back.

        A connection that pgque has made raises `psycopg.errors.InFailedSqlTransaction` if an
        aborted transaction is committed. Raises `PgqueConnectionError` in a forked child.
        """
        check_process(self._process)
        return self._conn

    def _rows(self, query: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows, fetched in binary; errors are pgque's."""
        check_process(self._process)
        with mapped:
            return execute(new_cursor(self._conn), query.encode(), params).fetchall()

    def _times(self, query: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return rows as `_rows` does, whose times and intervals may be infinite or huge."""
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
    """Loads infinity, and what is longer than a timedelta can be, as the longest timedelta."""

    def load(self, data: Any) -> timedelta:
        try:
            return super().load(data)
        except (psycopg.DataError, OverflowError):
            micros, days, months = struct.unpack("!qii", data)
            return timedelta.max if (months, days, micros) > (0, 0, 0) else timedelta.min


class _AnyTime(TimestamptzBinaryLoader):
    """Loads infinity, and years that Python does not know, as its first or last moment, in UTC."""

    def load(self, data: Any) -> datetime:
        try:
            return super().load(data)
        except (psycopg.DataError, OverflowError):
            (micros,) = struct.unpack("!q", data)
            return (datetime.max if micros > 0 else datetime.min).replace(tzinfo=timezone.utc)


def new_cursor(conn: psycopg.Connection[Any]) -> psycopg.Cursor[tuple[Any, ...]]:
    """Return a plain cursor: the application may have given its connection another class or rows.

    One for all calls would keep the last payload or batch in memory, and the encoding that its
    connection had at first.
    """
    return psycopg.Cursor(conn, row_factory=tuple_row)


Cursor = psycopg.Cursor[tuple[Any, ...]]


def execute(cursor: Cursor, query: bytes, params: Sequence[Any]) -> Cursor:
    """Run a statement of ours, with results in binary.

    If its prepared form was lost and there was no transaction, nothing has happened yet, so it is
    run again without one.
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
    """Run the block in a transaction that cannot write, and whose statements end in time.

    Row security on a table is an error there, so that hidden rows are not taken for missing ones.

    ``also`` are settings of the server for this transaction.
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
    """Return a queue's id, and the table whose children are its log.

    :raises PgqueQueueNotFound: where there is no such queue.
    :raises PgquePermissionDenied: where row security hides events from this user.
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
    """Tell whether a pooler stands between, which may give each transaction another session.

    A pooler makes up the process id that it announces, since its clients share backends. Where it
    does, prepared statements, session locks and LISTEN are not to be relied upon.
    """
    with mapped:
        row = new_cursor(conn).execute("select pg_backend_pid()", prepare=False).fetchone()
    return row is not None and row[0] != conn.info.backend_pid


_settings: Final[WeakKeyDictionary[psycopg.Connection[Any], dict[str, str]]] = WeakKeyDictionary()
"""What `settle_for_pooler` has set in the session of a connection."""

# What a pooler sets for each of its clients in the sessions that they share.
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
    """Return what psycopg takes as ``prepare`` for a call: False behind a pooler.

    Another client's statement of the same name may wait in the session that the next transaction is
    given, and would be run in place of ours. An application's connection is asked once in its life.
    """
    if conn.prepare_threshold is None:
        return None
    pooled = _pooled.get(conn)
    if pooled is None:
        pooled = _pooled[conn] = is_pooled(conn)
    return False if pooled else None


def settle_for_pooler(conn: psycopg.Connection[Any]) -> bool:
    """Prepare nothing on a connection of our own behind a pooler; tell whether there is one.

    Without one the server is asked to notice soon when this client is gone: its session holds a
    batch, or the ticker's lead, until then.
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
    """Return statements that set again what RESET ALL takes from a session of our own."""
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
    """Return Python's name for the encoding of the database: ``utf-8`` if Python has none.

    A database in SQL_ASCII holds any bytes; what was sent by this client is UTF-8.
    """
    name = conn.info.parameter_status("server_encoding") or "UTF8"
    return _encoding(name)


def is_converted(conn: psycopg.Connection[Any]) -> bool:
    """Tell whether the server can convert every text for the client.

    Else texts are better read as bytes: a conversion that fails ends the transaction, and says
    nothing of the row.
    """
    status = conn.info.parameter_status
    return status("client_encoding") == "UTF8" and status("server_encoding") in ("UTF8", "LATIN1")


def as_bytes(text: str) -> str:
    """Return an SQL expression for the bytes of a text as they are stored."""
    return f"pg_catalog.convert_to({text}, pg_catalog.getdatabaseencoding())"


def decode_leniently(row: Sequence[Any], encoding: str) -> tuple[Any, ...]:
    """Return a row with str in place of bytes; what is not in the encoding is escaped."""
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
"""Encodings that Python knows under another name, or where it means another one by that name."""


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
