"""Asking for messages and reading the answer: two steps, for a pipeline lies between them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import starmap
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.types.numeric import Int8BinaryLoader

from pgque.calls import execute, new_cursor
from pgque.message import Message

if TYPE_CHECKING:
    from typing_extensions import LiteralString

    Rows = psycopg.Cursor[tuple[Any, ...]]


def ask(
    conn: psycopg.Connection[Any], queue: str, consumer: str, max_messages: int, *, merged: bool
) -> Rows:
    """Call `pgque.receive` or `pgque.receive_merged`; `read` reads the answer."""
    function = "receive_merged" if merged else "receive"
    return _ask(conn, f"{function}(%s::text, %s::text, %s::int)", (queue, consumer, max_messages))


def ask_as_member(
    conn: psycopg.Connection[Any],
    queue: str,
    consumer: str,
    subconsumer: str,
    max_messages: int,
    dead_interval: timedelta | None,
    *,
    merged: bool,
) -> Rows:
    """Call `pgque.receive_coop` or `pgque.receive_coop_merged`; `read` reads the answer."""
    function = "receive_coop_merged" if merged else "receive_coop"
    return _ask(
        conn,
        f"{function}(%s::text, %s::text, %s::text, %s::int, %s::interval)",
        (queue, consumer, subconsumer, max_messages, dead_interval),
    )


def read(rows: Rows) -> list[Message]:
    """Return the messages of an answer."""
    return list(starmap(Message, rows.fetchall()))


def _ask(conn: psycopg.Connection[Any], call: LiteralString, params: Sequence[Any]) -> Rows:
    columns = (
        "msg_id, batch_id, type, payload, retry_count, created_at, extra1, extra2, extra3, extra4"
    )
    cursor = new_cursor(conn)
    # A time is a number of microseconds until somebody asks: see Message.created_at.
    cursor.adapters.register_loader("timestamptz", Int8BinaryLoader)
    query = f"select {columns} from pgque.{call}"  # noqa: S608
    return execute(cursor, query.encode(), params)
