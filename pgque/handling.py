"""Handling: what becomes of each message of a batch, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from psycopg.pq import TransactionStatus

from pgque.errors import PgqueConnectionError, PgqueTransactionAborted
from pgque.handlers import Handler, Handlers
from pgque.message import Message

if TYPE_CHECKING:
    from pgque.batches import Batches
    from pgque.client import PgqueClient

logger = logging.getLogger("pgque.consumer")


class Handling:
    """Calls the handlers of one consumer.

    :param who: what the consumer is called in the log.
    :param handlers: which function gets which message.
    :param unknown: ``"nack"`` or ``"ack"``: what becomes of a message without a handler.
    :param stopping: whether to leave the messages that are not handled yet.
    """

    def __init__(
        self,
        who: str,
        handlers: Handlers,
        unknown: Literal["nack", "ack"],
        stopping: Callable[[], bool],
    ) -> None:
        self._who = who
        self._handlers = handlers
        self._unknown = unknown
        self._stopping = stopping

    def call(
        self, client: PgqueClient, batches: Batches, messages: Sequence[Message]
    ) -> tuple[int, list[tuple[Message, str]]]:
        """Call the handler of each message until it is to stop: how many; which failed, and why.

        :raises PgqueConnectionError: where the connection broke meanwhile.
        """
        failed: list[tuple[Message, str]] = []
        find = self._handlers.find
        stopping = self._stopping
        handled = 0
        for message in messages:
            handler = find(message.type)
            try:
                if handler is None:
                    self._pass_over(message)
                elif handler.takes_client:
                    batches.begin()
                    _call(handler, message, client)
                else:
                    handler.function(message)
            except Exception as error:
                failed.append((message, self._explain(error, message, client)))
            handled += 1
            if stopping():
                break
        return handled, failed

    def _pass_over(self, message: Message) -> None:
        logger.warning("consumer %s: no handler for type %r", self._who, message.type)
        if self._unknown == "nack":
            raise _NoHandler(f"no handler for type {message.type!r}")

    def _explain(self, error: Exception, message: Message, client: PgqueClient) -> str:
        if isinstance(error, _NoHandler):
            return str(error)
        if client.conn.broken or client.conn.closed:
            raise PgqueConnectionError(
                f"the connection broke in the handler of message {message.msg_id}: {error}"
            ) from error
        logger.warning(
            "consumer %s: handler failed on message %s", self._who, message.msg_id, exc_info=True
        )
        return f"{type(error).__name__}: {error}"


class _NoHandler(LookupError):
    """There is no handler for a message, which is nacked therefore."""


def _call(handler: Handler, message: Message, client: PgqueClient) -> None:
    with client.conn.transaction():  # a savepoint: what it writes is undone with it alone
        handler.function(message, client)
        if client.conn.info.transaction_status == TransactionStatus.INERROR:
            raise PgqueTransactionAborted(
                "the handler passed over an error of the database, which undid what it wrote"
            )
