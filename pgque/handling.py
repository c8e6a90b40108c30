"""Handling: what becomes of each message of a batch, one after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from psycopg.pq import TransactionStatus

from pgque.errors import PgqueConnectionError, PgqueTransactionAborted
from pgque.handlers import Handler, Handlers
from pgque.logs import Fields
from pgque.message import Message

if TYPE_CHECKING:
    from pgque.batches import Batches
    from pgque.client import PgqueClient
    from pgque.observers import Watch

logger = logging.getLogger("pgque.consumer")


class Handling:
    """Calls the handlers of one consumer.

    :param who: what the consumer is called in the log.
    :param fields: what its records in the log have in common.
    :param handlers: which function gets which message.
    :param unknown: ``"nack"`` or ``"ack"``: what becomes of a message without a handler.
    :param stopping: whether to leave the messages that are not handled yet.
    """

    def __init__(
        self,
        who: str,
        fields: Fields,
        handlers: Handlers,
        unknown: Literal["nack", "ack"],
        stopping: Callable[[], bool],
    ) -> None:
        self._who = who
        self._fields = fields
        self._handlers = handlers
        self._unknown = unknown
        self._stopping = stopping

    def call(
        self,
        client: PgqueClient,
        batches: Batches,
        messages: Sequence[Message],
        watch: Watch | None = None,
    ) -> tuple[int, list[tuple[Message, str]]]:
        """Call the handler of each message until it is to stop: how many; which failed, and why.

        :param watch: tells those who observe; None where nobody does.
        :raises PgqueConnectionError: where the connection broke meanwhile.
        """
        failed: list[tuple[Message, str]] = []
        find = self._handlers.find
        stopping = self._stopping
        handled = 0
        began = time.perf_counter()
        if watch is not None:
            watch.receive(messages)
        for message in messages:
            handler = find(message.type)
            if watch is not None:
                watch.begin(message)
            try:
                if handler is None:
                    self._pass_over(message)
                elif handler.takes_client:
                    batches.begin()
                    _call(handler, message, client)
                else:
                    handler.function(message)
            except BaseException as error:
                try:
                    failed.append((message, self._explain(error, message, client)))
                finally:
                    if watch is not None:
                        watch.end(message, error)
            else:
                if watch is not None:
                    watch.end(message, None)
            handled += 1
            if stopping():
                break
        if logger.isEnabledFor(logging.DEBUG):
            self._say_how_long(messages[0].batch_id, handled, len(failed), began)
        return handled, failed

    def _say_how_long(self, batch_id: int, handled: int, failed: int, began: float) -> None:
        seconds = time.perf_counter() - began
        logger.debug(
            "consumer %s: batch %s: %d messages handled in %.6f s, %d failed",
            self._who,
            batch_id,
            handled,
            seconds,
            failed,
            extra=self._fields
            | Fields(batch_id=batch_id, messages=handled, failed=failed, seconds=seconds),
        )

    def _pass_over(self, message: Message) -> None:
        logger.warning(
            "consumer %s: no handler for type %r",
            self._who,
            message.type,
            extra=self._fields_of(message),
        )
        if self._unknown == "nack":
            raise _NoHandlerError(f"no handler for type {message.type!r}")

    def _explain(self, error: BaseException, message: Message, client: PgqueClient) -> str:
        """Return why a message failed; raise what is not about this message alone."""
        if isinstance(error, _NoHandlerError):
            return str(error)
        if not isinstance(error, Exception):
            raise error
        if client.conn.broken or client.conn.closed:
            raise PgqueConnectionError(
                f"the connection broke in the handler of message {message.msg_id}: {error}"
            ) from error
        reason = f"{type(error).__name__}: {error}"
        logger.warning(
            "consumer %s: handler failed on message %s",
            self._who,
            message.msg_id,
            exc_info=True,
            extra=self._fields_of(message) | Fields(error=reason),
        )
        return reason

    def _fields_of(self, message: Message) -> Fields:
        return self._fields | Fields(
            batch_id=message.batch_id,
            msg_id=message.msg_id,
            type=message.type,
            attempt=message.retry_count + 1,
        )


class _NoHandlerError(LookupError):
    """There is no handler for a message, which is nacked therefore."""


def _call(handler: Handler, message: Message, client: PgqueClient) -> None:
    with client.conn.transaction():  # a savepoint: what it writes is undone with it alone
        handler.function(message, client)
        if client.conn.info.transaction_status == TransactionStatus.INERROR:
            raise PgqueTransactionAborted(
                "the handler passed over an error of the database, which undid what it wrote"
            )
