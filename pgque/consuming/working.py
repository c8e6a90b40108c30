"""Working: a batch is handled and acked, or lost and handled again with more caution.

Invariant: handlers' writes are committed with the ack of their messages. If a handler commits the
transaction itself, the messages before it are acked at once, and only its own message is nacked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from pgque.consuming.batches import Batches
from pgque.consuming.caution import Caution, Owed
from pgque.consuming.handling import Handling
from pgque.consuming.isolation import Isolation, TransactionLost, is_in_use
from pgque.errors import (
    PgqueBatchNotFound,
    PgqueBusy,
    PgqueError,
    PgqueInvalidArgument,
    PgqueRetryable,
    mapped,
)
from pgque.logs import Fields
from pgque.message import Message
from pgque.observers import Watch
from pgque.wire.calls import new_cursor
from pgque.wire.receiving import Unreadable

logger = logging.getLogger("pgque.consumer")


class BatchLost(PgqueRetryable):
    """A batch was rolled back, and will be received again on another connection.

    ``fields`` the log fields of the batch, and of the message if it is known
    """

    def __init__(self, text: str, fields: Fields) -> None:
        super().__init__(text)
        self.fields = fields


@dataclass
class Work:
    """One consumer's work on one connection.

    ``who``, ``fields``  the consumer's name and fields in the log
    ``batches``          receives and acks on the connection
    ``isolation``        calls handlers with a client on the connection
    ``handling``         calls the handlers
    ``caution``          the consumer's memory, kept from one connection to the next
    ``retry_after``      delay until a failed message is delivered again
    ``stopping``         tells whether the consumer should stop
    ``watch``            notifies the observers; None if there are none
    ``acked``            number of batches, or parts of them, acked so far
    """

    who: str
    fields: Fields
    batches: Batches
    isolation: Isolation
    handling: Handling
    caution: Caution
    retry_after: timedelta
    stopping: Callable[[], bool]
    watch: Watch | None
    acked: int = 0

    def next(self) -> list[Message]:
        """Return the next batch; an empty list if nothing is ready.

        First acks the messages of a transaction that a handler committed without the ack.
        """
        self._pay()
        return self.batches.next()

    def handle(self, messages: list[Message]) -> list[Message]:
        """Handle a batch and ack it; return the next one.

        :raises BatchLost: if the batch must be handled again, on another connection.
        """
        if self.batches.reads_raw:
            self._convict_unreadable(messages)
        part = self.caution.part_of(messages)
        try:
            following = self._handle(part, is_whole=len(part) == len(messages))
        except TransactionLost as lost:
            raise self._lost(part, lost) from lost
        except (PgqueBusy, BatchLost):
            raise
        except PgqueError as error:
            self.batches.abandon_quietly()
            raise self._lost(part, TransactionLost(str(error), is_certain=False)) from error
        if following is None:
            return [] if self.stopping() else self.batches.next()
        return following

    def _convict_unreadable(self, messages: list[Message]) -> None:
        for message in messages:
            if isinstance(message, Unreadable):
                self.caution.convict(message, message.reason)

    def _handle(self, part: list[Message], *, is_whole: bool) -> list[Message] | None:
        """Handle a part of a batch and ack it; return the next batch, None if not received yet."""
        batch_id = part[0].batch_id
        handled, failed = self.handling.call(
            self.isolation, self.batches, part, self.caution, self.watch
        )
        try:
            if failed:
                # After all handlers, because a nack locks the member until the commit.
                self.batches.begin()
                self._nack(batch_id, failed)
            if handled < len(part) or not is_whole or self.stopping():
                self.batches.finish(batch_id, part[:handled])
                self._done(part[:handled])
                return None
            following = self.batches.finish_for_next(batch_id)
        except PgqueBatchNotFound as error:
            return self._not_open(part, error)
        self._done(part)
        return following

    def _done(self, part: list[Message]) -> None:
        self.acked += 1
        self.caution.done(part)

    def _not_open(self, part: list[Message], error: PgqueError) -> list[Message]:
        """Continue after a batch that is not open any more: taken over, or ended by a handler."""
        self.batches.abandon()
        batch_id = part[0].batch_id
        following: list[Message] = []
        if not self.batches.locks:
            following = [] if self.stopping() else self.batches.next()
        if self.batches.locks or (following and following[0].batch_id == batch_id):
            text = f"a handler ended batch {batch_id} itself ({error})"
            raise self._lost(part, TransactionLost(text, is_certain=False)) from error
        fields = self.fields
        logger.warning(
            "consumer %s: batch %s was taken over; its handlers' writes are rolled back",
            self.who,
            batch_id,
            extra=fields | Fields(batch_id=batch_id),
        )
        return following

    def _nack(self, batch_id: int, failed: list[tuple[Message, str]]) -> None:
        refused, reasons = zip(*failed, strict=True)
        self.isolation.client.nack_many(batch_id, refused, self.retry_after, reasons)

    # After a loss

    def _lost(self, part: list[Message], lost: TransactionLost) -> BatchLost:
        """Remember the loss, and return the exception to raise."""
        message = lost.message
        reason = str(lost)
        batch_id = part[0].batch_id
        fields = Fields(batch_id=batch_id)
        if message is None and len(part) == 1:
            message = part[0]
        if message is not None:
            fields |= Fields(
                msg_id=message.msg_id, type=message.type, attempt=message.retry_count + 1
            )
        if lost.message is not None and self.isolation.xid is not None:
            failed = [*lost.failed, (lost.message, reason)]
            handled = [*lost.handled, lost.message]
            self.caution.owed = Owed(self.isolation.xid, batch_id, handled, failed)
        if lost.is_certain and message is not None:
            self.caution.convict(message, reason)
            then = f"message {message.msg_id} is nacked"
        elif self.caution.suspect(part, message, reason):
            assert message is not None
            then = f"message {message.msg_id} caused it again and is nacked"
        elif message is not None:
            then = f"message {message.msg_id} is handled again alone"
        else:
            then = f"its {len(part)} messages are handled again in halves"
        self._pay_at_once()
        return BatchLost(f"batch {batch_id} was rolled back: {lost}; {then}", fields)

    def _pay_at_once(self) -> None:
        """Ack a handler's committed messages before another process gets them, if possible."""
        conn = self.isolation.client.conn
        if self.caution.owed is None or is_in_use(conn):
            return
        try:
            with mapped:
                new_cursor(conn).execute("rollback", prepare=False)
            self._pay()
        except PgqueError:
            fields = self.fields
            logger.debug(
                "consumer %s: the missing ack is tried again on the next connection",
                self.who,
                exc_info=True,
                extra=fields,
            )

    def _pay(self) -> None:
        owed = self.caution.owed
        if owed is None:
            return
        outcome = self._outcome(owed.xid)
        if outcome == "in progress":
            raise PgqueRetryable(
                f"the transaction that handled batch {owed.batch_id} has not ended yet"
            )
        if outcome == "committed":
            self._ack_committed(owed)
        self.caution.owed = None

    def _ack_committed(self, owed: Owed) -> None:
        message, reason = owed.failed[-1]
        fields = self.fields
        logger.warning(
            "consumer %s: the handler of message %s committed the consumer's transaction; "
            "the %d messages before it are acked now",
            self.who,
            message.msg_id,
            len(owed.handled) - 1,
            extra=fields | Fields(batch_id=owed.batch_id, msg_id=message.msg_id, error=reason),
        )
        try:
            self.batches.begin()
            self._nack(owed.batch_id, owed.failed)
            self.batches.finish(owed.batch_id, owed.handled)
        except PgqueBatchNotFound:
            self.batches.abandon()  # another process was faster
        self.caution.done(owed.handled)

    def _outcome(self, xid: str) -> str | None:
        """Return how a transaction ended; None if this server does not know it."""
        query = "select pg_xact_status(%s::text::xid8)"
        try:
            with mapped:
                cursor = new_cursor(self.isolation.client.conn)
                row = cursor.execute(query, (xid,), prepare=False).fetchone()
        except PgqueInvalidArgument:  # a future xid: this server replaced a lost one
            return None
        return None if row is None else row[0]
