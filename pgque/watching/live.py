"""The data of `pgque top` and the dashboard: samples of every queue and consumer, with rates.

A sample takes a few queries, mostly those of `pgque.metrics`. Their cost does not depend on the
backlog. Rates are differences between two samples, by the server's clock.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg

from pgque.metrics import Reader


class QueueFigures(NamedTuple):
    """A queue at one moment. Times are in seconds, rates in events per second."""

    queue: str
    sent: int
    """Events sent since the queue was created."""
    unticked: int
    tick_age: float
    paused: bool
    rotation_age: float
    retries: int
    dead: int
    rate: float | None
    """Events sent per second since the previous sample; None in the first one."""
    unticked_age: float = 0.0
    """Age of the oldest event that no tick covers."""
    state: str = "ok"
    """The state from `pgque.get_queue_wait`; `pgque.watching.states` has its level."""


class ConsumerFigures(NamedTuple):
    """A consumer, or a member of a group, at one moment."""

    queue: str
    consumer: str
    pending: int
    """Pending events."""
    lag: float
    """How long the oldest pending event has waited."""
    last_seen: float
    holds_batch: bool
    rate: float | None
    """Events handled per second since the previous sample; None in the first one, and for a member,
    because its group has the rate."""
    member: bool = False
    """Whether it is a member of a group."""
    state: str = "ok"
    """The state from `pgque.get_consumer_wait`; `pgque.watching.states` has its level."""
    takeovers: int = 0
    """How many times in a row the open batch was taken over from a dead member."""
    handled: int | None = None
    """Number of finished events; None for a member."""


class Sample(NamedTuple):
    """Every queue and consumer at one moment."""

    at: float
    """Seconds since 1970, by the server's clock."""
    ticking: bool
    """Whether a ticker leads."""
    queues: tuple[QueueFigures, ...]
    consumers: tuple[ConsumerFigures, ...]


class Live:
    """Takes samples, one after the other.

    :param conn: an autocommit connection, whose role needs pgque_reader. The caller closes it.
    """

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._reader = Reader(conn)
        self._before: Sample | None = None

    def look(self) -> Sample:
        """Take a sample, with rates since the previous one.

        :raises PgqueError: if the database cannot be read.
        """
        at, ticking = self._reader.now_and_ticking()
        before = self._before
        seconds = at - before.at if before else 0.0
        queues_before = {q.queue: q for q in before.queues} if before else {}
        consumers_before = {c[:2]: c for c in before.consumers} if before else {}
        queues: list[QueueFigures] = []
        for row in self._reader.queues():
            now = QueueFigures._make((*row[:4], bool(row[4]), *row[5:8], None, row[9], row[10]))
            if (was := queues_before.get(now.queue)) and seconds > 0:
                now = now._replace(rate=max(0.0, (now.sent - was.sent) / seconds))
            queues.append(now)
        consumers = [
            self._consumer(row, consumers_before.get(row[:2]), seconds)
            for row in self._reader.consumers()
        ]
        self._before = Sample(at, ticking, tuple(queues), tuple(consumers))
        return self._before

    @staticmethod
    def _consumer(
        row: tuple[Any, ...], before: ConsumerFigures | None, seconds: float
    ) -> ConsumerFigures:
        queue, consumer, pending, waiting, last_seen, holds, *others = row
        takeovers, _, handled, group, state = others
        rate = None
        if handled is not None and before and before.handled is not None and seconds > 0:
            rate = max(0.0, (handled - before.handled) / seconds)
        return ConsumerFigures(
            queue,
            consumer,
            pending,
            waiting,
            last_seen,
            bool(holds),
            rate,
            group is not None,
            state,
            takeovers,
            handled,
        )
