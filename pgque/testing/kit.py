"""The test kit: a database that has pgque in it, and what a test does with it."""

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

    :param target: a connection string, to which the kit connects by itself; or a psycopg
        connection, such as the one on which the application under test works: then `sent` and the
        asserts see what its transaction has sent and not committed.

    Its role needs what it does: pgque_admin, and for `advance` the owner of the schema. Nothing
    else has to run: the kit ticks, and handlers are called in the test's thread.
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
        """A client on the kit's connection: in autocommit, if the kit has made it."""
        return self._client

    @property
    def conn(self) -> psycopg.Connection[Any]:
        """The kit's connection, for what the test wants to ask the database."""
        return self._client.conn

    @property
    def dsn(self) -> str:
        """The connection string of the database, as a URL."""
        if self._dsn is not None:
            return to_url(self._dsn)
        return to_url(self.conn.info.dsn, password=self.conn.info.password or None)

    # Queues

    def queue(self, name: str, *consumers: str, **settings: Any) -> str:
        """Make a queue where it is missing, subscribe consumers and change settings: its name.

        ``settings`` are what `PgqueClient.set_queue_config` takes, such as ``max_retries=0``.
        """
        self._client.create_queue(name)
        for consumer in consumers:
            self._client.subscribe(name, consumer)
        for param, value in settings.items():
            self._client.set_queue_config(name, param, value)
        return name

    def tick(self, queue: str | None = None) -> int:
        """Put back the retries that are due, and tick: how many queues got a tick.

        Ticks one queue, or without ``queue`` all that are neither paused nor ticked from outside. A
        queue with a ``ticker_max_lag`` is ticked at once. What is not committed stays unseen.
        Calls `pgque.maint_retry_events`, `pgque.force_next_tick` and `pgque.ticker`. Raises
        `PgqueQueueNotFound`, `PgqueTickerStopped`, and `PgqueInvalidArgument` where the kit's
        connection is inside of a transaction.
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
        """Do what a ticker does once a second: put back retries, rotate: how many things it did.

        What was rotated away, `sent` does not see. Calls `pgque.maint`.
        """
        self._refuse_transaction("maintain")
        return int(self._alone("select pgque.maint()")[0][0])

    def advance(self, span: timedelta | float) -> None:
        """Let time pass for pgque: seconds or a timedelta. See `pgque.testing.advance`.

        Nothing is delivered before the next `tick`, `drain` or `maintain`.
        """
        self._refuse_transaction("move the clock")
        clock.advance(self.conn, span)

    # Consumers

    def drain(
        self, *consumers: Consumer, raise_errors: bool = True, limit: int = 10_000
    ) -> Drained:
        """Run the handlers of one consumer or several until nothing is left for any of them.

        Everything is as in `Consumer.start` but that it happens in this thread, in the kit's
        database whatever DSN a consumer was made with, and ends: batches, transactions, nacks, dead
        letters. It ticks by itself. Retries are handled as far as they are due: `advance` lets them
        be. What a handler sends to the queue of one of the consumers is handled as well. Returns
        what was handled, and what failed.

        :param raise_errors: raise when all is done, if handlers have failed or were missing; else
            only tell.
        :param limit: the most messages, for handlers that keep each other busy.
        :raises HandlerFailed: an AssertionError, from what the first handler to fail has raised.
        :raises PgqueConsumerNotFound: where a consumer is not subscribed: see `queue`.
        :raises PgqueBusy: where the consumer runs elsewhere too and is at work.
        :raises PgqueInvalidArgument: where the kit's connection is inside of a transaction.
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
                            f"{len(drained.messages)} messages were handled and there are more: "
                            "does a handler send to its own queue? Else raise the limit"
                        )
        finally:
            for part in parts:
                part.close()
                part.rest()
        if drained.failures and raise_errors:
            raise HandlerFailed(drained) from drained.failures[0].error
        return drained

    # What was sent

    def sent(self, queue: str) -> list[Message]:
        """Return the events in a queue's log, the oldest first; their ``batch_id`` is 0.

        Retries are not among them, nor what was rotated away. Raises `PgqueQueueNotFound`.
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
        """Assert that events like this were sent, at least one or exactly ``times``; return them.

        What is left out may be anything, and so may what `unittest.mock.ANY` stands for inside of
        ``payload`` and ``headers``. A str is compared with the text that was sent, anything else
        with what that text means in JSON; a pydantic model or a dataclass is what `send` makes of
        it. Raises AssertionError, which lists what was sent and how the nearest event differs, and
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
        """Assert that no event like this was sent, or none at all: `assert_sent` with 0 times."""
        __tracebackhide__ = True
        self.assert_sent(queue, payload, type=type, key=key, headers=headers, times=0)

    # The connection

    def close(self) -> None:
        """Close the connection that the kit has made; do nothing to a borrowed one."""
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
        """Run a statement in a transaction of its own, also on a connection that begins them."""
        with mapped, self.conn.transaction():
            return new_cursor(self.conn).execute(query, params).fetchall()

    def _refuse_transaction(self, what: str) -> None:
        """Raise where nothing could come of it: a tick sees what is committed and nothing else."""
        if self.conn.info.transaction_status in _INSIDE:
            raise PgqueInvalidArgument(
                f"cannot {what} inside of a transaction: what it has sent is delivered once it is "
                "committed. Commit it, or assert what was sent and call the handlers by yourself"
            )


def _round(parts: list[Draining], kit: Kit, dsn: str) -> bool:
    """Let each consumer handle what is ready now: whether it is worth another look.

    The kit's connection is for this alone: a handler may close the one on which the test works.
    """
    handled = 0
    for part in parts:
        kit.tick(part.queue)
        handled += part.run(dsn)
    return handled > 0 and not any(part.stopping for part in parts)
