"""Following a queue's events as they are committed, without consuming them."""

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

    It locks, moves and writes nothing, so consumers are not affected. An event appears once its
    transaction has committed, so ids do not always grow from one `read` to the next. Redeliveries
    are left out. Needs pgque_reader, and a connection in autocommit.

    :param conn: psycopg connection in autocommit.
    :param queue: the queue's name.
    :param since: an aware datetime. Retained events committed after about that time come first.
        Without it, only events committed from now on.
    :raises PgqueQueueNotFound: if the queue does not exist.
    :raises PgquePermissionDenied: if row security hides events from this user.
    """

    def __init__(
        self, conn: psycopg.Connection[Any], queue: str, since: datetime | None = None
    ) -> None:
        super().__init__(conn)
        number, log = find_queue(conn, queue)
        self._seen = self._value(
            "select coalesce("
            "(select t.tick_snapshot from pgque.tick t where t.tick_queue = %s::int "
            # The tick before the first later one: a clock that is set back repeats times.
            "and %s::timestamptz is not null and t.tick_id < coalesce((select later.tick_id "
            "from pgque.tick later where later.tick_queue = t.tick_queue "
            "and later.tick_time > %s::timestamptz order by later.tick_id limit 1), t.tick_id + 1) "
            "order by t.tick_id desc limit 1), "
            "case when %s::timestamptz is not null then (select t.tick_snapshot from pgque.tick t "
            "where t.tick_queue = %s::int order by t.tick_id limit 1) end, "
            "pg_current_snapshot())::text",
            (number, since, since, since, number),
        )
        # Transactions in progress at the last read are found by their ids; the others began later.
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
        """Yield the events committed since the last call, as messages with a ``batch_id`` of 0.

        Exhaust the iterator before you use the connection again.
        """
        with mapped:
            for row in new_cursor(self._conn).stream(
                self._query, {"seen": self._seen}, binary=True
            ):
                seen = row[0]
                if row[1] is not None:
                    yield Message(*row[1:])
            self._seen = seen
