"""A sample as the dashboard shows it: `pgque.watching.live`, with latency and what is in flight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import psycopg

from pgque.errors import mapped
from pgque.watching.live import ConsumerFigures, Live, Sample
from pgque.wire.calls import Calls, connection_defaults, only_reading, settle_for_pooler

# An ack is the row of a cursor after one with a batch; a seek or a subscription is not. Of each
# cursor the newest four rows are read, however long the ledger is.
_SUBSCRIBERS: Final = """
select q.queue_name, n.co_name, g.co_name,
       exists (select from pgque.subscriber m where m.sub_group = s.sub_id),
       case when newest.cur_batch is not null then greatest(
           coalesce((newest.cur_upto).id, (newest.cur_end).id, ending.tick_seq_after)
           - greatest((newest.cur_place).id, beginning.tick_seq_after), 0) end,
       done.cur_seq,
       extract(epoch from done.cur_time - ticked.tick_time)::float8
  from pgque.subscriber s
  join pgque.queue q on q.queue_id = s.sub_queue
  join pgque.consumer n on n.co_id = s.sub_consumer
  left join pgque.subscriber main on main.sub_id = s.sub_group
  left join pgque.consumer g on g.co_id = main.sub_consumer
  left join lateral (
       select * from pgque.cursor c where c.cur_sub = s.sub_id order by c.cur_seq desc limit 1
       ) newest on true
  left join lateral (
       select tick_seq_after from pgque.tick t
        where newest.cur_batch is not null and t.tick_queue = s.sub_queue
          and t.tick_id = newest.cur_tick limit 1
       ) beginning on true
  left join lateral (
       select tick_seq_after from pgque.tick t
        where newest.cur_batch is not null and t.tick_queue = s.sub_queue
          and t.tick_id = newest.cur_next_tick limit 1
       ) ending on true
  left join lateral (
       select r.cur_seq, r.cur_time, coalesce(r.cur_next_tick, r.cur_tick) as tick_id
         from (select c.*, lead(c.cur_batch) over (order by c.cur_seq desc) as batch_before
                 from (select * from pgque.cursor k where k.cur_sub = s.sub_id
                       order by k.cur_seq desc limit 4) c) r
        where r.cur_batch is null and r.batch_before is not null
        order by r.cur_seq desc limit 1
       ) done on true
  left join lateral (
       select tick_time from pgque.tick t
        where t.tick_queue = s.sub_queue and t.tick_id = done.tick_id limit 1
       ) ticked on true
"""


class Subscriber(NamedTuple):
    """What `pgque.watching.live` does not say of a consumer."""

    group: str | None
    """The group of which this is a member."""
    is_group: bool
    in_flight: int | None
    """Events in the batch that it holds, by their ids; None where it holds none."""
    latency: float | None
    """Seconds from the tick to the ack of the last batch that it finished."""
    fresh: bool
    """Whether that batch was finished since the sample before."""


class View(NamedTuple):
    """A sample with what belongs to it."""

    sample: Sample
    subscribers: dict[tuple[str, str], Subscriber]

    def consumers(self, queue: str | None = None) -> Iterator[tuple[ConsumerFigures, Subscriber]]:
        """Yield consumers of one queue, or of all; a member of a group has no position."""
        for figures in self.sample.consumers:
            known = self.subscribers.get(figures[:2])
            if known is not None and queue in (None, figures.queue):
                yield figures, known


class Eye:
    """Takes samples over a connection, each in a short transaction that only reads.

    :param conn: an autocommit connection, whose role needs pgque_reader. It is used, not closed.
    """

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn
        self._live = Live(conn)
        self._reader = _Subscribers(conn)
        self._acked: dict[tuple[str, str], tuple[int, float | None]] = {}

    def look(self) -> View:
        """Take a sample.

        :raises PgqueError: where the database cannot be asked.
        """
        with mapped, only_reading(self._conn, seconds=10):
            sample = self._live.look()
            rows = self._reader.rows()
        pending = {figures[:2]: figures.pending for figures in sample.consumers}
        found: dict[tuple[str, str], Subscriber] = {}
        before, self._acked = self._acked, {}
        for queue, consumer, group, is_group, in_flight, ack, latency in rows:
            key = queue, consumer
            was = before.get(key)
            fresh = ack is not None and was is not None and was[0] != ack and latency is not None
            if ack is None:  # the row before it was given back meanwhile
                ack, latency = was or (-1, None)
            self._acked[key] = ack, latency
            if in_flight is not None:  # counted by ids, of which redeliveries of others use some
                in_flight = min(in_flight, pending.get(key) or in_flight)
            found[key] = Subscriber(group, is_group, in_flight, latency, fresh)
        return View(sample, found)


class _Subscribers(Calls):
    def rows(self) -> list[tuple[Any, ...]]:
        return self._rows(_SUBSCRIBERS)


@contextmanager
def reading_connection(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Connect for the block; a transaction on it can only read.

    :raises PgqueConnectionError: where there is no server to connect to.
    """
    with mapped, psycopg.connect(dsn, autocommit=True, **connection_defaults(dsn)) as conn:
        settle_for_pooler(conn)
        conn.read_only = True
        yield conn
