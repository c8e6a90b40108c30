"""Metrics for Prometheus, per queue and consumer (extra ``metrics``).

`collector` reads the database with four queries for all queues. Their cost does not depend on the
backlog, because pending events are computed from ids. Retries and dead letters are counted up to
`COUNTED_AT_MOST`. `ConsumerMetrics` counts in the process of a `Consumer`.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg

from pgque._extras import need
from pgque.errors import PgqueError, PgqueInvalidArgument, mapped
from pgque.logs import Fields
from pgque.message import Message
from pgque.observers import Batch, Observer
from pgque.ticker import LEADER
from pgque.watching.states import CONSUMER_STATES
from pgque.wire.calls import Calls, connection_defaults, settle_for_pooler

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector
else:
    Collector = object

logger = logging.getLogger("pgque.metrics")

COUNTED_AT_MOST: Final = 100_000

BUCKETS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0),
)
"""Upper bounds in seconds: from a trivial handler to a delay of half an hour."""


class Family(NamedTuple):
    """A metric. The name of a counter lacks the suffix ``_total`` here."""

    name: str
    kind: str
    text: str
    labels: tuple[str, ...]

    @property
    def shown(self) -> str:
        """The name in Prometheus."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


UP: Final = Family("pgque_up", "gauge", "1 if the database could be read.", ())
TICKER: Final = Family(
    "pgque_ticker_leading",
    "gauge",
    "1 while a ticker leads; 0 if tickers connect through a pooler, or if pg_cron ticks.",
    (),
)

_QUEUE: Final = ("queue",)
QUEUES: Final = (
    Family(
        "pgque_queue_events_sent",
        "counter",
        "Events sent since the queue was created, including rolled back ones, excluding retries.",
        _QUEUE,
    ),
    Family("pgque_queue_events_unticked", "gauge", "Events that no tick covers yet.", _QUEUE),
    Family("pgque_queue_tick_age_seconds", "gauge", "Age of the newest tick.", _QUEUE),
    Family("pgque_queue_paused", "gauge", "1 while the queue is paused.", _QUEUE),
    Family("pgque_queue_rotation_age_seconds", "gauge", "Time since the last rotation.", _QUEUE),
    Family(
        "pgque_queue_retries_waiting",
        "gauge",
        f"Events waiting for a retry, {COUNTED_AT_MOST} at most.",
        _QUEUE,
    ),
    Family(
        "pgque_queue_dead_letters", "gauge", f"Dead letters, {COUNTED_AT_MOST} at most.", _QUEUE
    ),
    Family(
        "pgque_queue_rotation_period_seconds",
        "gauge",
        "Configured time between two rotations.",
        _QUEUE,
    ),
    Family(
        "pgque_queue_unticked_seconds",
        "gauge",
        "Age of the oldest event that no tick covers yet.",
        _QUEUE,
    ),
)
"""In the order of the columns of `Reader.queues` after the queue's name."""

_CONSUMER: Final = ("queue", "consumer")
CONSUMERS: Final = (
    Family("pgque_consumer_pending_events", "gauge", "Events pending, at most.", _CONSUMER),
    Family(
        "pgque_consumer_lag_seconds",
        "gauge",
        "How long the oldest pending event has waited.",
        _CONSUMER,
    ),
    Family(
        "pgque_consumer_last_seen_seconds",
        "gauge",
        "Time since the consumer's last sign of life.",
        _CONSUMER,
    ),
    Family("pgque_consumer_batch_open", "gauge", "1 while the consumer holds a batch.", _CONSUMER),
    Family(
        "pgque_consumer_takeovers",
        "gauge",
        "How many times in a row the open batch was taken over from a dead member.",
        _CONSUMER,
    ),
    Family(
        "pgque_consumer_state",
        "gauge",
        ", ".join(f"{number} {word}" for number, word in enumerate(CONSUMER_STATES)) + ".",
        _CONSUMER,
    ),
)
"""In the order of the columns of `Reader.consumers` after the names."""

OUTCOMES: Final = ("handled", "failed")
MESSAGES: Final = Family(
    "pgque_consumer_messages",
    "counter",
    "Messages whose handler has finished, by outcome: handled, or failed and nacked.",
    (*_CONSUMER, "outcome"),
)
DELIVERY: Final = Family(
    "pgque_consumer_delivery_seconds",
    "histogram",
    "Time from the send to the call of the handler, excluding retries.",
    _CONSUMER,
)
HANDLING: Final = Family(
    "pgque_consumer_handling_seconds", "histogram", "Duration of a message's handler.", _CONSUMER
)

