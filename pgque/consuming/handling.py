"""Handling: calls the handler of each message of a batch, one after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from pgque.consuming.handlers import Handlers, refuse_unrun
from pgque.consuming.isolation import TransactionLost
from pgque.errors import PgqueError
from pgque.logs import Fields
from pgque.message import Message
from pgque.wire.failures import describe, is_loggable

if TYPE_CHECKING:
    from pgque.consuming.batches import Batches
    from pgque.consuming.caution import Caution
    from pgque.consuming.isolation import Isolation
    from pgque.observers import Watch

logger = logging.getLogger("pgque.consumer")


class Handling:
    """Calls the handlers of one consumer.

    :param who: the consumer's name in the log.
    :param fields: the fields of all its log records.
    :param handlers: the functions to call.
    :param unknown: ``"nack"`` or ``"ack"``, for messages without a handler.
    :param stopping: tells whether to stop after the current message.
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
        isolation: Isolation,
        batches: Batches,
        messages: Sequence[Message],
        caution: Caution,
        watch: Watch | None = None,
    ) -> tuple[int, list[tuple[Message, str]]]:
        """Call the handler of each message, until the consumer stops.

        Returns the number of handled messages, and the failed messages with their reasons.

        :param caution: knows the messages whose handlers must not be called.
        :param watch: notifies the observers; None if there are none.
        :raises TransactionLost: if the transaction of the batch is gone. The exception lists the
            messages handled before it.
        """
        failed: list[tuple[Message, str]] = []
        find = self._handlers.find
        stopping = self._stopping
        handled = 0
        began = time.perf_counter()
        is_careful = caution.convicted
        isolation.begin(messages[0].batch_id)
        if watch is not None:
            watch.receive(messages)
        for message in messages:
            handler = find(message.type)
            if watch is not None:
                watch.begin(message)
            try:
                if is_careful and (reason := caution.verdict(message)) is not None:
                    raise _ConvictedError(reason)
                if handler is None:
                    self._pass_over(message)
                elif handler.takes_client:
                    _begin(batches)
                    isolation.call(handler, message)
                else:
                    result = handler.function(message)
                    if result is not None:
                        refuse_unrun(result, handler)
            except BaseException as error:
                try:
                    failed.append((message, self._explain(error, message)))
                except TransactionLost as lost:
                    lost.handled = list(messages[:handled])
                    lost.failed = failed
                    raise
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

    def _explain(self, error: BaseException, message: Message) -> str:
        """Return why a message failed; raise errors that concern more than this message."""
        if isinstance(error, (TransactionLost, KeyboardInterrupt)):
            raise error
        if not isinstance(error, Exception) and self._stopping():
            raise error  # such as the SystemExit of the application's signal handler
        if isinstance(error, _NoHandlerError):
            return str(error)
        is_convicted = isinstance(error, _ConvictedError)
        reason = str(error) if is_convicted else describe(error)
        fields = self._fields_of(message) | Fields(error=reason)
        what = (self._who, message.msg_id)
        if not is_convicted and is_loggable(error):
            logger.warning(
                "consumer %s: handler failed on message %s", *what, exc_info=error, extra=fields
            )
        else:
            logger.warning(
                "consumer %s: handler failed on message %s: %s", *what, reason, extra=fields
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
    """A message has no handler, so it is nacked."""


class _ConvictedError(RuntimeError):
    """A message's handler broke the transaction last time, so it is not called again."""


def _begin(batches: Batches) -> None:
    try:
        batches.begin()
    except PgqueError as error:  # raised before the handler, so not the message's fault
        raise TransactionLost(str(error), is_certain=False) from error
