"""Lists for `pgque top`: events, retries and dead letters of a queue, without consuming any.

Each list is the first few rows of an index, with the beginning of each payload: it costs the same
at any backlog.
"""

from __future__ import annotations

from datetime import datetime
from itertools import starmap
from typing import Any, Final, NamedTuple

from psycopg import sql

from pgque.calls import Calls, new_cursor
from pgque.errors import PgqueQueueNotFound, mapped

AT_MOST: Final = 200
"""Rows of a list."""
BEGINNING: Final = 200
"""Characters of a text in a list."""

_RETRIES: Final = """
select r.ev_id, r.ev_owner, r.ev_retry_after, c.co_name, r.ev_retry, r.ev_type, r.ev_extra1,
       left(r.ev_data, %s::int)
  from pgque.queue q
  join pgque.retry_queue r on r.ev_queue = q.queue_id
  join pgque.subscriber s on s.sub_id = r.ev_owner
  join pgque.consumer c on c.co_id = s.sub_consumer
 where q.queue_name = %s::text and (%s::text is null or c.co_name = %s::text)
 order by r.ev_retry_after
 limit %s::int
"""
_RETRY: Final = """
select r.ev_id, r.ev_time, r.ev_retry, r.ev_type, r.ev_data, r.ev_extra1, r.ev_extra2, r.ev_extra3,
       r.ev_extra4
  from pgque.retry_queue r
 where r.ev_owner = %s::int and r.ev_id = %s::bigint
"""
_LETTERS: Final = """
select d.dl_id, d.dl_time, c.co_name, d.ev_retry, left(d.dl_reason, %s::int), d.ev_type,
       d.ev_extra1, left(d.ev_data, %s::int)
  from pgque.queue q
  join pgque.dead_letter d on d.dl_queue_id = q.queue_id
  join pgque.consumer c on c.co_id = d.dl_consumer_id
 where q.queue_name = %s::text and (%s::text is null or c.co_name = %s::text)
 order by d.dl_id desc
 limit %s::int
"""
_LETTER: Final = """
select d.dl_time, c.co_name, d.dl_reason, d.ev_id, d.ev_time, d.ev_retry, d.ev_type, d.ev_data,
       d.ev_extra1, d.ev_extra2, d.ev_extra3, d.ev_extra4
  from pgque.dead_letter d
  join pgque.consumer c on c.co_id = d.dl_consumer_id
 where d.dl_id = %s::bigint
"""
_STANDING: Final = """
select n.co_name,
       case
           when d.dl_id is not null then 'dead letter ' || d.dl_id
           when r.ev_id is not null then
               'waits for retry ' || r.ev_retry || ', due ' ||
               to_char(r.ev_retry_after, 'YYYY-MM-DD HH24:MI:SSOF')
           when pg_visible_in_snapshot(%s::text::xid8, before.tick_snapshot)
               or pg_visible_in_snapshot(%s::text::xid8, behind.tick_snapshot)
               and (c.cur_place).txid is not null
               and (%s::text::xid8, %s::bigint) <= ((c.cur_place).txid, (c.cur_place).id)
               then 'has passed it'
           when before.tick_id is null then '-'
           else 'has it before it'
       end
  from pgque.queue q
  join pgque.subscriber s on s.sub_queue = q.queue_id and s.sub_group is null
  join pgque.consumer n on n.co_id = s.sub_consumer
  left join lateral (
      select * from pgque.cursor where cur_sub = s.sub_id order by cur_seq desc limit 1
  ) c on true
  left join pgque.tick before on before.tick_queue = q.queue_id and before.tick_id = c.cur_tick
  left join pgque.tick behind on behind.tick_queue = q.queue_id and behind.tick_id = c.cur_next_tick
  left join pgque.retry_queue r on r.ev_owner = s.sub_id and r.ev_id = %s::bigint
  left join pgque.dead_letter d on d.dl_queue_id = q.queue_id
      and d.dl_consumer_id = s.sub_consumer and d.ev_id = %s::bigint
 where q.queue_name = %s::text
 order by n.co_name
"""
_SETTINGS: Final = """
select queue_max_retries, queue_ticker_paused, queue_external_ticker, queue_disable_insert,
       queue_ticker_max_lag, queue_ticker_max_count, queue_ticker_idle_period,
       queue_rotation_period
  from pgque.queue
 where queue_name = %s::text
"""


class Listed(NamedTuple):
    """An event in the log, with the beginning of its payload."""

    id: int
    txid: int
    created: datetime
    type: str | None
    key: str | None
    payload: str | None


class Retry(NamedTuple):
    """An event that waits to be delivered again, with the beginning of its payload."""

    id: int
    owner: int
    due: datetime
    consumer: str
    retries: int
    type: str | None
    key: str | None
    payload: str | None