FROM_THE_DATABASE: Final = (UP, TICKER, *QUEUES, *CONSUMERS)
FROM_A_CONSUMER: Final = (MESSAGES, DELIVERY, HANDLING)


def collector(dsn: str) -> Collector:
    """Return a collector for prometheus-client's registry: ``REGISTRY.register(collector(dsn))``.

    It connects for each scrape. While the database cannot be read, it returns only
    ``pgque_up 0``. Needs pgque_reader.

    :param dsn: libpq connection string.
    :raises ModuleNotFoundError: without prometheus-client.
    """
    need("prometheus_client")
    return _DatabaseCollector(dsn)


class ConsumerMetrics(Observer, Collector):
    """Counts and times the messages that consumers in this process handle, for prometheus-client.

    Create one with ``metrics = ConsumerMetrics()``, call ``consumer.observe(metrics)`` for each
    consumer, and ``REGISTRY.register(metrics)`` once. The delivery time is measured from the send
    to the handler by the server's clock, for first deliveries only. Members of a cooperative group
    are counted under the group's name.

    :param buckets: upper bounds of the histograms' buckets in seconds, ascending.
    :raises PgqueInvalidArgument: a ValueError, if buckets are empty or not ascending.
    :raises ModuleNotFoundError: without prometheus-client.
    """

    def __init__(self, buckets: Sequence[float] = BUCKETS) -> None:
        need("prometheus_client")
        self._bounds = [float(bound) for bound in buckets]
        if not self._bounds or self._bounds != sorted(set(self._bounds)):
            raise PgqueInvalidArgument(f"buckets must be ascending, not {buckets!r}")
        # Used by the threads of several consumers, and by the thread of the scrape.
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], _Counts] = {}
        self._last: tuple[Batch | None, _Counts] = (None, _Counts(self._bounds))

    def on_batch(self, batch: Batch) -> None:
        """Start a consumer's counters at 0, so that its first failure shows as an increase."""
        who = batch.queue, batch.consumer
        with self._lock:
            counts = self._counts.get(who)
            if counts is None:
                counts = self._counts[who] = _Counts(self._bounds)
            counts.gather()
        self._last = batch, counts

    def on_handling(self, batch: Batch, message: Message, delay: float) -> None:
        """Record the message's delivery time."""
        if message.retry_count == 0:
            self._of(batch).delays.append(delay)

    def on_handled(
        self, batch: Batch, message: Message, seconds: float, error: BaseException | None
    ) -> None:
        """Record the outcome and the duration of the handler."""
        counts = self._of(batch)
        if error is None:
            counts.times.append(seconds)
        else:
            with self._lock:
                counts.times.append(seconds)
                counts.failed += 1

    def _of(self, batch: Batch) -> _Counts:
        last = self._last
        return last[1] if last[0] is batch else self._counts[batch.queue, batch.consumer]

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without values."""
        return list(map(_metric, FROM_A_CONSUMER))

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of each consumer that has received messages."""
        messages, delivery, handling = map(_metric, FROM_A_CONSUMER)
        with self._lock:
            for who, counts in self._counts.items():
                counts.gather()
                ended = counts.handling.count - counts.failed, counts.failed
                for outcome, count in zip(OUTCOMES, ended, strict=True):
                    messages.add_metric([*who, outcome], count)
                delivery.add_metric(who, *counts.delivery.read())
                handling.add_metric(who, *counts.handling.read())
        return [messages, delivery, handling]


