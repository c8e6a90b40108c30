"""Messages, retries and dead letters to look through: without consuming, and never all at once.

Invariant: one call looks at `LOOKED_AT` rows at most, from an index, and says where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql

from pgque.calls import Calls, new_cursor, to_interval
from pgque.dashboard.looking import only_reading
from pgque.errors import PgqueDeadLetterNotFound, PgqueQueueNotFound, mapped

LOOKED_AT: Final = 10_000
"""Rows that one call looks at where it has to search."""
PAGE: Final = 50
PAGE_AT_MOST: Final = 200
PATIENCE: Final = 5.0
"""Seconds for each statement."""
SHORT: Final = 160
"""Characters of a payload in a list."""
LONG: Final = 200_000
"""Characters of a payload that is shown whole."""
COUNTED: Final = 100_000
SECONDS_A_DAY: Final = 86400.0

Row = dict[str, Any]


class Page(NamedTuple):
    """What one call found."""

    rows: list[Row]
    more: str | None
    """Where the next call begins; None where nothing older is left."""
    looked_at: int | None
    """How many rows were looked at, where they were too many to find a page of them."""


class Wanted(NamedTuple):
    """What somebody looks for; None is anything."""

    type: str | None = None
    key: str | None = None
    text: str | None = None
    """Part of the payload, in upper or lower case, or of a dead letter's reason; or an event's
    id."""
    consumer: str | None = None


class Browser(Calls):
    """Looks through one queue after the other. Needs pgque_reader.

    :param conn: an autocommit connection.
    """

    def messages(
        self,
        queue: str,
        wanted: Wanted,
        *,
        until: datetime | None = None,
        after: str | None = None,
        limit: int = PAGE,
    ) -> Page:
        """Return events of the log, newest first; what was put back for one consumer is left out.

        :param until: only what was sent before about this time.
        :param after: `Page.more` of the call before.
        :raises PgqueQueueNotFound: where there is no such queue.
        """
        log, newest = self._log(queue, until)
        start = [int(part) for part in after.split("-")] if after else newest
        return self._page(
            table=sql.SQL("{} e").format(log),
            always="e.ev_owner is null",
            order=("e.ev_txid", "e.ev_id"),
            kinds=("xid8", "bigint"),
            start=start,
            columns=_EVENT,
            matches=_matches(wanted._replace(consumer=None), "e.ev_data"),
            limit=limit,
            row=_message,
        )

    def message(self, queue: str, place: str) -> Row | None:
        """Return one event of the log, whole; None where it is gone."""
        txid, number = (int(part) for part in place.split("-"))
        log, _ = self._log(queue, None)
        query = sql.SQL(
            "select {} from {} e where e.ev_owner is null and e.ev_txid = %s::text::xid8 "
            "and e.ev_id = %s::bigint"
        ).format(_columns(_EVENT, LONG), log)
        rows = self._found(query, (str(txid), number))
        return _message(rows[0]) if rows else None

    def dead_letters(
        self, queue: str, wanted: Wanted, *, after: str | None = None, limit: int = PAGE
    ) -> Page:
        """Return dead letters, newest first.

        :raises PgqueQueueNotFound: where there is no such queue.
        """
        return self._page(
            table=_DEAD,
            always=sql.SQL("e.dl_queue_id = {}").format(sql.Literal(self._queue(queue)[0])),
            order=("e.dl_id",),
            kinds=("bigint",),
            start=[int(after)] if after else None,
            columns=_LETTER,
            matches=_matches(wanted, "e.ev_data", "e.dl_reason"),
            limit=limit,
            row=_letter,
        )

    def dead_letter(self, number: int) -> Row:
        """Return one dead letter, whole.

        :raises PgqueDeadLetterNotFound: where it is gone.
        """
        query = sql.SQL("select {} from {} where e.dl_id = %s::bigint").format(
            _columns(_LETTER, LONG), _DEAD
        )
        rows = self._found(query, (number,))
        if not rows:
            raise PgqueDeadLetterNotFound(f"dead letter entry not found: {number}")
        return _letter(rows[0])

    def retries(self, queue: str, wanted: Wanted, *, limit: int = PAGE) -> Page:
        """Return events that wait to be delivered again, those that are due first.

        :raises PgqueQueueNotFound: where there is no such queue.
        """
        return self._page(
            table=_RETRIES,
            always=sql.SQL("e.ev_queue = {}").format(sql.Literal(self._queue(queue)[0])),
            order=("e.ev_retry_after",),
            kinds=(),
            start=None,
            columns=_RETRY,
            matches=_matches(wanted, "e.ev_data"),
            limit=limit,
            row=_retry,
        )

    def count_purgeable(self, queue: str, days: float) -> int:
        """Count dead letters that a purge would delete, up to `COUNTED`."""
        query = sql.SQL(
            "select count(*) from (select from pgque.dead_letter d where d.dl_queue_id = %s::int "
            "and d.dl_time <= clock_timestamp() - %s::interval limit %s::int) counted"
        )
        number = self._queue(queue)[0]
        age = to_interval(days * SECONDS_A_DAY, "days")
        return int(self._found(query, (number, age, COUNTED))[0][0])

    def _page(
        self,
        *,
        table: sql.Composable,
        always: str | sql.Composable,
        order: Sequence[str],
        kinds: Sequence[str],
        start: Sequence[int] | None,
        columns: Sequence[str],
        matches: list[tuple[sql.Composable, list[Any]]],
        limit: int,
        row: Callable[[tuple[Any, ...]], Row],
    ) -> Page:
        """Look at rows in the index's order, newest first where `kinds` say how to go on."""
        limit = max(1, min(limit, PAGE_AT_MOST))
        direction = " desc" if kinds else ""
        sorting = sql.SQL(", ".join(f"{column}{direction}" for column in order))
        begin: sql.Composable = always if isinstance(always, sql.Composable) else sql.SQL(always)
        given: list[Any] = []
        if start is not None:
            begin = sql.SQL("{} and ({}) < ({})").format(
                begin,
                sql.SQL(", ".join(order)),
                sql.SQL(", ".join(f"%s::text::{kind}" for kind in kinds)),
            )
            given = [str(part) for part in start]
        looked = sql.SQL("from (select * from {} where {} order by {} limit %s::int) e").format(
            table, begin, sorting
        )
        conditions = sql.SQL(" and ").join([sql.SQL("true"), *(one for one, _ in matches)])
        query = sql.SQL("select {} {} where {} order by {} limit %s::int").format(
            _columns(columns, SHORT), looked, conditions, sorting
        )
        values = [value for _, some in matches for value in some]
        rows = [row(one) for one in self._found(query, [*given, LOOKED_AT, *values, limit])]
        if not kinds:
            return Page(rows, None, None)
        if len(rows) == limit:
            return Page(rows, rows[-1]["place"], None)
        last = sql.SQL("select {} {} order by {} limit 1 offset %s::int").format(
            sql.SQL(", ".join(f"{column}::text" for column in order)), looked, sorting
        )
        ends = self._found(last, [*given, LOOKED_AT, LOOKED_AT - 1])
        return Page(rows, "-".join(ends[0]) if ends else None, LOOKED_AT if ends else None)

    def _queue(self, queue: str) -> tuple[int, str]:
        rows = self._found(
            sql.SQL("select queue_id, queue_data_pfx from pgque.queue where queue_name = %s::text"),
            (queue,),
        )
        if not rows:
            raise PgqueQueueNotFound(f"queue not found: {queue}")
        return rows[0][0], rows[0][1]

    def _log(self, queue: str, until: datetime | None) -> tuple[sql.Identifier, list[int] | None]:
        """Return the log's table, and a place that is not before what was sent until a time."""
        number, log = self._queue(queue)
        newest: list[int] | None = None
        if until is not None:
            ticks = self._found(
                sql.SQL(
                    "select pg_snapshot_xmax(t.tick_snapshot)::text::bigint from pgque.tick t "
                    "where t.tick_queue = %s::int and t.tick_time >= %s::timestamptz "
                    "order by t.tick_id limit 1"
                ),
                (number, until),
            )
            newest = [ticks[0][0], 0] if ticks else None
        return sql.Identifier(*log.split(".")), newest

    def _found(self, query: sql.Composable, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        conn: psycopg.Connection[Any] = self._conn
        with mapped, only_reading(conn, seconds=PATIENCE):
            # By the index, whatever the planner thinks of a table that nobody has analyzed.
            new_cursor(conn).execute(_BY_INDEX, prepare=False)
            return self._rows(query.as_string(conn), values)


_BY_INDEX: Final = (
    "select set_config(name, 'off', true) from "
    "unnest(array['enable_seqscan', 'enable_sort', 'enable_bitmapscan', 'jit']) as name"
)
_EVENT: Final = (
    "e.ev_id", "e.ev_txid::text", "e.ev_time", "e.ev_type", "e.ev_extra1", "e.ev_extra2",
    "e.ev_extra3", "e.ev_extra4", "e.ev_data",
)  # fmt: skip
_LETTER: Final = (
    *_EVENT, "e.dl_id", "e.dl_time", "left(e.dl_reason, 2000)", "e.ev_retry", "e.co_name",
)  # fmt: skip
_RETRY: Final = (*_EVENT, "e.ev_retry_after", "e.ev_retry", "e.co_name")

_DEAD: Final = sql.SQL(
    "(select d.*, c.co_name from pgque.dead_letter d "
    "join pgque.consumer c on c.co_id = d.dl_consumer_id) e"
)
_RETRIES: Final = sql.SQL(
    "(select r.*, c.co_name from pgque.retry_queue r "
    "join pgque.subscriber s on s.sub_id = r.ev_owner "
    "join pgque.consumer c on c.co_id = s.sub_consumer) e"
)


def _columns(names: Sequence[str], longest: int) -> sql.Composable:
    """Return columns, of the payload its beginning and its length in characters."""
    return sql.SQL(
        ", ".join(
            f"left({name}, {longest}), length({name})" if name == "e.ev_data" else name
            for name in names
        )
    )


def _matches(wanted: Wanted, *texts: str) -> list[tuple[sql.Composable, list[Any]]]:
    """Return conditions with their values; a text is looked for in some columns, or is an id."""
    found: list[tuple[sql.Composable, list[Any]]] = []
    for column, value in (
        ("e.ev_type", wanted.type),
        ("e.ev_extra1", wanted.key),
        ("e.co_name", wanted.consumer),
    ):
        if value:
            found.append((sql.SQL(f"{column} = %s::text"), [value]))
    if wanted.text:
        parts = [f"position(lower(%s::text) in lower({column})) > 0" for column in texts]
        condition = " or ".join([*parts, "e.ev_id::text = %s::text"])
        values = [*[wanted.text] * len(texts), wanted.text.strip()]
        found.append((sql.SQL(f"({condition})"), values))
    return found


def _message(row: tuple[Any, ...]) -> Row:
    number, txid, at, kind, key, headers, extra3, extra4, payload, length = row[:10]
    return {
        "id": str(number),
        "place": f"{txid}-{number}",
        "at": at,
        "type": kind,
        "key": key,
        "headers": headers,
        "extra3": extra3,
        "extra4": extra4,
        "payload": payload,
        "length": length,
    }


def _letter(row: tuple[Any, ...]) -> Row:
    letter, died, reason, retries, consumer = row[10:]
    return {
        **_message(row),
        "place": str(letter),
        "letter": str(letter),
        "died": died,
        "reason": reason,
        "retries": retries,
        "consumer": consumer,
    }


def _retry(row: tuple[Any, ...]) -> Row:
    due, retries, consumer = row[10:]
    return {**_message(row), "due": due, "retries": retries, "consumer": consumer}
