"""Asking for messages and reading the answer. Two steps, because a pipeline may end in between."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import starmap
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.types.numeric import Int8BinaryLoader

from pgque.errors import PgqueUnreadableEvent
from pgque.message import Message
from pgque.wire.calls import as_bytes, execute, is_converted, new_cursor, server_encoding

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
    """Return the messages of an answer.

    :raises PgqueUnreadableEvent: for the first unreadable one; the transaction is still usable.
    """
    messages = read_leniently(rows)
    if _is_raw(rows):
        for message in messages:
            if isinstance(message, Unreadable):
                raise PgqueUnreadableEvent(
                    f"event {message.msg_id} of batch {message.batch_id} {message.reason}\n"
                    "Nack it: pass the error's `message` to nack().",
                    event=message,
                )
    return messages


def read_leniently(rows: Rows) -> list[Message]:
    """Return the messages of an answer; unreadable ones are `Unreadable` objects."""
    if _is_raw(rows):
        encoding = server_encoding(rows.connection)
        return [_decoded(row, encoding) for row in rows.fetchall()]
    return list(starmap(Message, rows.fetchall()))


class Unreadable(Message):
    """A message with a text that is not valid in the database's encoding; ``payload`` is None."""

    __slots__ = ("reason",)
    reason: str


def _decoded(row: Sequence[Any], encoding: str) -> Message:
    values = list(row)
    wrong = []
    for number in _TEXTS:
        value = values[number]
        if value is not None:
            try:
                values[number] = value.decode(encoding)
            except UnicodeDecodeError as error:
                values[number] = value.decode(encoding, "backslashreplace")
                wrong.append(
                    f"{_COLUMNS[number]} has byte 0x{value[error.start]:02x} at {error.start}"
                )
    if not wrong:
        return Message(*values)
    values[_PAYLOAD] = None
    message = Unreadable(*values)
    message.reason = f"cannot be read as {encoding}: {'; '.join(wrong)}"
    return message


def _is_raw(rows: Rows) -> bool:
    return rows.description is not None and rows.description[_PAYLOAD].type_code == _BYTEA


_COLUMNS: Final = (
    "msg_id",
    "batch_id",
    "type",
    "payload",
    "retry_count",
    "created_at",
    "extra1",
    "extra2",
    "extra3",
    "extra4",
)
_TEXTS: Final = (2, 3, 6, 7, 8, 9)
_PAYLOAD: Final = 3
_BYTEA: Final = 17  # its OID
_PLAIN: Final = ", ".join(_COLUMNS)
_RAW: Final = ", ".join(
    as_bytes(name) if number in _TEXTS else name for number, name in enumerate(_COLUMNS)
)


def _ask(conn: psycopg.Connection[Any], call: LiteralString, params: Sequence[Any]) -> Rows:
    columns = _PLAIN if is_converted(conn) else _RAW
    cursor = new_cursor(conn)
    # Times stay integers, microseconds, until Message.created_at is read.
    cursor.adapters.register_loader("timestamptz", Int8BinaryLoader)
    query = f"select {columns} from pgque.{call}"  # noqa: S608
    return execute(cursor, query.encode(), params)
