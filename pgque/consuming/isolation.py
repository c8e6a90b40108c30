"""Isolation: a handler's changes to the state of the consumer's connection end with its message.

Each message whose handler takes a client is handled in a savepoint. After a handler returns, the
consumer resets the session's settings, checks deferred constraints and releases the savepoint, in
one round trip. After a handler fails, the consumer rolls back to the savepoint. If neither is
possible, the handler has ended the transaction, in which earlier messages were handled too. That
raises `TransactionLost`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus

from pgque.client import PgqueClient
from pgque.consuming.handlers import Handler, refuse_unrun
from pgque.errors import PgqueInvalidArgument, PgqueTransactionAborted
from pgque.wire.calls import new_cursor, settings_of_session
from pgque.wire.connections import OwnConnection
from pgque.wire.failures import describe

if TYPE_CHECKING:
    from pgque.message import Message

_ENTER: Final = b"savepoint pgque_message"
_ENTER_FIRST: Final = _ENTER + b"; select pg_current_xact_id()::text"
_UNDO: Final = b"rollback to savepoint pgque_message; release savepoint pgque_message"

# Settings are reset first, so that constraints are checked under the same settings as at COMMIT.
# Only a rollback resets SET CONSTRAINTS, so the check has its own savepoint. The next handler may
# then violate a deferred constraint temporarily again.
_LEAVE: Final = (
    b"reset session authorization; reset role; reset all; %s"
    b"savepoint pgque_check; set constraints all immediate; rollback to savepoint pgque_check; "
    b"release savepoint pgque_message"
)

_ATTRIBUTES: Final = (
    "row_factory",
    "cursor_factory",
    "server_cursor_factory",
    "prepare_threshold",
    "prepared_max",
)


class TransactionLost(Exception):  # noqa: N818 (the name describes the event)
    """The transaction of a batch has ended, or can no longer be used.

    ``message``    the message whose handler was running; None if unknown
    ``is_certain`` whether that handler is the cause; a connection may also break without it
    ``handled``    the messages handled before it in the same transaction
    ``failed``     those of them that must be nacked, and why
    """

    def __init__(self, text: str, message: Message | None = None, *, is_certain: bool) -> None:
        super().__init__(text)
        self.message = message
        self.is_certain = is_certain
        self.handled: list[Message] = []
        self.failed: list[tuple[Message, str]] = []


class HandlerBrokeRulesError(RuntimeError):
    """A handler made a forbidden call on the consumer's connection; the transaction is intact."""


class ConsumerConnection(OwnConnection):
    """A consumer's connection, which a handler cannot commit, roll back or close."""

    lent = False
    """Whether a handler is using it."""

    refused: str | None = None
    """The handler's call that was refused, if any."""

    def commit(self) -> None:
        """Commit; refused while a handler is running."""
        self._refuse("commit")
        super().commit()

    def rollback(self) -> None:
        """Roll back; refused while a handler is running."""
        self._refuse("rollback")
        super().rollback()

    def close(self) -> None:
        """Close; refused while a handler is running."""
        self._refuse("close")
        super().close()

    def _refuse(self, call: str) -> None:
        if self.lent:
            self.refused = f"the handler called {call}() on the consumer's connection"
            raise psycopg.ProgrammingError(
                f"{call}() is refused while a handler uses the consumer's connection: the consumer "
                "commits its writes with the ack, and rolls them back if the handler raises"
            )


class HandlerClient(PgqueClient):
    """The client that handlers get: it refuses to ack the consumer's batch."""

    batch_id: int | None = None
    """The current batch."""

    def ack(self, batch_id: int) -> int:
        """Same as `PgqueClient.ack`, for batches other than the consumer's own.

        :raises PgqueInvalidArgument: for the consumer's current batch.
        """
        if batch_id == self.batch_id:
            raise PgqueInvalidArgument(
                f"the consumer acks batch {batch_id} itself, after its last handler: return to "
                "ack a message, raise to nack it"
            )
        return super().ack(batch_id)


