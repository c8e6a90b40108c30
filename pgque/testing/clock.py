"""A clock that can be moved on, for tests alone.

No decision of pgque is made by a client's clock, and nobody can move the server's. What can be
moved is what pgque has stored: if every time in it lies an hour further back, an hour has passed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import psycopg
from psycopg import sql

from pgque.errors import PgqueBusy, PgqueInvalidArgument, PgquePermissionDenied, mapped
from pgque.wire.calls import find_queue, new_cursor, to_interval

MOVED: Final = {
    "cursor": ("cur_time",),
    "dead_letter": ("dl_time", "ev_time"),
    "queue": ("queue_switch_time",),
    "retry_queue": ("ev_retry_after", "ev_time"),
    "tick": ("tick_time",),
}
"""The columns in which time is stored; beside them `ev_time` in the log of each queue."""

_PATIENCE: Final = b"set local lock_timeout = '5s'"


def advance(conn: psycopg.Connection[Any], span: timedelta | float) -> None:
    """Let time pass for pgque in one database: ``span`` is in seconds, or a timedelta.

    Afterwards retries and rotations are due, members of groups are dead, events and dead letters
    old and queues idle, as if the time had passed; nothing is done about it before somebody ticks,
    maintains or receives. Other databases, tables of the application and what a process measures by
    itself, such as ``poll_interval``, are as before. What is not committed is not moved.

    Needs the owner of the schema, or a superuser. Raises `PgqueInvalidArgument` for a negative
    span, `PgquePermissionDenied`, and `PgqueBusy` where a transaction that is open elsewhere keeps
    a row from being moved for five seconds.
    """
    interval = to_interval(span, "span")
    if interval < timedelta(0):
        raise PgqueInvalidArgument(f"time does not go back: {interval}")
    try:
        with mapped, conn.transaction():
            cursor = new_cursor(conn)
            cursor.execute(_PATIENCE)
            queues = cursor.execute("select queue_name from pgque.queue").fetchall()
            logs = [find_queue(conn, queue)[1] for (queue,) in queues]
            for table, columns in MOVED.items():
                cursor.execute(_move(sql.Identifier("pgque", table), *columns), {"span": interval})
            for log in logs:
                cursor.execute(_move(log, "ev_time"), {"span": interval})
    except PgquePermissionDenied as error:
        raise PgquePermissionDenied(
            "only the owner of the schema pgque, or a superuser, may move the clock",
            sqlstate=error.sqlstate,
        ) from error.__cause__
    except PgqueBusy as error:
        raise PgqueBusy(
            f"{error}\nA transaction is open elsewhere: end it before the clock is moved.",
            sqlstate=error.sqlstate,
        ) from error.__cause__


def _move(table: sql.Identifier, *columns: str) -> sql.Composed:
    changes = [
        sql.SQL("{0} = {0} - {1}").format(sql.Identifier(column), sql.Placeholder("span"))
        for column in columns
    ]
    return sql.SQL("update {} set {}").format(table, sql.SQL(", ").join(changes))
