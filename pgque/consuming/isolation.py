"""Isolation: changes that a handler makes to the consumer's connection end with its message.

Each message whose handler takes a client is handled in a savepoint. When the handler has returned,
one statement puts the settings back, checks deferred constraints and releases the savepoint. When
it has failed, another one undoes it. If neither is possible, the handler has ended the transaction
in which the messages before it were handled too: that is a `TransactionLost`.
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

# Settings first, so that constraints are checked as COMMIT will check them. The check is undone:
# that alone puts SET CONSTRAINTS back, so that the next handler may break a constraint for a while.
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


class TransactionLost(Exception):  # noqa: N818 (it says what happened)
    """The transaction of a batch has ended, or can no longer be used.

    ``message``    the message whose handler was at work; None if that is unknown
    ``is_certain`` whether that handler has done it: a connection may also break by itself
    ``handled``    the messages of the transaction whose handlers were called before
    ``failed``     those of them that must be nacked, and why
    """

    def __init__(self, text: str, message: Message | None = None, *, is_certain: bool) -> None:
        super().__init__(text)
        self.message = message
        self.is_certain = is_certain
        self.handled: list[Message] = []
        self.failed: list[tuple[Message, str]] = []


class HandlerBrokeRulesError(RuntimeError):
    """A handler did to the consumer's connection what it must not do; nothing was lost."""


class ConsumerConnection(OwnConnection):
    """A consumer's connection: while a handler has it, it cannot be committed or closed."""

    lent = False
    """Whether a handler is at work on it."""

    refused: str | None = None
    """What the handler has tried, if its call was refused."""

    def commit(self) -> None:
        """Commit; refused while a handler is at work."""
        self._refuse("commit")
        super().commit()

    def rollback(self) -> None:
        """Roll back; refused while a handler is at work."""
        self._refuse("rollback")
        super().rollback()

    def close(self) -> None:
        """Close; refused while a handler is at work."""
        self._refuse("close")
        super().close()

    def _refuse(self, call: str) -> None:
        if self.lent:
            self.refused = f"the handler called {call}() on the consumer's connection"
            raise psycopg.ProgrammingError(
                f"{call}() is refused while a handler works on the consumer's connection: the "
                "consumer commits its writes with the ack, and undoes them if the handler raises"
            )


class HandlerClient(PgqueClient):
    """The client that handlers get: it leaves the ack of the batch to the consumer."""

    batch_id: int | None = None
    """The batch that is being handled."""

    def ack(self, batch_id: int) -> int:
        """As `PgqueClient.ack`, for other batches than the consumer's own.

        :raises PgqueInvalidArgument: for the batch that is being handled.
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
        """Id of the transaction, once a handler has got the client in it."""

    def begin(self, batch_id: int) -> None:
        """Note that another batch, in another transaction, is handled from now on."""
        self.xid = None
        if isinstance(self.client, HandlerClient):
            self.client.batch_id = batch_id

    def call(self, handler: Handler, message: Message) -> None:
        """Call a handler; undo what it wrote if it fails.

        :raises TransactionLost: if that is impossible. Everything else is this message's failure.
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
        """Raise if the handler left the transaction as no handler may leave it."""
        if self._conn.pgconn.transaction_status == TransactionStatus.INERROR:
            raise PgqueTransactionAborted(
                "the handler passed over an error of the database, which undid what it wrote"
            )
        self._need_transaction(message, None)

    def _undo(self, message: Message, error: BaseException) -> None:
        self._need_transaction(message, error)
        try:
            self._run(_UNDO)
        except psycopg.Error as second:
            self._need_transaction(message, second)
            raise _lost("ended the consumer's transaction or savepoint", message, error) from error
        # As psycopg does after a rollback: types that a statement was prepared for may be gone.
        prepared = getattr(self._conn, "_prepared", None)
        if prepared is not None:
            prepared.clear()

    def _need_transaction(self, message: Message, error: BaseException | None) -> None:
        """Raise if there is no transaction in which the savepoint can be ended."""
        status = self._conn.pgconn.transaction_status
        if status == TransactionStatus.UNKNOWN:
            text = "the connection broke while a handler had it" + _because(error)
            raise TransactionLost(text, message, is_certain=False) from error
        if status == TransactionStatus.IDLE:
            raise _lost("ended the consumer's transaction", message, error) from error
        if self._conn.pgconn.pipeline_status != PipelineStatus.OFF:
            raise _lost("left a pipeline() block open", message, error) from error
        if is_in_use(self._conn):
            raise _lost("left a statement or a COPY running", message, error) from error
        # psycopg counts its blocks, and refuses to commit while one is open.
        if getattr(self._conn, "_num_transactions", 0):
            raise _lost("left a transaction() block open", message, error) from error

    def _run(self, statements: bytes) -> None:
        new_cursor(self._conn).execute(statements, prepare=False)

    def _put_back(self) -> None:
        """Put the attributes of the connection back that a handler may have changed."""
        conn = self._conn
        for name, value in self._attributes.items():
            if getattr(conn, name) is not value:
                setattr(conn, name, value)


def is_in_use(conn: psycopg.Connection[Any]) -> bool:
    """Tell whether a statement or a COPY is running: another one would wait for ever."""
    return conn.lock.locked() or conn.pgconn.transaction_status == TransactionStatus.ACTIVE


def _lost(what: str, message: Message, error: BaseException | None) -> TransactionLost:
    return TransactionLost(f"the handler {what}{_because(error)}", message, is_certain=True)


def _because(error: BaseException | None) -> str:
    return "" if error is None else f" ({describe(error)})"
