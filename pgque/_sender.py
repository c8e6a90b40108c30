"""Sending events and batches on a connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import psycopg

from pgque.errors import mapped
from pgque.message import encode_headers, encode_key
from pgque.traces import sending, tracing
from pgque.wire.calls import Calls, execute, new_cursor
from pgque.wire.connections import check_process

LONGEST_TEXT_KEPT: Final = 8192

_SEND: Final = b"select pgque.send(%s::text, %s::text, %s::text)"
_INSERT: Final = (
    "select pgque.insert_event("
    "%s::text, %s::text, %s::text, %s::text, %s::text, null::text, null::text)"
)
# %b: psycopg dumps an array several times faster in binary.
_SEND_BATCH: Final = "select pgque.send_batch(%s::text, %s::text, %b::text[])"
_SEND_BATCH_WITH: Final = "select pgque.send_batch(%s::text, %s::text, %b::text[], %s::text)"


class Sender(Calls):
    """Sends events in the connection's transaction, with the trace context of the current span."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        super().__init__(conn)
        self._cursors: dict[bytes | None, psycopg.Cursor[tuple[Any, ...]]] = {}

    def send(
        self,
        queue: str,
        type: str,  # noqa: A002
        text: str,
        key: str | None,
        headers: Mapping[str, Any] | None,
    ) -> int:
        """Send one event; return its id."""
        if not tracing():
            return self._send(queue, type, text, key, headers)
        with sending(queue) as span:
            event_id = self._send(queue, type, text, key, span.add_context(headers))
            span.sent(event_id)
            return event_id

    def send_batch(self, queue: str, type: str, texts: list[str]) -> list[int]:  # noqa: A002
        """Send events of one type; return their ids in the same order."""
        if not texts or not tracing():
            return self._ids(_SEND_BATCH, (queue, type, texts))
        with sending(queue, len(texts)) as span:
            headers = encode_headers(span.add_context(None))
            return self._ids(_SEND_BATCH_WITH, (queue, type, texts, headers))

    def _ids(self, query: str, params: tuple[Any, ...]) -> list[int]:
        ids: list[int] = self._value(query, params)
        return ids

    def _send(
        self,
        queue: str,
        type: str,  # noqa: A002
        text: str,
        key: str | None,
        headers: Mapping[str, Any] | None,
    ) -> int:
        if key is None and headers is None:
            return self._send_plain(queue, type, text)
        extras = (encode_key(key), encode_headers(headers))
        return int(self._value(_INSERT, (queue, type, text, *extras)))

    def _send_plain(self, queue: str, type: str, text: str) -> int:  # noqa: A002
        # Reusing a cursor saves 12 us. A cursor works for one encoding only, and it keeps a
        # reference to the last text, so it is dropped after a long one.
        check_process(self._process)
        encoding = self._conn.pgconn.parameter_status(b"client_encoding")
        with mapped:
            cursor = self._cursors.pop(encoding, None) or new_cursor(self._conn)
            row = execute(cursor, _SEND, (queue, type, text)).fetchone()
        assert row is not None
        if len(text) <= LONGEST_TEXT_KEPT:
            self._cursors[encoding] = cursor
        return int(row[0])
