"""Browsing messages, retries and dead letters page by page, without consuming them.

Invariant: one call reads at most `LOOKED_AT` rows, by an index, and returns where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, NamedTuple, TypeVar

from psycopg import sql

from pgque.errors import mapped
from pgque.wire.calls import (
    Calls,
    decode_leniently,
    find_queue,
    is_converted,
    only_reading,
    server_encoding,
)

LOOKED_AT: Final = 10_000
"""Maximum number of rows that one search reads."""
PAGE: Final = 50
PAGE_AT_MOST: Final = 200
PATIENCE: Final = 5.0
"""Timeout of each statement in seconds."""
SHORT: Final = 200
"""Characters of a text in a list."""
LONG: Final = 200_000
"""Characters of a text in a detail view."""

Place = tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """An event as stored. Texts are cut to `SHORT` characters in a list, else to `LONG`."""

    id: int
    created: datetime | None
    type: str | None
    key: str | None
    headers: str | None
    extra3: str | None
    extra4: str | None
    payload: str | None
    length: int | None
    """Characters of the whole payload."""

    @property
    def place(self) -> Place:
        """Its unique position in the list; the next page continues after it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Sent(Stored):
    """An event in the log."""

    txid: int

    @property
    def place(self) -> Place:
        """Return its position in the log."""
        return self.txid, self.id


@dataclass(frozen=True)
class Retry(Stored):
    """An event waiting for a retry."""

    due: datetime
    retries: int
    consumer: str
    owner: int

    @property
    def place(self) -> Place:
        """Return its owner and its id, because an event may wait for several consumers."""
        return self.owner, self.id


@dataclass(frozen=True)
class Letter(Stored):
    """A dead letter."""

    letter: int
    """The dead letter's id, for `PgqueClient.replay`."""
    died: datetime
    retries: int | None
    consumer: str
    reason: str | None

    @property
    def place(self) -> Place:
        """Return its id among the dead letters."""
        return (self.letter,)


S = TypeVar("S", bound=Stored)


@dataclass(frozen=True)
class Page(Generic[S]):
    """The result of one call."""

    rows: list[S]
    more: Place | None = None
    """The start of the next page; None at the end, and for retries."""
    looked_at: int | None = None
    """Number of rows read, if the search stopped before it had filled the page."""


class Wanted(NamedTuple):
    """Search criteria; None matches anything."""

    type: str | None = None
    key: str | None = None
    text: str | None = None
    """Part of the payload or of a dead letter's reason, ignoring case; or an event's id."""
    consumer: str | None = None


ANYTHING: Final = Wanted()


