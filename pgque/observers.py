"""Observers: callbacks about a Consumer's work, for metrics, traces or your own purposes.

Without an observer none of this runs. Delays are measured by the server's clock, which is read once
a minute and extrapolated in between. So a client with a wrong clock still reports correct delays.
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
"""Seconds. In this time, two clocks drift apart by less than a millisecond."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that a consumer handles.

    ``queue``, ``consumer``  their names
    ``subconsumer``  name of the member of a cooperative group; None for a normal consumer
    ``batch_id``     its id, int
    ``messages``     all of its messages
    """

    queue: str
    consumer: str
    subconsumer: str | None
    batch_id: int
    messages: Sequence[Message]


class Observer:
    """Base class of observers: override the methods you need, then call `Consumer.observe`.

    The methods are called in the thread of `Consumer.start`, between handlers, so they should be
    quick. Exceptions that they raise are logged, and the consumer continues. An observer of several
    consumers is called from several threads.
    """

    def on_batch(self, batch: Batch) -> None:
        """A batch was received; called before its first handler."""

    def on_handling(self, batch: Batch, message: Message, delay: float) -> None:
        """A message's handler is about to be called.

        :param delay: seconds since the message was sent, by the server's clock, at least 0. For a
            redelivered message this includes its earlier attempts. The precision is half a round
            trip to the server.
        """

    def on_handled(
        self, batch: Batch, message: Message, seconds: float, error: BaseException | None
    ) -> None:
        """A message's handler has returned or raised.

        :param seconds: how long the handler ran.
        :param error: the exception that the handler raised, a LookupError if there is no handler
            and the message is nacked, or None for success. If the batch's ack fails afterwards, its
            messages are delivered again.
        """


class Watch:
    """Notifies a consumer's observers, on one connection.

    :param observers: at least one.
    :param conn: the connection used to read the server's clock.
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
        # In reverse order, like nested blocks.
        self._on_handled = [o.on_handled for o in reversed(watching) if _has(o, "on_handled")]
        self._batch: Batch | None = None
        self._began = 0.0

    def receive(self, messages: Sequence[Message]) -> None:
        """Report a batch, which must not be empty."""
        self._clock.look()
        self._batch = batch = Batch(*self._who, messages[0].batch_id, messages)
        for tell in self._on_batch:
            self._tell(tell, batch)

    def begin(self, message: Message) -> None:
        """Report that a handler is called now."""
        assert self._batch is not None
        if self._on_handling:
            delay = perf_counter() + self._clock.ahead - sent_at(message)
            if delay < 0.0:
                delay = 0.0
            for tell in self._on_handling:
                self._tell(tell, self._batch, message, delay)
        self._began = perf_counter()

    def end(self, message: Message, error: BaseException | None) -> None:
        """Report that the handler returned, or the exception that it raised."""
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
    """Tell whether an observer overrides a method; the empty ones need not be called."""
    return getattr(type(observer), method, None) is not getattr(Observer, method)


class _ServerClock:
    """The server's time, independent of the client's clock, with one query per minute."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn
        self.ahead = 0.0
        """Seconds by which the server is ahead of `perf_counter`."""
        self._asked = float("-inf")

    def look(self) -> None:
        """Read the server's clock if the last reading is older than `ASK_EVERY`."""
        before = perf_counter()
        if before - self._asked < ASK_EVERY:
            return
        query = "select extract(epoch from clock_timestamp())::float8"
        row = new_cursor(self._conn).execute(query, prepare=False).fetchone()
        assert row is not None
        self._asked = perf_counter()
        self.ahead = row[0] - (before + self._asked) / 2