class _Histogram:
    """Counts per bucket; many values are added at once."""

    def __init__(self, bounds: list[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self.count = 0

    def add(self, values: list[float]) -> None:
        """Add values; this may sort the list in place."""
        if len(values) < len(self._bounds):
            for value in values:
                self._counts[bisect_left(self._bounds, value)] += 1
        else:
            values.sort()
            before = 0
            for place, bound in enumerate(self._bounds):
                upto = bisect_right(values, bound, before)
                self._counts[place] += upto - before
                before = upto
            self._counts[-1] += len(values) - before
        self._sum += sum(values)
        self.count += len(values)

    def read(self) -> tuple[list[tuple[str, float]], float]:
        names = [*map(repr, self._bounds), "+Inf"]
        return list(zip(names, accumulate(self._counts), strict=True)), self._sum


class _Counts:
    """The counters of one consumer.

    Times are recorded for each message and moved into the histograms once per batch and before each
    scrape. Recording takes no lock: `list.append` is atomic, and `gather` removes only what it
    copied.
    """

    def __init__(self, bounds: list[float]) -> None:
        self.delivery = _Histogram(bounds)
        self.handling = _Histogram(bounds)
        self.failed = 0
        self.delays: list[float] = []
        self.times: list[float] = []

    def gather(self) -> None:
        """Move the recorded times into the histograms. The caller must hold the lock."""
        for noted, histogram in ((self.delays, self.delivery), (self.times, self.handling)):
            values = noted[:]
            del noted[: len(values)]
            histogram.add(values)


class Reader(Calls):
    """Reads the figures from a database."""

    def queues(self) -> list[tuple[Any, ...]]:
        """Return a row for each queue: its name, the values of `QUEUES`, and its state."""
        rows = self._rows(_ASK_QUEUES, (COUNTED_AT_MOST, COUNTED_AT_MOST))
        # A reader may not read a queue's sequence. The number of events sent is the position in the
        # newest tick plus the events since. The second statement sees every tick of the first.
        counted = dict(
            self._rows(_ASK_COUNTED, ([row[-2] for row in rows], [row[-1] for row in rows]))
        )
        return [
            (name, counted.get(queue_id, 0) + new, new, *others)
            for name, new, *others, queue_id, _ in rows
        ]

    def consumers(self) -> list[tuple[Any, ...]]:
        """Return a row for each consumer or member: names, the values of `CONSUMERS`, three more.

        The last three are the number of events handled, the group of a member, and the state.
        """
        words = list(CONSUMER_STATES)
        return [(*r[:-3], words.index(r[-1]), *r[-3:]) for r in self._rows(_ASK_CONSUMERS)]

    def now_and_ticking(self) -> tuple[float, bool]:
        """Return the server's time in seconds since 1970, and whether a ticker leads."""
        return self._rows(_ASK_TICKER)[0]


_ASK_QUEUES: Final = """
select i.queue_name,
       coalesce(i.ev_new, 0), coalesce(extract(epoch from i.ticker_lag), 0)::float8,
       i.queue_ticker_paused::int,
       extract(epoch from clock_timestamp() - i.queue_switch_time)::float8,
       (select count(*) from (select from pgque.retry_queue r where r.ev_queue = q.queue_id
        limit %s::int) counted),
       (select count(*) from (select from pgque.dead_letter d where d.dl_queue_id = q.queue_id
        limit %s::int) counted),
       extract(epoch from i.queue_rotation_period)::float8,
       extract(epoch from w.waiting)::float8,
       w.state, q.queue_id, i.last_tick_id
  from pgque.get_queue_info() i
  join pgque.get_queue_wait() w using (queue_name)
  join pgque.queue q using (queue_name)
"""
_ASK_COUNTED: Final = """
select t.tick_queue, t.tick_seq_after - coalesce(t.tick_put_back, 0)
  from unnest(%b::int[], %b::bigint[]) as newest (queue_id, tick_id)
  join pgque.tick t on t.tick_queue = newest.queue_id and t.tick_id = newest.tick_id
"""
_ASK_CONSUMERS: Final = """
select queue_name, consumer_name, coalesce(pending_events, 0),
       extract(epoch from waiting)::float8,
       coalesce(extract(epoch from last_seen), 0)::float8, (current_batch is not null)::int,
       takeovers, handled, group_name, state
  from pgque.get_consumer_wait()
"""
_ASK_TICKER: Final = f"select extract(epoch from clock_timestamp())::float8, exists ({LEADER})"  # noqa: S608


class _DatabaseCollector(Collector):
    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def describe(self) -> Iterable[Metric]:
        return list(map(_metric, FROM_THE_DATABASE))

    def collect(self) -> Iterable[Metric]:
        dsn = self._dsn
        up = _metric(UP)
        try:
            with mapped, psycopg.connect(dsn, autocommit=True, **connection_defaults(dsn)) as conn:
                settle_for_pooler(conn)
                found = list(_read(Reader(conn)))
        except PgqueError as error:
            logger.warning("metrics: %s", error, extra=Fields(error=str(error)))
            found = []
        up.add_metric([], int(bool(found)))
        return [up, *found]


def _read(reader: Reader) -> Iterator[Metric]:
    ticker = _metric(TICKER)
    ticker.add_metric([], int(reader.now_and_ticking()[1]))
    yield ticker
    for families, rows in ((QUEUES, reader.queues()), (CONSUMERS, reader.consumers())):
        for place, family in enumerate(families, len(families[0].labels)):
            metric = _metric(family)
            for row in rows:
                metric.add_metric(row[: len(family.labels)], row[place])
            yield metric


def _metric(family: Family) -> Any:
    from prometheus_client import core

    kinds = {
        "counter": core.CounterMetricFamily,
        "gauge": core.GaugeMetricFamily,
        "histogram": core.HistogramMetricFamily,
    }
    return kinds[family.kind](family.name, family.text, labels=family.labels)