class Letter(NamedTuple):
    """A dead letter, with the beginning of its reason and payload."""

    id: int
    died: datetime
    consumer: str
    retries: int | None
    reason: str | None
    type: str | None
    key: str | None
    payload: str | None


class Whole(NamedTuple):
    """An event with all that is known of it."""

    facts: tuple[tuple[str, object], ...]
    payload: str | None


class Browser(Calls):
    """Reads lists and single events on an autocommit connection; needs pgque_reader."""

    def messages(self, queue: str) -> list[Listed]:
        """Return the newest events in a queue's log, newest first.

        :raises PgqueQueueNotFound: where there is no such queue.
        """
        query = sql.SQL(
            "select ev_id, ev_txid::text::bigint, ev_time, ev_type, ev_extra1, left(ev_data, %s) "
            "from {} where ev_owner is null order by ev_txid desc, ev_id desc limit %s"
        ).format(self._log(queue))
        with mapped:
            rows = new_cursor(self._conn).execute(query, (BEGINNING, AT_MOST), prepare=False)
            return list(starmap(Listed, rows))

    def message(self, queue: str, txid: int, id: int) -> Whole | None:  # noqa: A002
        """Return an event of the log and where each consumer stands to it; None if it is gone."""
        query = sql.SQL(
            "select ev_time, ev_type, ev_extra1, ev_extra2, ev_extra3, ev_extra4, ev_data from {} "
            "where ev_owner is null and ev_txid = %s::text::xid8 and ev_id = %s"
        ).format(self._log(queue))
        with mapped:
            row = new_cursor(self._conn).execute(query, (str(txid), id), prepare=False).fetchone()
        if row is None:
            return None
        names = ("created", "type", "key", "headers", "extra3", "extra4")
        at = str(txid)
        standing = self._rows(_STANDING, (at, at, at, id, id, id, queue))
        facts = [("event", id), ("queue", queue), *zip(names, row, strict=False)]
        return Whole(_known([*facts, *standing]), row[-1])

    def retries(self, queue: str, consumer: str | None = None) -> list[Retry]:
        """Return the retries of a queue, or of one of its consumers, that are due next."""
        rows = self._rows(_RETRIES, (BEGINNING, queue, consumer, consumer, AT_MOST))
        return list(starmap(Retry, rows))

    def retry(self, retry: Retry) -> Whole | None:
        """Return an event that waits for a retry; None where it does no more."""
        names = ("event", "created", "retries", "type", "payload", "key", "headers", "extra3")
        for row in self._rows(_RETRY, (retry.owner, retry.id)):
            found = dict(zip((*names, "extra4"), row, strict=True))
            payload = found.pop("payload")
            waits = [("waits for", retry.consumer), ("due", retry.due)]
            return Whole(_known([*waits, *found.items()]), payload)
        return None

    def letters(self, queue: str, consumer: str | None = None) -> list[Letter]:
        """Return the newest dead letters of a queue, or of one of its consumers, newest first."""
        bounds = (BEGINNING, BEGINNING)
        rows = self._rows(_LETTERS, (*bounds, queue, consumer, consumer, AT_MOST))
        return list(starmap(Letter, rows))

    def letter(self, number: int) -> Whole | None:
        """Return a dead letter; None where it was replayed or purged."""
        names = ("died", "consumer", "reason", "event", "created", "retries", "type", "payload")
        for row in self._rows(_LETTER, (number,)):
            extras = ("key", "headers", "extra3", "extra4")
            found = dict(zip((*names, *extras), row, strict=True))
            payload = found.pop("payload")
            return Whole(_known([("dead letter", number), *found.items()]), payload)
        return None

    def settings(self, queue: str) -> list[tuple[str, object]]:
        """Return a queue's settings by the names that `pgque queue set` takes."""
        names = ("max_retries", "ticker_paused", "external_ticker", "disable_insert")
        times = ("ticker_max_lag", "ticker_max_count", "ticker_idle_period", "rotation_period")
        rows = self._rows(_SETTINGS, (queue,))
        return list(zip((*names, *times), rows[0], strict=True)) if rows else []

    def _log(self, queue: str) -> sql.Identifier:
        query = "select queue_data_pfx from pgque.queue where queue_name = %s::text"
        rows = self._rows(query, (queue,))
        if not rows:
            raise PgqueQueueNotFound(f"queue not found: {queue}")
        return sql.Identifier(*rows[0][0].split("."))


def _known(facts: list[tuple[str, Any]]) -> tuple[tuple[str, object], ...]:
    return tuple((name, value) for name, value in facts if value is not None)
