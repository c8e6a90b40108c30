"""Figures for Prometheus, per queue and consumer (extra ``metrics``).

Two queries each time they are asked for, whose cost does not depend on backlogs: what lies before
a consumer is computed from ids. Retries and dead letters are counted up to `COUNTED_AT_MOST`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import psycopg

from pgque.calls import Calls, connection_defaults, settle_for_pooler
from pgque.errors import PgqueError, mapped

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

logger = logging.getLogger("pgque.metrics")

COUNTED_AT_MOST: Final = 100_000

_QUEUES: Final = """
select i.queue_name,
       coalesce(pg_sequence_last_value(q.queue_event_seq::regclass), 0),
       coalesce(i.ev_new, 0), coalesce(extract(epoch from i.ticker_lag), 0)::float8,
       i.queue_ticker_paused::int,
       extract(epoch from clock_timestamp() - i.queue_switch_time)::float8,
       (select count(*) from (select from pgque.retry_queue r where r.ev_queue = q.queue_id
        limit %s::int) counted),
       (select count(*) from (select from pgque.dead_letter d where d.dl_queue_id = q.queue_id
        limit %s::int) counted)
  from pgque.get_queue_info() i
  join pgque.queue q using (queue_name)
"""
_QUEUE_METRICS: Final = (
    ("events_sent", "counter", "Events sent since the queue was made, rolled back ones included."),
    ("events_unticked", "gauge", "Events that no tick covers yet."),
    ("tick_age_seconds", "gauge", "Age of the newest tick."),
    ("paused", "gauge", "1 while the queue is paused."),
    ("rotation_age_seconds", "gauge", "Time since the log was rotated."),
    ("retries_waiting", "gauge", f"Events that wait for a retry, {COUNTED_AT_MOST} at most."),
    ("dead_letters", "gauge", f"Dead letters, {COUNTED_AT_MOST} at most."),
)
_CONSUMERS: Final = """
select queue_name, consumer_name, coalesce(pending_events, 0),
       coalesce(extract(epoch from lag), 0)::float8,
       coalesce(extract(epoch from last_seen), 0)::float8, (current_batch is not null)::int
  from pgque.get_consumer_info()
"""
_CONSUMER_METRICS: Final = (
    ("pending_events", "Events before the consumer."),
    ("lag_seconds", "Age of what the consumer has done."),
    ("last_seen_seconds", "Time since the consumer's last sign of life."),
    ("batch_open", "1 while the consumer holds a batch."),
)


def collector(dsn: str) -> Collector:
    """Return a collector for prometheus-client's registry: ``REGISTRY.register(collector(dsn))``.

    It connects each time it is asked. While the database cannot be asked there is only
    ``pgque_up 0``. Needs pgque_reader.

    :param dsn: libpq connection string.
    """
    from prometheus_client.registry import Collector

    class PgqueCollector(Collector):
        def collect(self) -> Iterator[Metric]:
            try:
                with (
                    mapped,
                    psycopg.connect(dsn, autocommit=True, **connection_defaults(dsn)) as conn,
                ):
                    settle_for_pooler(conn)
                    found = [_up(True), *_collect(Reader(conn))]
            except PgqueError as error:
                logger.warning("metrics: %s", error)
                found = [_up(False)]
            yield from found

    return PgqueCollector()


class Reader(Calls):
    """Reads the figures."""

    def queues(self) -> list[tuple[Any, ...]]:
        """Return a row for each queue."""
        return self._rows(_QUEUES, (COUNTED_AT_MOST, COUNTED_AT_MOST))

    def consumers(self) -> list[tuple[Any, ...]]:
        """Return a row for each consumer, members of groups included."""
        return self._rows(_CONSUMERS)


def _up(up: bool) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily("pgque_up", "1 where the database could be asked.", value=int(up))


def _collect(reader: Reader) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    rows = reader.queues()
    for place, (name, kind, text) in enumerate(_QUEUE_METRICS, 1):
        make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        metric = make(f"pgque_queue_{name}", text, labels=["queue"])
        for row in rows:
            metric.add_metric([row[0]], row[place])
        yield metric
    rows = reader.consumers()
    for place, (name, text) in enumerate(_CONSUMER_METRICS, 2):
        metric = GaugeMetricFamily(f"pgque_consumer_{name}", text, labels=["queue", "consumer"])
        for row in rows:
            metric.add_metric([row[0], row[1]], row[place])
        yield metric
