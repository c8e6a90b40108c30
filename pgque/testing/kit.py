"""The test kit: queues, ticks, handlers and assertions for a test's own database."""

from __future__ import annotations

from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import ANY

import psycopg
from psycopg.pq import TransactionStatus

from pgque.client import PgqueClient, connect
from pgque.consumer import Consumer
from pgque.dsn import to_url
from pgque.errors import PgqueError, PgqueInvalidArgument, mapped
from pgque.message import Message
from pgque.testing import clock
from pgque.testing.draining import Drained, Draining, HandlerFailed
from pgque.testing.sent import Pattern, explain, sent
from pgque.wire.calls import new_cursor

if TYPE_CHECKING:
    from typing_extensions import LiteralString

_INSIDE: Final = (TransactionStatus.INTRANS, TransactionStatus.INERROR)


class Kit:
    """Queues to test with, in a database that belongs to the test.

    :param target: a connection string, for a connection of the kit's own; or a psycopg connection,
        such as the one that the application under test uses. In that case `sent` and the asserts
        also see the uncommitted events of its transaction.

    The role needs pgque_admin, and for `advance` it must own the schema. Nothing else has to run:
    the kit ticks, and it calls handlers in the test's thread.
    """

    def __init__(self, target: str | psycopg.Connection[Any]) -> None:
        if isinstance(target, str):
            self._dsn: str | None = target
            self._client = connect(target, autocommit=True)
        else:
            self._dsn = None
            self._client = PgqueClient(target)

    @property
    def client(self) -> PgqueClient:
        """A client on the kit's connection, which is in autocommit if the kit opened it."""
        return self._client

    @property
    def conn(self) -> psycopg.Connection[Any]:
        """The kit's connection, for the test's own queries."""
        return self._client.conn

    @property
    def dsn(self) -> str:
        """The connection string of the database, as a URL."""
        if self._dsn is not None:
            return to_url(self._dsn)
        return to_url(self.conn.info.dsn, password=self.conn.info.password or None)

    # Queues

    def queue(self, name: str, *consumers: str, **settings: Any) -> str:
        """Create a queue if missing, subscribe consumers and change settings; return its name.

        ``settings`` are those of `PgqueClient.set_queue_config`, such as ``max_retries=0``.
        """
        self._client.create_queue(name)
        for consumer in consumers:
            self._client.subscribe(name, consumer)
        for param, value in settings.items():
            self._client.set_queue_config(name, param, value)
        return name

    def tick(self, queue: str | None = None) -> int:
        """Put back the due retries, then tick; return the number of queues that got a tick.

        Ticks one queue, or without ``queue`` all queues that are not paused and have no external
        ticker. A queue with a ``ticker_max_lag`` is ticked at once. A tick does not cover
        uncommitted events. Calls `pgque.maint_retry_events`, `pgque.force_next_tick` and
        `pgque.ticker`. Raises `PgqueQueueNotFound`, `PgqueTickerStopped`, and
        `PgqueInvalidArgument` if the kit's connection is inside a transaction.
        """
        self._refuse_transaction("tick")
        self._alone("select pgque.maint_retry_events()")
        lags = dict(
            self._alone(
                "select queue_name, queue_ticker_max_lag > interval '0' from pgque.queue "
                "where not queue_ticker_paused and not queue_external_ticker order by queue_id"
            )
        )
        return sum(
            self._tick(name, lags.get(name, False)) for name in (lags if queue is None else [queue])
        )

    def _tick(self, queue: str, lags: bool) -> bool:
        if self._took_tick(queue):
            return True
        if not lags:
            return False
        self._alone("select pgque.force_next_tick(%s::text)", queue)
        return self._took_tick(queue)

    def _took_tick(self, queue: str) -> bool:
        return self._alone("select pgque.ticker(%s::text)", queue) != [(None,)]

    def maintain(self) -> int:
        """Put back retries and rotate, like a ticker once a second; return the number of actions.

        `sent` does not see events that were rotated away. Calls `pgque.maint`.
        """
        self._refuse_transaction("maintain")
        return int(self._alone("select pgque.maint()")[0][0])

    def advance(self, span: timedelta | float) -> None:
        """Let time pass for pgque, in seconds or as a timedelta. See `pgque.testing.advance`.

        Nothing is delivered before the next `tick`, `drain` or `maintain`.
        """
        self._refuse_transaction("move the clock")
        clock.advance(self.conn, span)

    # Consumers

    def drain(
        self, *consumers: Consumer, raise_errors: bool = True, limit: int = 10_000
    ) -> Drained:
        """Run the handlers of one or more consumers until no message is left for any of them.

        Batches, transactions, nacks and dead letters work as in `Consumer.start`, but in this
        thread, and in the kit's database whatever DSN a consumer has. `drain` ticks. It handles
        only retries that are due: see `advance`. It also handles events that a handler sends to the
        queue of one of the consumers. Returns the messages handled, and the failures.

        :param raise_errors: raise at the end if handlers failed or were missing; otherwise only
            return the failures.
        :param limit: maximum number of messages, against handlers that never stop sending.
        :raises HandlerFailed: an AssertionError, with the first handler's exception as its cause.
        :raises PgqueConsumerNotFound: if a consumer is not subscribed: see `queue`.
        :raises PgqueBusy: if another process is handling a batch of the same consumer.
        :raises PgqueInvalidArgument: if the kit's connection is inside a transaction.
        """
        __tracebackhide__ = True
        self._refuse_transaction("drain a queue")
        drained = Drained()
        parts = [Draining(consumer, drained) for consumer in consumers]
        try:
            dsn = self.dsn
            with connect(dsn, autocommit=True) as owner:
                while _round(parts, Kit(owner.conn), dsn):
                    if len(drained.messages) > limit:
                        raise PgqueError(
                            f"{len(drained.messages)} messages were handled and more are ready: "
                            "does a handler send to its own queue? If not, raise the limit"
                        )
        finally:
            for part in parts:
                part.close()
                part.rest()
        if drained.failures and raise_errors:
            raise HandlerFailed(drained) from drained.failures[0].error
        return drained

    # Events

    def sent(self, queue: str) -> list[Message]:
        """Return the events in a queue's log, oldest first; their ``batch_id`` is 0.

        Retries, and events that were rotated away, are not included. Raises `PgqueQueueNotFound`.
        """
        return sent(self.conn, queue)

    def assert_sent(
        self,
        queue: str,
        payload: Any = ANY,
        *,
        type: Any = ANY,  # noqa: A002
        key: Any = ANY,
        headers: Any = ANY,
        times: int | None = None,
    ) -> list[Message]:
        """Assert that matching events were sent, at least one or exactly ``times``; return them.

        An omitted argument matches anything, and so does `unittest.mock.ANY` inside ``payload`` and
        ``headers``. A str is compared with the text that was sent; any other value is compared with
        the decoded JSON. A pydantic model or a dataclass is encoded as by `send`. Raises
        AssertionError, which lists the events sent and how the most similar one differs, and
        `PgqueQueueNotFound`.
        """
        __tracebackhide__ = True
        pattern = Pattern(type, payload, key, headers)
        events = self.sent(queue)
        found = [event for event in events if pattern.fits(event)]
        if len(found) == times or (found and times is None):
            return found
        raise AssertionError(explain(self.conn, queue, pattern, times, found, events))

    def assert_not_sent(
        self,
        queue: str,
        payload: Any = ANY,
        *,
        type: Any = ANY,  # noqa: A002
        key: Any = ANY,
        headers: Any = ANY,
    ) -> None:
        """Assert that no matching event was sent, see `assert_sent`; without arguments, none."""
        __tracebackhide__ = True
        self.assert_sent(queue, payload, type=type, key=key, headers=headers, times=0)

    # The connection

    def close(self) -> None:
        """Close the connection if the kit opened it; leave a borrowed one open."""
        self._client.close()

    def __enter__(self) -> Kit:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _alone(self, query: LiteralString, *params: str) -> list[tuple[Any, ...]]:
        """Run a statement in a separate transaction, also on a connection without autocommit."""
        with mapped, self.conn.transaction():
            return new_cursor(self.conn).execute(query, params).fetchall()

    def _refuse_transaction(self, what: str) -> None:
        """Raise inside a transaction, because a tick covers only committed events."""
        if self.conn.info.transaction_status in _INSIDE:
            raise PgqueInvalidArgument(
                f"cannot {what} inside a transaction: its events are delivered only after the "
                "commit. Commit first, or use assert_sent() and call the handlers yourself"
            )


def _round(parts: list[Draining], kit: Kit, dsn: str) -> bool:
    """Let each consumer handle its ready messages; tell whether another round is needed.

    ``kit`` has a separate connection, because a handler may close the test's own.
    """
    handled = 0
    for part in parts:
        kit.tick(part.queue)
        handled += part.run(dsn)
    return handled > 0 and not any(part.stopping for part in parts)