class Isolation:
    """Calls handlers with a client, each in a savepoint of the batch's transaction.

    :param client: on the consumer's connection.
    """

    def __init__(self, client: PgqueClient) -> None:
        self.client = client
        self._conn = client.conn
        self._leave = _LEAVE % settings_of_session(client.conn)
        self._attributes = {name: getattr(client.conn, name) for name in _ATTRIBUTES}
        self.xid: str | None = None
        """Id of the transaction, set when the first handler that takes a client runs in it."""

    def begin(self, batch_id: int) -> None:
        """Start another batch, in another transaction."""
        self.xid = None
        if isinstance(self.client, HandlerClient):
            self.client.batch_id = batch_id

    def call(self, handler: Handler, message: Message) -> None:
        """Call a handler; roll back its writes if it fails.

        :raises TransactionLost: if that is impossible. Any other exception is a failure of this
            message alone.
        """
        self._enter()
        try:
            result = self._lend(handler, message)
            if result is not None:
                refuse_unrun(result, handler)
            self._check(message)
            self._run(self._leave)
        except (TransactionLost, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._undo(message, error)
            raise
        finally:
            self._put_back()

    def _enter(self) -> None:
        try:
            if self.xid is not None:
                self._run(_ENTER)
                return
            cursor = new_cursor(self._conn).execute(_ENTER_FIRST, prepare=False)
            cursor.nextset()
            [self.xid] = cursor.fetchone() or [None]
        except psycopg.Error as error:
            # This handler has not run yet: an earlier one broke the connection, or the network did.
            raise TransactionLost(str(error), is_certain=False) from error

    def _lend(self, handler: Handler, message: Message) -> Any:
        conn = self._conn
        if not isinstance(conn, ConsumerConnection):
            return handler.function(message, self.client)
        conn.refused = None
        conn.lent = True
        try:
            result = handler.function(message, self.client)
        finally:
            conn.lent = False
        if conn.refused is not None:
            raise HandlerBrokeRulesError(f"{conn.refused} and hid the error")
        return result

    def _check(self, message: Message) -> None:
        """Raise if the handler left the transaction in a state in which it cannot continue."""
        if self._conn.pgconn.transaction_status == TransactionStatus.INERROR:
            raise PgqueTransactionAborted(
                "the handler ignored an error of the database, which rolled back its writes"
            )
        self._need_transaction(message, None)

    def _undo(self, message: Message, error: BaseException) -> None:
        self._need_transaction(message, error)
        try:
            self._run(_UNDO)
        except psycopg.Error as second:
            self._need_transaction(message, second)
            raise _lost("ended the consumer's transaction or savepoint", message, error) from error
        # psycopg does the same after a rollback: types used by prepared statements may be gone.
        prepared = getattr(self._conn, "_prepared", None)
        if prepared is not None:
            prepared.clear()

    def _need_transaction(self, message: Message, error: BaseException | None) -> None:
        """Raise if the savepoint can no longer be ended."""
        status = self._conn.pgconn.transaction_status
        if status == TransactionStatus.UNKNOWN:
            text = "the connection broke while a handler used it" + _because(error)
            raise TransactionLost(text, message, is_certain=False) from error
        if status == TransactionStatus.IDLE:
            raise _lost("ended the consumer's transaction", message, error) from error
        if self._conn.pgconn.pipeline_status != PipelineStatus.OFF:
            raise _lost("left a pipeline() block open", message, error) from error
        if is_in_use(self._conn):
            raise _lost("left a statement or a COPY running", message, error) from error
        # psycopg counts open transaction() blocks, and refuses to commit inside one.
        if getattr(self._conn, "_num_transactions", 0):
            raise _lost("left a transaction() block open", message, error) from error

    def _run(self, statements: bytes) -> None:
        new_cursor(self._conn).execute(statements, prepare=False)

    def _put_back(self) -> None:
        """Restore the connection's attributes that a handler may have changed."""
        conn = self._conn
        for name, value in self._attributes.items():
            if getattr(conn, name) is not value:
                setattr(conn, name, value)


def is_in_use(conn: psycopg.Connection[Any]) -> bool:
    """Tell whether a statement or a COPY is running: another one would wait forever."""
    return conn.lock.locked() or conn.pgconn.transaction_status == TransactionStatus.ACTIVE


def _lost(what: str, message: Message, error: BaseException | None) -> TransactionLost:
    return TransactionLost(f"the handler {what}{_because(error)}", message, is_certain=True)


def _because(error: BaseException | None) -> str:
    return "" if error is None else f" ({describe(error)})"
