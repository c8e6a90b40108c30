"""Takes snapshots: samples of `pgque.watching.live`, plus latency and events in flight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import psycopg

from pgque.errors import mapped
from pgque.watching.live import ConsumerFigures, Live, Sample
from pgque.wire.calls import Calls, connection_defaults, only_reading, settle_for_pooler

# An ack is a cursor row without a batch that follows a row with a batch. A seek or a subscription
# is not. Reading only the newest four rows keeps the cost independent of the ledger's length.
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
    """Facts about a consumer that `pgque.watching.live` does not provide."""

    group: str | None
    """The group, if the consumer is a member of one."""
    is_group: bool
    in_flight: int | None
    """Events in the batch that it holds, estimated from their ids; None without a batch."""
    latency: float | None
    """Seconds from the tick to the ack of its last finished batch."""
    fresh: bool
    """Whether that batch was finished since the previous snapshot."""


class Snapshot(NamedTuple):
    """A sample with further facts about its consumers."""

    sample: Sample
    subscribers: dict[tuple[str, str], Subscriber]

    def consumers(self, queue: str | None = None) -> Iterator[tuple[ConsumerFigures, Subscriber]]:
        """Yield the consumers of one queue, or of all queues."""
        for figures in self.sample.consumers:
            known = self.subscribers.get(figures[:2])
            if known is not None and queue in (None, figures.queue):
                yield figures, known


class Snapshotter:
    """Takes snapshots over a connection, each in a short read-only transaction.

    :param conn: an autocommit connection, whose role needs pgque_reader. The caller closes it.
    """

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn
        self._live = Live(conn)
        self._reader = _Subscribers(conn)
        self._acked: dict[tuple[str, str], tuple[int, float | None]] = {}

    def take(self) -> Snapshot:
        """Take a snapshot.

        :raises PgqueError: if the query fails.
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
            if ack is None:  # the row before it has been removed since
                ack, latency = was or (-1, None)
            self._acked[key] = ack, latency
            if in_flight is not None:  # an upper bound: other consumers' redeliveries use ids too
                in_flight = min(in_flight, pending.get(key) or in_flight)
            found[key] = Subscriber(group, is_group, in_flight, latency, fresh)
        return Snapshot(sample, found)


class _Subscribers(Calls):
    def rows(self) -> list[tuple[Any, ...]]:
        return self._rows(_SUBSCRIBERS)


@contextmanager
def reading_connection(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Open a read-only connection for the block.

    :raises PgqueConnectionError: if the connection fails.
    """
    with mapped, psycopg.connect(dsn, autocommit=True, **connection_defaults(dsn)) as conn:
        settle_for_pooler(conn)
        conn.read_only = True
        yield conn
