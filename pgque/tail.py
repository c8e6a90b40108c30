"""Looking at a queue's events as they are committed, without consuming them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg import sql

from pgque.errors import mapped
from pgque.message import Message
from pgque.wire.calls import Calls, find_queue, new_cursor

_COLUMNS: Final = (
    "e.ev_id, 0::bigint, e.ev_type, e.ev_data, coalesce(e.ev_retry, 0), e.ev_time, "
    "e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4"
)


class Tail(Calls):
    """The events of one queue from now on, or from an earlier time, each once, by id.

    Nothing is locked, moved or written: consumers do not notice. An event whose transaction commits
    late comes when it has, so ids do not always grow from one `read` to the next. What was put back
    for one consumer is left out. Needs pgque_reader, and a connection in autocommit.

    :param conn: psycopg connection in autocommit.
    :param queue: the queue's name.
    :param since: an aware time: events committed after about it come first, as far as they are
        still kept. Without it only what is committed from now on.
    :raises PgqueQueueNotFound: where there is no such queue.
    :raises PgquePermissionDenied: where row security hides events from this user.
    """

    def __init__(
        self, conn: psycopg.Connection[Any], queue: str, since: datetime | None = None
    ) -> None:
        super().__init__(conn)
        number, log = find_queue(conn, queue)
        self._seen = self._value(
            "select coalesce("
            "(select t.tick_snapshot from pgque.tick t where t.tick_queue = %s::int "
            # Before the first later tick: a clock that was set back showed some times twice.
            "and %s::timestamptz is not null and t.tick_id < coalesce((select later.tick_id "
            "from pgque.tick later where later.tick_queue = t.tick_queue "
            "and later.tick_time > %s::timestamptz order by later.tick_id limit 1), t.tick_id + 1) "
            "order by t.tick_id desc limit 1), "
            "case when %s::timestamptz is not null then (select t.tick_snapshot from pgque.tick t "
            "where t.tick_queue = %s::int order by t.tick_id limit 1) end, "
            "pg_current_snapshot())::text",
            (number, since, since, since, number),
        )
        # What was in progress at the last look is found by its transaction; the rest began later.
        self._query: Final = sql.SQL(
            "with found as ("
            "select {columns} from {log} e where e.ev_owner is null "
            "and e.ev_txid >= pg_snapshot_xmax(%(seen)s::pg_snapshot) "
            "union all select {columns} from {log} e where e.ev_owner is null "
            "and e.ev_txid = any (array(select pg_snapshot_xip(%(seen)s::pg_snapshot)))"
            ") select pg_current_snapshot()::text, found.* "
            "from (select) one left join found on true order by found.ev_id"
        ).format(columns=sql.SQL(_COLUMNS), log=log)

    def read(self) -> Iterator[Message]:
        """Yield what was committed since the last call; messages whose ``batch_id`` is 0.

        Read it to its end before you use the connection again.
        """
        with mapped:
            for row in new_cursor(self._conn).stream(
                self._query, {"seen": self._seen}, binary=True
            ):
                seen = row[0]
                if row[1] is not None:
                    yield Message(*row[1:])
            self._seen = seen