class Browser(Calls):
    """Browses queues. Needs pgque_reader.

    :param conn: an autocommit connection.
    """

    def messages(
        self,
        queue: str,
        wanted: Wanted = ANYTHING,
        *,
        until: datetime | None = None,
        after: Place | None = None,
        limit: int = PAGE,
    ) -> Page[Sent]:
        """Return events of the log, newest first, without redeliveries.

        :param wanted: search criteria, default anything; ``consumer`` is ignored.
        :param until: only events sent before about this time.
        :param after: `Page.more` of the previous call.
        :param limit: maximum number of rows, default `PAGE`, at most `PAGE_AT_MOST`.
        :raises PgqueQueueNotFound: if the queue does not exist.
        """
        number, log = find_queue(self._conn, queue)
        if after is None and until is not None:
            after = self._place_at(number, until)
        begin = sql.SQL("{} e where e.ev_owner is null").format(log)
        return self._page(_SENT, begin, wanted._replace(consumer=None), after, limit)

    def message(self, queue: str, place: Place) -> Sent | None:
        """Return one event of the log in full; None if it no longer exists.

        :raises PgqueQueueNotFound: if the queue does not exist.
        """
        _, log = find_queue(self._conn, queue)
        condition = "e.ev_owner is null and e.ev_txid = %s::text::xid8 and e.ev_id = %s::bigint"
        return self._whole(_SENT, log + sql.SQL(" e"), condition, (str(place[0]), place[1]))

    def retries(self, queue: str, wanted: Wanted = ANYTHING, *, limit: int = PAGE) -> Page[Retry]:
        """Return events waiting for a retry, the earliest due first.

        :raises PgqueQueueNotFound: if the queue does not exist.
        """
        begin = _WAITING + self._of_queue(" where e.ev_queue = {}", queue)
        return self._page(_RETRY, begin, wanted, None, limit)

    def retry(self, place: Place) -> Retry | None:
        """Return an event waiting for a retry in full; None if it no longer waits."""
        condition = "e.ev_owner = %s::bigint and e.ev_id = %s::bigint"
        return self._whole(_RETRY, _WAITING, condition, place)

    def dead_letters(
        self,
        queue: str,
        wanted: Wanted = ANYTHING,
        *,
        after: Place | None = None,
        limit: int = PAGE,
    ) -> Page[Letter]:
        """Return dead letters, newest first.

        :raises PgqueQueueNotFound: if the queue does not exist.
        """
        begin = _DEAD + self._of_queue(" where e.dl_queue_id = {}", queue)
        return self._page(_LETTER, begin, wanted, after, limit)

    def dead_letter(self, letter: int) -> Letter | None:
        """Return a dead letter in full; None if it was replayed or purged."""
        return self._whole(_LETTER, _DEAD, "e.dl_id = %s::bigint", (letter,))

    def read(self, query: sql.Composable, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Return the rows of a query, run read-only with a timeout of `PATIENCE` seconds."""
        conn = self._conn
        is_plain = is_converted(conn)
        settings = _BY_INDEX if is_plain else _BY_INDEX | _UNCONVERTED
        with mapped, only_reading(conn, seconds=PATIENCE, **settings):
            rows = self._times(query.as_string(conn), values)
        if is_plain:
            return rows
        encoding = server_encoding(conn)
        return [decode_leniently(row, encoding) for row in rows]

    def _of_queue(self, condition: str, queue: str) -> sql.Composable:
        number, _ = find_queue(self._conn, queue)
        return sql.SQL(condition).format(sql.Literal(number))

    def _place_at(self, queue: int, until: datetime) -> Place | None:
        """Return a place in the log at or after all events sent before a time."""
        query = sql.SQL(
            "select pg_snapshot_xmax(t.tick_snapshot)::text::bigint from pgque.tick t "
            "where t.tick_queue = %s::int and t.tick_id > coalesce(("
            # The tick after the last earlier one: a clock that is set back repeats times.
            "select k.tick_id from pgque.tick k where k.tick_queue = %s::int "
            "and k.tick_time < %s::timestamptz order by k.tick_id desc limit 1), 0) "
            "order by t.tick_id limit 1"
        )
        ticks = self.read(query, (queue, queue, until))
        return (ticks[0][0], 0) if ticks else None

    def _whole(
        self, kind: _Kind[S], table: sql.Composable, condition: str, values: Sequence[Any]
    ) -> S | None:
        query = sql.SQL("select {} from {} where {}").format(
            kind.texts(LONG), table, sql.SQL(condition)
        )
        rows = self.read(query, values)
        return kind.make(*rows[0]) if rows else None

    def _page(
        self,
        kind: _Kind[S],
        begin: sql.Composable,
        wanted: Wanted,
        after: Place | None,
        limit: int,
    ) -> Page[S]:
        """Return a page of rows in the index's order, starting after a place."""
        limit = max(1, min(limit, PAGE_AT_MOST))
        given: list[Any] = []
        if after is not None:
            begin += sql.SQL(" and ({}) < ({})").format(
                sql.SQL(", ".join(kind.order)),
                sql.SQL(", ".join(f"%s::text::{type_}" for type_ in kind.order.values())),
            )
            given = [str(part) for part in after]
        looked = sql.SQL("from (select * from {} order by {} limit %s::int) e").format(
            begin, kind.sorting
        )
        matches = _matches(wanted, kind.searched)
        conditions = sql.SQL(" and ").join([sql.SQL("true"), *(one for one, _ in matches)])
        query = sql.SQL("select {} {} where {} order by {} limit %s::int").format(
            kind.texts(SHORT), looked, conditions, kind.sorting
        )
        values = [value for _, some in matches for value in some]
        rows = [kind.make(*row) for row in self.read(query, [*given, LOOKED_AT, *values, limit])]
        if len(rows) == limit:
            return Page(rows, rows[-1].place if kind.newest_first else None)
        if not matches:  # these are all rows
            return Page(rows)
        last = sql.SQL("select {} {} order by {} limit 1 offset %s::int").format(
            kind.texts(0), looked, kind.sorting
        )
        ends = self.read(last, [*given, LOOKED_AT, LOOKED_AT - 1])
        if not ends:
            return Page(rows)
        return Page(rows, kind.make(*ends[0]).place if kind.newest_first else None, LOOKED_AT)


_BY_INDEX: Final = dict.fromkeys(
    ("enable_seqscan", "enable_sort", "enable_bitmapscan", "jit"), "off"
)
"""Force the index scan, because the planner may misjudge a table that was never analyzed."""


_UNCONVERTED: Final = {"client_encoding": "SQL_ASCII"}
"""Read texts as the stored bytes. Converting an invalid text, or one cut inside a character, would
raise an error."""


@dataclass(frozen=True)
class _Kind(Generic[S]):
    """How to read a list: the class of its rows, and the index that gives their order."""

    make: Callable[..., S]
    columns: tuple[str, ...]
    """In addition to the columns of every event."""
    order: dict[str, str]
    """The index's columns, with their types."""
    searched: tuple[str, ...] = ("e.ev_data",)
    newest_first: bool = True

    @property
    def sorting(self) -> sql.Composable:
        direction = " desc" if self.newest_first else ""
        return sql.SQL(", ".join(f"{column}{direction}" for column in self.order))

    def texts(self, longest: int) -> sql.Composable:
        """Return the columns, each text cut to ``longest`` characters."""
        cut = ("ev_type", "ev_extra1", "ev_extra2", "ev_extra3", "ev_extra4", "ev_data")
        texts = [f"left(e.{name}, {longest})" for name in cut]
        own = [
            f"left({name}, {longest})" if name in self.searched else name for name in self.columns
        ]
        return sql.SQL(", ".join(["e.ev_id", "e.ev_time", *texts, "length(e.ev_data)", *own]))


_SENT: Final = _Kind(
    Sent,
    columns=("e.ev_txid::text::bigint",),
    order={"e.ev_txid": "xid8", "e.ev_id": "bigint"},
)
_RETRY: Final = _Kind(
    Retry,
    columns=("e.ev_retry_after", "e.ev_retry", "e.co_name", "e.ev_owner"),
    order={"e.ev_retry_after": "timestamptz"},
    newest_first=False,
)
_LETTER: Final = _Kind(
    Letter,
    columns=("e.dl_id", "e.dl_time", "e.ev_retry", "e.co_name", "e.dl_reason"),
    order={"e.dl_id": "bigint"},
    searched=("e.ev_data", "e.dl_reason"),
)

_WAITING: Final = sql.SQL(
    "(select r.*, c.co_name from pgque.retry_queue r "
    "join pgque.subscriber s on s.sub_id = r.ev_owner "
    "join pgque.consumer c on c.co_id = s.sub_consumer) e"
)
_DEAD: Final = sql.SQL(
    "(select d.*, c.co_name from pgque.dead_letter d "
    "join pgque.consumer c on c.co_id = d.dl_consumer_id) e"
)


def _matches(wanted: Wanted, texts: Sequence[str]) -> list[tuple[sql.Composable, list[Any]]]:
    """Return conditions with their values; `Wanted.text` matches some columns or the id."""
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
