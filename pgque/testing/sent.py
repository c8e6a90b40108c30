"""The events in a queue's log, and whether they match a test's expectation."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import ANY

import psycopg
from psycopg import sql

from pgque.errors import PgquePayloadError, mapped
from pgque.message import Message, encode_payload
from pgque.wire.calls import find_queue, new_cursor

SHOWN: Final = 20
LONGEST_LINE: Final = 150

_EVENTS: Final = sql.SQL(
    "select ev_id, 0::bigint, ev_type, ev_data, 0, ev_time, ev_extra1, ev_extra2, ev_extra3, "
    "ev_extra4 from {} where ev_owner is null order by ev_id"
)

# A session holds this lock between its insert and its commit.
_UNCOMMITTED: Final = sql.SQL(
    "select count(distinct l.pid) from pg_locks l join pg_inherits i on i.inhrelid = l.relation "
    "where i.inhparent = %s::regclass and l.mode = 'RowExclusiveLock' and l.granted "
    "and l.database = (select oid from pg_database where datname = current_database()) "
    "and l.pid is distinct from pg_backend_pid()"
)


def sent(conn: psycopg.Connection[Any], queue: str) -> list[Message]:
    """Return the events in a queue's log, oldest first, as messages with a ``batch_id`` of 0.

    Includes the uncommitted events of this connection. Raises `PgqueQueueNotFound`.
    """
    with mapped:
        rows = new_cursor(conn).execute(_EVENTS.format(find_queue(conn, queue)[1])).fetchall()
    return [Message(*row) for row in rows]


@dataclass(frozen=True)
class Pattern:
    """The expected attributes of an event; `unittest.mock.ANY` matches anything."""

    type: Any
    payload: Any
    key: Any
    headers: Any

    def fits(self, message: Message) -> bool:
        """Tell whether an event matches."""
        return (
            self.type == message.type
            and self.key == message.key
            and self._headers_fit(message)
            and self._payload_fits(message)
        )

    def _headers_fit(self, message: Message) -> bool:
        if self.headers is ANY:
            return True
        try:
            return bool(self.headers == message.headers)
        except PgquePayloadError:  # extra2 holds something other than headers
            return False

    def _payload_fits(self, message: Message) -> bool:
        if self.payload is ANY:
            return True
        if isinstance(self.payload, str):
            return self.payload == message.payload
        try:
            found = message.json()
            # Compared unencoded first: it may contain ANY, or another object with its own __eq__.
            return bool(self.payload == found) or json.loads(self.text()) == found
        except PgquePayloadError:
            return False

    def text(self) -> str:
        """Return the payload as `send` would store it; raises `PgquePayloadError`."""
        return encode_payload(self.payload)

    def __str__(self) -> str:
        parts = [f"{name}={value!r}" for name, value in vars(self).items() if value is not ANY]
        return ", ".join(parts) or "anything"


def explain(
    conn: psycopg.Connection[Any],
    queue: str,
    pattern: Pattern,
    times: int | None,
    found: Sequence[Message],
    events: Sequence[Message],
) -> str:
    """Return the text of the error for a wrong number of matching events."""
    if times is None:
        lines = [f"no event in queue {queue!r} matches: {pattern}"]
    else:
        noun = "event" if times == 1 else "events"
        lines = [f"{times} {noun} in queue {queue!r} should match, not {len(found)}: {pattern}"]
    lines.append("events sent:" if events else "no events were sent to it")
    if len(events) > SHOWN:
        lines.append(f"    ({len(events) - SHOWN} earlier ones)")
    lines += [_line(event, event in found) for event in events[-SHOWN:]]
    if not found and events:
        lines += _difference(pattern, events)
    if open_elsewhere := _uncommitted(conn, queue):
        sessions = "another session" if open_elsewhere == 1 else f"{open_elsewhere} sessions"
        lines.append(
            f"{sessions} may have sent to it in a transaction that is still open; "
            "its events are visible after the commit"
        )
    return "\n".join(lines)


def _line(event: Message, fits: bool) -> str:
    more = "".join(
        f" {name}={value}"
        for name, value in (("key", event.extra1), ("headers", event.extra2))
        if value is not None
    )
    line = f"  {'*' if fits else ' '} {event.msg_id} {event.type} {event.payload}{more}"
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 1]}…"


def _difference(pattern: Pattern, events: Sequence[Message]) -> list[str]:
    """Return the difference between the payload and that of the most similar event of the type."""
    candidates = [event for event in events if pattern.type == event.type]
    if pattern.payload is ANY or not candidates:
        return []
    try:
        wanted = _pretty(pattern.text())
    except PgquePayloadError:  # it contains ANY or a similar object
        wanted = repr(pattern.payload).splitlines()
    nearest = max(
        candidates,
        key=lambda event: difflib.SequenceMatcher(
            None, "\n".join(wanted), "\n".join(_pretty(event.payload))
        ).ratio(),
    )
    there = _pretty(nearest.payload)
    if wanted == there:
        return []
    title = f"the payload of {nearest.msg_id} (-) and the expected one (+):"
    return [title, *(f"    {line}" for line in difflib.ndiff(there, wanted) if line[0] != "?")]


def _pretty(text: str | None) -> list[str]:
    try:
        return json.dumps(
            json.loads(text or ""), indent=2, sort_keys=True, ensure_ascii=False
        ).splitlines()
    except (ValueError, RecursionError):
        return str(text).splitlines()


def _uncommitted(conn: psycopg.Connection[Any], queue: str) -> int:
    with mapped:
        log = find_queue(conn, queue)[1].as_string(conn)
        row = new_cursor(conn).execute(_UNCOMMITTED, [log]).fetchone()
    return int(row[0]) if row else 0
