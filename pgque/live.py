"""What `pgque top` and the dashboard show: samples of every queue and consumer, with rates.

A sample is a few queries, most of them those of `pgque.metrics`, at the same cost for any backlog.
Rates are differences between two samples, by the server's clock.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import psycopg

from pgque.calls import Calls
from pgque.metrics import Reader

LATE: Final = 10.0
"""Seconds that events wait for a tick when somebody should look for who ticks."""
STUCK: Final = 600.0
"""Seconds of lag, or without a sign of life, after which somebody should look at a consumer."""


class QueueFigures(NamedTuple):
    """A queue at one moment. Times are seconds, rates are events a second."""

    queue: str
    sent: int
    """Events sent since the queue was made."""
    unticked: int
    tick_age: float
    paused: bool
    rotation_age: float
    retries: int
    dead: int
    rate: float | None
    """Sent a second since the sample before; None in the first one."""
    unticked_age: float = 0.0
    """Of the oldest event that no tick covers."""


class ConsumerFigures(NamedTuple):
    """A consumer, or a member of a group, at one moment."""

    queue: str
    consumer: str
    pending: int
    """Events before it."""
    lag: float
    """Age of the oldest of them."""
    last_seen: float
    holds_batch: bool
    rate: float | None
    """Done a second since the sample before; None in the first one, and for a member: its group has
    it."""
    member: bool = False
    """Whether it is a member of a group."""


class Sample(NamedTuple):
    """Every queue and consumer at one moment."""

    at: float
    """Seconds since 1970, by the server's clock."""
    ticking: bool
    """Whether a ticker leads."""
    queues: tuple[QueueFigures, ...]
    consumers: tuple[ConsumerFigures, ...]


class _Groups(Calls):
    def members(self) -> set[tuple[Any, ...]]:
        """Return queue and name of every member of a group."""
        return set(
            self._rows(
                "select q.queue_name, c.co_name from pgque.subscriber s"
                " join pgque.queue q on q.queue_id = s.sub_queue"
                " join pgque.consumer c on c.co_id = s.sub_consumer"
                " where s.sub_group is not null"
            )
        )


class Live:
    """Takes samples, one after the other.

    :param conn: an autocommit connection, whose role needs pgque_reader. It is used, not closed.
    """

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._reader = Reader(conn)
        self._before: Sample | None = None
        self._groups = _Groups(conn)

    def look(self) -> Sample:
        """Take a sample; rates are those since the one before.

        :raises PgqueError: where the database cannot be asked.
        """
        at, ticking = self._reader.now_and_ticking()
        before = self._before
        seconds = at - before.at if before else 0.0
        queues_before = {q.queue: q for q in before.queues} if before else {}
        consumers_before = {c[:2]: c for c in before.consumers} if before else {}
        queues: list[QueueFigures] = []
        for row in self._reader.queues():
            now = QueueFigures._make((*row[:4], bool(row[4]), *row[5:8], None, row[9]))
            if (was := queues_before.get(now.queue)) and seconds > 0:
                now = now._replace(rate=max(0.0, (now.sent - was.sent) / seconds))
            queues.append(now)
        sent = {q.queue: q.sent for q in queues}
        consumers: list[ConsumerFigures] = []
        members = self._groups.members()
        for row in self._reader.consumers():
            held = ConsumerFigures._make((*row[:5], bool(row[5]), None, row[:2] in members))
            known = queues_before.get(held.queue)
            did = None if held.member else consumers_before.get(held[:2])
            if did and known and seconds > 0:
                done = (sent.get(held.queue, 0) - held.pending) - (known.sent - did.pending)
                held = held._replace(rate=max(0.0, done / seconds))
            consumers.append(held)
        self._before = Sample(at, ticking, tuple(queues), tuple(consumers))
        return self._before
