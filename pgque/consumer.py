"""The consumer: handlers for messages, and the loop that calls them.

A batch is received, handled and acked in one transaction, so everything that a handler writes with
its client takes effect exactly once. A cooperative member receives in a separate short transaction
first, so that its siblings need not wait for its handlers.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from copy import copy
from datetime import timedelta
from functools import partial
from typing import Any, Literal, TypeVar

import psycopg

from pgque.client import PgqueClient, open_connection
from pgque.consuming.batches import Batches
from pgque.consuming.caution import Caution
from pgque.consuming.handlers import Handlers
from pgque.consuming.handling import Handling
from pgque.consuming.isolation import ConsumerConnection, HandlerClient, Isolation
from pgque.consuming.working import BatchLost, Work
from pgque.errors import PgqueBusy, PgqueError, PgqueInvalidArgument, mapped
from pgque.logs import Fields
from pgque.message import Message
from pgque.observers import Observer, Watch
from pgque.ticker import Ticker
from pgque.traces import observers_of_traces
from pgque.wire.background import Backoff, stop_on_signals, warn_of_pause
from pgque.wire.calls import to_interval
from pgque.wire.receiving import ask, ask_as_member
from pgque.wire.wakeup import queue_channel

logger = logging.getLogger("pgque.consumer")

POLL_WITHOUT_NOTIFICATIONS = 0.5
STANDBY_PAUSE = 1.0
TICKER_GRACE = 0.5
LEAST_DEAD_INTERVAL = 0.1
MOST_MESSAGES = 2**31 - 1

F = TypeVar("F", bound=Callable[..., Any])
H = TypeVar("H", bound=Handling)


class Consumer:
    """Calls a handler for each message of a queue, until it is stopped.

    :param dsn: libpq connection string; the role needs pgque_reader.
    :param queue: name of the queue.
    :param name: name of the consumer, which must be subscribed; a cooperative one need not be.
    :param poll_interval: seconds between two polls if no notification arrives, default 30.
    :param max_messages: maximum number of messages per batch and transaction, default 500.
    :param retry_after: seconds, or a timedelta, until a message whose handler raised is delivered
        again; default 60.
    :param unknown_handler_policy: ``"nack"`` (default) refuses messages that have no handler,
        ``"ack"`` logs and skips them.
    :param subconsumer: name of this member of a cooperative group; default None, not cooperative.
    :param dead_interval: seconds, or a timedelta, without a sign of life after which this member
        takes over a sibling's batch, at least 0.1; default None, never. Only with ``subconsumer``.
        A member gives four signs of life per interval.
    :raises PgqueInvalidArgument: a ValueError, for a wrong argument or a wrong combination.

    Of two processes with one name, one is active and the other stands by. If no ticker runs, the
    consumer ticks, provided that its role has pgque_admin.

    Calls `pgque.receive_merged` or `pgque.receive_coop_merged`, `pgque.nack_many` and
    `pgque.ack_or_fail`.
    """

    def __init__(
        self,
        dsn: str,
        *,
        queue: str,
        name: str,
        poll_interval: float = 30,
        max_messages: int = 500,
        retry_after: float | timedelta = 60,
        unknown_handler_policy: Literal["nack", "ack"] = "nack",
        subconsumer: str | None = None,
        dead_interval: float | timedelta | None = None,
    ) -> None:
        if unknown_handler_policy not in ("nack", "ack"):
            raise PgqueInvalidArgument(
                f"unknown_handler_policy is 'nack' or 'ack', not {unknown_handler_policy!r}"
            )
        if dead_interval is not None and subconsumer is None:
            raise PgqueInvalidArgument(
                "dead_interval needs subconsumer: it applies to members of a cooperative group"
            )
        if not isinstance(max_messages, int) or not 1 <= max_messages <= MOST_MESSAGES:
            raise PgqueInvalidArgument(
                f"max_messages must be an int from 1 to {MOST_MESSAGES}, not {max_messages!r}"
            )
        # A positive test, because NaN would pass "<= 0". threading waits no longer than this.
        if not (
            isinstance(poll_interval, (int, float)) and 0 < poll_interval <= threading.TIMEOUT_MAX
        ):
            raise PgqueInvalidArgument(
                f"poll_interval must be a number of seconds above 0, not {poll_interval!r}"
            )
        self._dsn = dsn
        self._queue = queue
        self._name = name
        self._poll_interval = poll_interval
        self._max_messages = max_messages
        self._retry_after = to_interval(retry_after, "retry_after")
        self._unknown_handler_policy = unknown_handler_policy
        self._dead_interval = None if dead_interval is None else _dead_interval(dead_interval)
        self._handlers = Handlers()
        self._observers: list[Observer] = []
        self._become(subconsumer)

    def _become(self, subconsumer: str | None) -> None:
        """Set the member's name, or None, and the state that members do not share."""
        self._process = os.getpid()
        self._subconsumer = subconsumer
        self._fields = Fields(queue=self._queue, consumer=self._name)
        if subconsumer is not None:
            self._fields["subconsumer"] = subconsumer
        self._stopping = threading.Event()
        self._awake = threading.Event()
        self._handling = self._new_handling(Handling)
        self._caution = Caution(self._max_messages)
        self._received_once = False
        self._stood_by = False
        self._at_work = False
        self._ticker: Ticker | None = None

    def _new_handling(self, kind: type[H]) -> H:
        return kind(
            str(self),
            self._fields,
            self._handlers,
            self._unknown_handler_policy,
            self._stopping.is_set,
        )

    def on(self, type: str, *, model: Any = None) -> Callable[[F], F]:  # noqa: A002
        """Register the decorated function for messages of a type; ``"*"`` matches all others.

        The function takes the `Message` and, optionally, a `PgqueClient` on the transaction of the
        ack. If it returns, the message is done. If it raises, only this message is nacked, and
        everything that the function wrote with the client is rolled back.

        With ``model``, a pydantic model or a dataclass, the function takes an instance of the
        model, built from the payload, instead of the message. It may also take the client and,
        third, the message. A message whose payload does not fit (`PgquePayloadError`) is nacked as
        if the function had raised.

        :raises PgqueInvalidArgument: for a second handler of one type, for a function with other
            parameters, and for an unusable model.
        """

        def register(function: F) -> F:
            self._handlers.add(type, function, model)
            return function

        return register

    def observe(self, observer: Observer) -> None:
        """Notify an observer of each batch and message, from the next `start` on.

        :raises PgqueInvalidArgument: if it is not a `pgque.observers.Observer`.
        """
        if not isinstance(observer, Observer):
            raise PgqueInvalidArgument(
                f"observe() takes a pgque.observers.Observer, not {observer!r}"
            )
        self._observers.append(observer)

    def start(self) -> None:
        """Consume until SIGTERM, SIGINT or `stop`; reconnect after any error of the database.

        :raises PgqueError: if the first attempt fails: no server, no schema, no such queue, not
            subscribed, no right. The same errors are logged and retried later on.
        """
        if not self._handlers:
            logger.warning("consumer %s has no handlers", self, extra=self._fields)
        if self._process != os.getpid():
            self._become(self._subconsumer)  # threads of the parent may hold the old locks
        self._received_once = False
        self._stood_by = False
        with stop_on_signals(self.stop):
            try:
                self._run()
            finally:
                self._received_once = False
                self._stopping.clear()

    def stop(self) -> None:
        """Make `start` return after the current message. May be called from any thread."""
        self._stopping.set()
        self._awake.set()

    @property
    def working(self) -> bool:
        """Whether `start` has reached the queue: it has received once or is standing by."""
        return self._received_once

    @property
    def subconsumer(self) -> str | None:
        """Name of this member of a cooperative group; None if it is not cooperative."""
        return self._subconsumer

    def as_member(self, subconsumer: str) -> Consumer:
        """Return another member of the same group, with this one's handlers, settings, observers.

        :raises PgqueInvalidArgument: if this consumer is not a member of a group.
        """
        if self._subconsumer is None:
            raise PgqueInvalidArgument(f"{self} is not a member of a group: it has no subconsumer")
        member = copy(self)
        member._become(subconsumer)
        return member

    def __str__(self) -> str:
        member = f".{self._subconsumer}" if self._subconsumer else ""
        return f"{self._queue}/{self._name}{member}"

    # The loop

    def _run(self) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            try:
                with closing(open_connection(ConsumerConnection, self._dsn)) as conn:
                    self._consume(self._work_on(conn), backoff)
            except PgqueError as error:
                if self._process != os.getpid():
                    raise PgqueError(
                        f"consumer {self}: a handler forked, and the child returned from it: "
                        "end the child with os._exit(), or use multiprocessing"
                    ) from error
                if not self._received_once:
                    raise
                pause = backoff.next()
                fields = self._fields | (error.fields if isinstance(error, BatchLost) else Fields())
                warn_of_pause(logger, f"consumer {self}", error, pause, fields)
                self._stopping.wait(pause)

    def _consume(self, work: Work, backoff: Backoff) -> None:
        messages: list[Message] = []
        with mapped, self._ticking_beside():
            while not self._stopping.is_set() or (messages and self._subconsumer is not None):
                self._awake.clear()
                try:
                    if messages:
                        acked = work.acked
                        messages = self._handle_batch(work, messages)
                        if work.acked == acked:  # taken over
                            self._stopping.wait(backoff.next())
                        else:
                            backoff.reset()
                    else:
                        messages = work.next()
                except PgqueBusy:
                    # Another process with this name is active.
                    work.batches.abandon()
                    messages = []
                    self._say_that_it_stands_by()
                    self._received_once = True
                    backoff.reset()
                    self._wait(STANDBY_PAUSE)
                    continue
                self._received_once = True
                if not messages:
                    backoff.reset()
                    self._wait(self._pause())
            work.batches.abandon()  # stopped between receiving a batch and handling it

    def _say_that_it_stands_by(self) -> None:
        if self._stood_by:  # log it once at info: the processes may alternate
            logger.debug("consumer %s: standing by again", self, extra=self._fields)
        else:
            logger.info("consumer %s: standing by", self, extra=self._fields)
        self._stood_by = True

    def _pause(self) -> float:
        pause = self._poll_interval
        if self._ticker is None or not self._ticker.listening:
            pause = min(pause, POLL_WITHOUT_NOTIFICATIONS)
        if self._dead_interval is not None:
            pause = min(pause, max(self._dead_interval.total_seconds() / 2, 0.05))
        return pause

    def _wait(self, seconds: float) -> None:
        if not self._stopping.is_set():
            self._awake.wait(seconds)

    def _watch_on(self, conn: psycopg.Connection[Any]) -> Watch | None:
        # Traces come first, so that the other observers run within the message's span.
        observers = [*observers_of_traces(), *self._observers]
        if not observers:
            return None
        return Watch(observers, conn, self._queue, self._name, self._subconsumer)

    def _work_on(
        self,
        conn: psycopg.Connection[Any],
        handling: Handling | None = None,
        caution: Caution | None = None,
    ) -> Work:
        """Return the work on a connection: `Work.next`, then `Work.handle` while it has messages.

        `pgque.testing` handles ready messages this way, with its own ``handling`` and ``caution``.
        """
        return Work(
            str(self),
            self._fields,
            self._batches(conn),
            Isolation(HandlerClient(conn)),
            handling or self._handling,
            caution or self._caution,
            self._retry_after,
            self._stopping.is_set,
            self._watch_on(conn),
        )

    def _batches(self, conn: psycopg.Connection[Any]) -> Batches:
        if self._subconsumer is None:
            what = (conn, self._queue, self._name, self._max_messages)
            call = partial(ask, *what, merged=True)
        else:
            group = (conn, self._queue, self._name, self._subconsumer)
            limits = (self._max_messages, self._dead_interval)
            call = partial(ask_as_member, *group, *limits, merged=True)
        # No statements are prepared behind a pooler, see settle_for_pooler.
        pipelined = conn.prepare_threshold is not None
        return Batches(conn, call, lock=self._subconsumer is None, pipelined=pipelined)

    def _handle_batch(self, work: Work, messages: list[Message]) -> list[Message]:
        """Handle a batch and ack it; return the next one."""
        self._at_work = True
        try:
            return work.handle(messages)
        finally:
            self._at_work = False

    # The ticker's thread

    @contextmanager
    def _ticking_beside(self) -> Iterator[None]:
        ticker = Ticker(
            self._dsn,
            listen=[queue_channel(self._queue)],
            on_notify=lambda channels: self._awake.set(),
            required=False,
        )
        if self._dead_interval is not None:
            ticker.add_chore(self._touch, self._dead_interval.total_seconds() / 4)
        thread = threading.Thread(
            target=_run_ticker, args=(ticker,), name=f"pgque ticker of {self}", daemon=True
        )
        self._ticker = ticker
        thread.start()
        try:
            yield
        finally:
            self._ticker = None
            ticker.stop()
            # The ticker may hang on a dead network. Do not wait: its thread is a daemon.
            thread.join(TICKER_GRACE)

    def _touch(self, conn: psycopg.Connection[Any]) -> None:
        """Give a sign of life while handlers are running, from the ticker's thread."""
        assert self._subconsumer is not None
        if self._at_work:
            PgqueClient(conn).touch_subconsumer(self._queue, self._name, self._subconsumer)


def _dead_interval(value: float | timedelta) -> timedelta:
    """Check a dead_interval. If it is too short, members keep taking over each other's batches."""
    interval = to_interval(value, "dead_interval")
    if interval.total_seconds() < LEAST_DEAD_INTERVAL:
        raise PgqueInvalidArgument(
            f"dead_interval must be at least {LEAST_DEAD_INTERVAL} seconds, not {value!r}: "
            "otherwise a member would count as dead between two of its signs of life"
        )
    return interval


def _run_ticker(ticker: Ticker) -> None:
    backoff = Backoff()
    while not ticker.stopped:
        try:
            ticker.run()
        except PgqueError as error:
            pause = backoff.next()
            warn_of_pause(logger, "ticker", error, pause, Fields())
            ticker.wait(pause)
