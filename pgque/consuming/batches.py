"""A consumer's batches. The ack of one and the call for the next share a round trip.

Invariant: nothing of a batch is committed unless its ack succeeded. `pgque.ack_or_fail` raises if
the batch is no longer open, and the server then skips the COMMIT later in the pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

from pgque.errors import PgqueError, mapped
from pgque.message import Message
from pgque.wire.calls import is_converted, new_cursor
from pgque.wire.receiving import read_leniently

if TYPE_CHECKING:
    from pgque.wire.receiving import Rows


class Batches:
    """The batches of one consumer, one after the other, on an autocommit connection.

    :param conn: the consumer's connection; this class begins and ends its transactions.
    :param ask: sends the call for the next batch.
    :param lock: whether a batch is received in the transaction in which it is handled, which locks
        out other processes of this name. Otherwise it is received in a separate transaction.
    :param pipelined: whether statements may be pipelined.
    """

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        ask: Callable[[], Rows],
        *,
        lock: bool,
        pipelined: bool,
    ) -> None:
        self._conn = conn
        self._ask = ask
        self.locks = lock
        self._pipelined = pipelined and psycopg.Pipeline.is_supported()

    def next(self) -> list[Message]:
        """Return the next batch; an empty list if nothing is ready."""
        with mapped:
            with self._together():
                rows = self._start()
            return self._opened(rows)

    def begin(self) -> None:
        """Begin the transaction in which the batch is handled, if it has not begun."""
        if self._conn.pgconn.transaction_status == TransactionStatus.IDLE:
            with mapped:
                self._begin()

    def finish(self, batch_id: int, handled: Sequence[Message]) -> None:
        """Ack the handled messages of a batch, leave the rest, and commit.

        :raises PgqueBatchNotFound: if the batch is no longer open. Then call `abandon`, which rolls
            back all its writes.
        """
        with mapped:
            self.begin()
            ids = [message.msg_id for message in handled]
            call = "select pgque.ack_part(%s::bigint, %b::bigint[])"
            new_cursor(self._conn).execute(call, (batch_id, ids))
            self._conn.commit()

    def finish_for_next(self, batch_id: int) -> list[Message]:
        """Ack a batch, commit its transaction, and return the next batch.

        :raises PgqueBatchNotFound: see `finish`.
        """
        with mapped:
            with self._together():
                self.begin()
                new_cursor(self._conn).execute("select pgque.ack_or_fail(%s::bigint)", (batch_id,))
                # The next transaction begins at once, also READ COMMITTED.
                self._conn.execute("commit and chain" if self.locks else "commit", prepare=False)
                rows = self._ask()
            return self._opened(rows)

    @property
    def reads_raw(self) -> bool:
        """Whether the messages may include unreadable ones."""
        return not is_converted(self._conn)

    def abandon_quietly(self) -> None:
        """Roll back the open transaction; ignore errors."""
        with suppress(PgqueError):
            self.abandon()

    def abandon(self) -> None:
        """Roll back the open transaction, if any."""
        with mapped:
            self._conn.rollback()

    def _together(self) -> AbstractContextManager[object]:
        return self._conn.pipeline() if self._pipelined else nullcontext()

    def _begin(self) -> None:
        self._conn.execute("begin isolation level read committed", prepare=False)

    def _start(self) -> Rows:
        if self.locks:
            self._begin()
        return self._ask()

    def _opened(self, rows: Rows) -> list[Message]:
        messages = read_leniently(rows)
        if not messages:
            self._conn.commit()  # a waiting consumer must not hold locks
        return messages
