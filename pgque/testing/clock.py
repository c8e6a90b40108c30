"""A clock that can be moved forward, for tests only.

pgque makes no decision by a client's clock, and a test cannot move the server's. Instead `advance`
moves the times that pgque has stored: if all of them are an hour older, an hour has passed.
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
"""The columns that hold times, in addition to `ev_time` in the log of each queue."""

_PATIENCE: Final = b"set local lock_timeout = '5s'"


def advance(conn: psycopg.Connection[Any], span: timedelta | float) -> None:
    """Let time pass for pgque in one database; ``span`` is in seconds, or a timedelta.

    Afterwards retries and rotations are due, members of groups are dead, events and dead letters
    are old and queues are idle, as if the time had passed. pgque reacts with the next tick,
    maintenance or receive. Other databases, the application's tables and times measured in a
    process, such as ``poll_interval``, are not affected. Neither are uncommitted rows.

    Needs the owner of the schema, or a superuser. Raises `PgqueInvalidArgument` for a negative
    span, `PgquePermissionDenied`, and `PgqueBusy` if an open transaction blocks a row for five
    seconds.
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
            "only the owner of the schema pgque, or a superuser, can move the clock",
            sqlstate=error.sqlstate,
        ) from error.__cause__
    except PgqueBusy as error:
        raise PgqueBusy(
            f"{error}\nAnother session has an open transaction: end it before moving the clock.",
            sqlstate=error.sqlstate,
        ) from error.__cause__


def _move(table: sql.Identifier, *columns: str) -> sql.Composed:
    changes = [
        sql.SQL("{0} = {0} - {1}").format(sql.Identifier(column), sql.Placeholder("span"))
        for column in columns
    ]
    return sql.SQL("update {} set {}").format(table, sql.SQL(", ").join(changes))
