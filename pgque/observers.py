"""Observers: who is told what a Consumer does, for metrics, traces or a use of one's own.

Without an observer nothing of this runs. Times are the server's: its clock is asked once a minute
and is counted on from there, so a client whose clock is wrong reports no wrong delays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import psycopg

from pgque.logs import Fields
from pgque.message import Message, sent_at
from pgque.wire.calls import new_cursor
from pgque.wire.failures import describe, is_loggable

logger = logging.getLogger("pgque.observers")

ASK_EVERY: Final = 60.0
"""Seconds. Two clocks drift apart by less than a millisecond in this time."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that a consumer handles.

    ``queue``, ``consumer``  their names
    ``subconsumer``  name of the member of a cooperative group; None for any other consumer
    ``batch_id``     its id, int
    ``messages``     all of its messages
    """

    queue: str
    consumer: str
    subconsumer: str | None
    batch_id: int
    messages: Sequence[Message]


class Observer:
    """Is told of batches and messages: override what you want to know, then `Consumer.observe`.

    Its methods are called in the thread of `Consumer.start`, between the handlers, so they should
    be quick. What one raises is logged, and the consumer goes on. One observer may serve several
    consumers, and then is called by several threads.
    """

    def on_batch(self, batch: Batch) -> None:
        """Tell that a batch was received, before its first handler."""

    def on_handling(self, batch: Batch, message: Message, delay: float) -> None:
        """Tell that a message's handler is about to be called.

        :param delay: seconds since the message was sent, by the server's clock, at least 0. For a
            message that comes back they include its earlier attempts. The precision is half of a
            round trip to the server.
        """

    def on_handled(
        self, batch: Batch, message: Message, seconds: float, error: BaseException | None
    ) -> None:
        """Tell that a message's handler has returned or raised.

        :param seconds: how long that took.
        :param error: what the handler raised, or a LookupError where there is no handler and the
            message is nacked; None where all went well. What was handled comes again where the
            batch's ack fails afterwards.
        """


class Watch:
    """Tells a consumer's observers, on one connection.

    :param observers: at least one.
    :param conn: the connection on which the server's clock is asked.
    """

    def __init__(
        self,
        observers: Iterable[Observer],
        conn: psycopg.Connection[Any],
        queue: str,
        consumer: str,
        subconsumer: str | None,
    ) -> None:
        self._who = (queue, consumer, subconsumer)
        self._clock = _ServerClock(conn)
        watching = list(observers)
        self._on_batch = [o.on_batch for o in watching if _has(o, "on_batch")]
        self._on_handling = [o.on_handling for o in watching if _has(o, "on_handling")]
        # As blocks are left: the last one that was entered first.
        self._on_handled = [o.on_handled for o in reversed(watching) if _has(o, "on_handled")]
        self._batch: Batch | None = None
        self._began = 0.0

    def receive(self, messages: Sequence[Message]) -> None:
        """Tell of a batch, which must not be empty."""
        self._clock.look()
        self._batch = batch = Batch(*self._who, messages[0].batch_id, messages)
        for tell in self._on_batch:
            self._tell(tell, batch)

    def begin(self, message: Message) -> None:
        """Tell that a handler is called now."""
        assert self._batch is not None
        if self._on_handling:
            delay = perf_counter() + self._clock.ahead - sent_at(message)
            if delay < 0.0:
                delay = 0.0
            for tell in self._on_handling:
                self._tell(tell, self._batch, message, delay)
        self._began = perf_counter()

    def end(self, message: Message, error: BaseException | None) -> None:
        """Tell that it has returned, or what it raised."""
        assert self._batch is not None
        seconds = perf_counter() - self._began
        for tell in self._on_handled:
            self._tell(tell, self._batch, message, seconds, error)

    def _tell(self, tell: Callable[..., None], *what: Any) -> None:
        try:
            tell(*what)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            queue, consumer, _ = self._who
            logger.warning(
                "observer %s of %s/%s failed: %s",
                getattr(tell, "__qualname__", tell),
                queue,
                consumer,
                describe(error),
                exc_info=error if is_loggable(error) else None,
                extra=Fields(queue=queue, consumer=consumer),
            )


def _has(observer: Observer, method: str) -> bool:
    """Tell whether an observer wants to be told: the empty methods need not be called."""
    return getattr(type(observer), method, None) is not getattr(Observer, method)


class _ServerClock:
    """The server's time without a question each time, and whatever the client's clock says."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn
        self.ahead = 0.0
        """Seconds by which the server is ahead of `perf_counter`."""
        self._asked = float("-inf")

    def look(self) -> None:
        """Ask the server, if that was long ago."""
        before = perf_counter()
        if before - self._asked < ASK_EVERY:
            return
        query = "select extract(epoch from clock_timestamp())::float8"
        row = new_cursor(self._conn).execute(query, prepare=False).fetchone()
        assert row is not None
        self._asked = perf_counter()
        self.ahead = row[0] - (before + self._asked) / 2
