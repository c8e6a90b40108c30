"""The details of an event, retry or dead letter, and a queue's settings, as names and values."""

from __future__ import annotations

from typing import Final, NamedTuple

from psycopg import sql

from pgque.watching.browse import Browser, Place, Stored

_STANDING: Final = sql.SQL("""
select n.co_name,
       case
           when d.dl_id is not null then 'dead letter ' || d.dl_id
           when r.ev_id is not null then
               'waiting for retry ' || r.ev_retry || ', due ' ||
               to_char(r.ev_retry_after, 'YYYY-MM-DD HH24:MI:SSOF')
           when pg_visible_in_snapshot(%s::text::xid8, before.tick_snapshot)
               or pg_visible_in_snapshot(%s::text::xid8, behind.tick_snapshot)
               and (c.cur_place).txid is not null
               and (%s::text::xid8, %s::bigint) <= ((c.cur_place).txid, (c.cur_place).id)
               then 'passed'
           when before.tick_id is null then '-'
           else 'pending'
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
""")
_SETTINGS: Final = (
    "max_retries", "ticker_paused", "external_ticker", "disable_insert", "ticker_max_lag",
    "ticker_max_count", "ticker_idle_period", "rotation_period",
)  # fmt: skip


Fact = tuple[str, object]


class Details(NamedTuple):
    """An event in full."""

    facts: tuple[Fact, ...]
    payload: str | None
    length: int | None
    """The payload's full length in characters; ``payload`` may hold only its beginning."""


def of_message(browser: Browser, queue: str, place: Place) -> Details | None:
    """Return an event of the log and its status for each consumer; None if it no longer exists.

    :raises PgqueQueueNotFound: if there is no such queue.
    """
    found = browser.message(queue, place)
    if found is None:
        return None
    txid = str(found.txid)
    values = (txid, txid, txid, found.id, found.id, found.id, queue)
    standing = browser.read(_STANDING, values)
    return _whole(found, [("event", found.id), ("queue", queue)], [*standing])


def of_retry(browser: Browser, place: Place) -> Details | None:
    """Return an event that waits for a retry; None if it no longer waits."""
    found = browser.retry(place)
    if found is None:
        return None
    waits: list[Fact] = [("waiting for", found.consumer), ("due", found.due)]
    return _whole(found, [*waits, ("event", found.id), ("retries", found.retries)])


def of_letter(browser: Browser, letter: int) -> Details | None:
    """Return a dead letter; None if it was replayed or purged."""
    found = browser.dead_letter(letter)
    if found is None:
        return None
    died: list[Fact] = [("dead letter", letter), ("died", found.died), ("consumer", found.consumer)]
    event: list[Fact] = [("event", found.id), ("retries", found.retries)]
    return _whole(found, [*died, ("reason", found.reason), *event])


def of_settings(browser: Browser, queue: str) -> list[Fact]:
    """Return a queue's settings, named as for `pgque queue set`; empty if the queue was dropped."""
    columns = sql.SQL(", ").join(sql.Identifier(f"queue_{name}") for name in _SETTINGS)
    query = sql.SQL("select {} from pgque.queue where queue_name = %s::text").format(columns)
    rows = browser.read(query, (queue,))
    return list(zip(_SETTINGS, rows[0], strict=True)) if rows else []


def _whole(found: Stored, first: list[Fact], last: list[Fact] | None = None) -> Details:
    facts: list[Fact] = [
        *first,
        ("created", found.created),
        ("type", found.type),
        ("key", found.key),
        ("headers", found.headers),
        ("extra3", found.extra3),
        ("extra4", found.extra4),
        *(last or []),
    ]
    known = tuple((name, value) for name, value in facts if value is not None)
    return Details(known, found.payload, found.length)
