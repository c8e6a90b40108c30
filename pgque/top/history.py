"""Combines the newest sample with earlier ones: trends and totals."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from pgque.watching.live import ConsumerFigures, QueueFigures, Sample
from pgque.watching.states import State, of_consumer, of_queue

KEEP: Final = 240
"""Samples per trend."""

Trend = tuple[float | None, ...]

_SENT: Final = ("all", "sent", "")
_DONE: Final = ("all", "done", "")


class ConsumerRow(NamedTuple):
    """A consumer as one row of a list."""

    now: ConsumerFigures
    state: State
    trend: Trend
    """Its rate in the last samples, newest last; None if unknown."""

    @property
    def key(self) -> tuple[str, str]:
        """The names of its queue and of the consumer."""
        return self.now.queue, self.now.consumer


class QueueRow(NamedTuple):
    """A queue as one row of a list."""

    now: QueueFigures
    out: float | None
    """Events handled per second by all its consumers together."""
    pending: int
    """The pending events of the consumer with the most."""
    lag: float
    """The age of the oldest event that is pending for any consumer, in seconds."""
    consumers: int
    """The number of consumers; a group counts as one."""
    in_flight: int
    """Batches that consumers hold."""
    state: State
    trend: Trend
    """Its rate in the last samples, newest last."""


class Totals(NamedTuple):
    """The totals of all queues."""

    sent: float | None
    done: float | None
    retries: int
    dead: int
    sent_trend: Trend
    done_trend: Trend


class History:
    """The newest sample as rows, and the trends from earlier samples."""

    def __init__(self) -> None:
        self.sample: Sample | None = None
        self.queues: dict[str, QueueRow] = {}
        self.consumers: dict[tuple[str, str], ConsumerRow] = {}
        self.totals = Totals(None, None, 0, 0, (), ())
        self._trends: dict[tuple[str, ...], deque[float | None]] = {}

    def add(self, sample: Sample) -> None:
        """Add the newest sample."""
        self.sample = sample
        self.consumers = {
            (now.queue, now.consumer): self._consumer(now) for now in sample.consumers
        }
        readers: dict[str, list[ConsumerRow]] = {now.queue: [] for now in sample.queues}
        for row in self.consumers.values():
            readers.setdefault(row.now.queue, []).append(row)
        self.queues = {now.queue: self._queue(now, readers[now.queue]) for now in sample.queues}
        sent = _sum(row.now.rate for row in self.queues.values())
        done = _sum(row.out for row in self.queues.values())
        self.totals = Totals(
            sent,
            done,
            sum(now.retries for now in sample.queues),
            sum(now.dead for now in sample.queues),
            self._trend(_SENT, sent),
            self._trend(_DONE, done),
        )
        there = {_SENT, _DONE, *map(_of_queue, self.queues), *self.consumers}
        for key in self._trends.keys() - there:
            del self._trends[key]

    def _consumer(self, now: ConsumerFigures) -> ConsumerRow:
        key = (now.queue, now.consumer)
        return ConsumerRow(now, of_consumer(now.state), self._trend(key, now.rate))

    def _queue(self, now: QueueFigures, readers: list[ConsumerRow]) -> QueueRow:
        return QueueRow(
            now,
            _sum(row.now.rate for row in readers if not row.now.member),
            max((row.now.pending for row in readers), default=0),
            max((row.now.lag for row in readers), default=0.0),
            sum(not row.now.member for row in readers),
            sum(row.now.holds_batch for row in readers),
            of_queue(now.state, [row.state for row in readers]),
            self._trend(_of_queue(now.queue), now.rate),
        )

    def _trend(self, key: tuple[str, ...], value: float | None) -> Trend:
        trend = self._trends.setdefault(key, deque(maxlen=KEEP))
        trend.append(value)
        return tuple(trend)


def _of_queue(name: str) -> tuple[str]:
    """Return a trend's key for a queue, which differs from any consumer's."""
    return (name,)


def _sum(rates: Iterable[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None
