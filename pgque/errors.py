"""The errors of pgque, and the mapping from PostgreSQL's errors to them.

::

    Exception
    └── PgqueError                      base of all; `sqlstate` is set if the server raised it
        ├── PgqueBatchNotFound          the batch is not open: finished, taken over or unknown
        ├── PgqueBatchOpen              a consumer or member must finish its batch first
        ├── PgqueCanceled               a server timeout or a cancel request ended the statement
        ├── PgqueChangeDenied           a capture trigger with `deny` refused a change
        ├── PgqueConnectionError        no connection, or it broke: connect again
        ├── PgqueConstraintViolated     a constraint of a table refused a write
        ├── PgqueConsumerNotFound       the consumer is not subscribed to the queue
        ├── PgqueCooperativeConsumer    a plain call on a name of a cooperative group
        ├── PgqueDeadLetterNotFound     no dead letter with that id
        ├── PgqueInsertDisallowed       the queue does not accept events at present
        ├── PgqueInvalidArgument        also a ValueError
        │   └── PgquePayloadError       a payload that cannot be sent or decoded
        │       └── PgqueUnreadableEvent  an event that is not valid in the database's encoding
        ├── PgqueIsolationError         needs a READ COMMITTED transaction
        ├── PgqueMessageNotFound        the message is not in that batch
        ├── PgqueNormalConsumer         a cooperative call on a normal consumer
        ├── PgqueOutOfResources         the server is out of disk, memory or locks
        ├── PgquePermissionDenied       a role of pgque is missing
        ├── PgqueQueueInUse             consumers are still attached to the queue
        ├── PgqueQueueNotFound          no queue of that name
        ├── PgqueReadOnly               the server or the session is read-only
        ├── PgqueRetryable              roll back and run the transaction again
        │   └── PgqueBusy               another transaction holds the batch or lock
        ├── PgqueSchemaMissing          `pgque install` has not run in this database
        ├── PgqueSchemaNewer            the schema is newer than this client
        ├── PgqueServerTooOld           PostgreSQL 14 or later is needed
        ├── PgqueTickNotFound           no such tick in the retained history
        ├── PgqueTickerStopped          the queue is paused or has an external ticker
        └── PgqueTransactionAborted     an earlier statement failed: roll back first

If psycopg raised an error, it is the `__cause__`. Errors are mapped by SQLSTATE, never by text.
"""

# ruff: noqa: N818 (the names describe the fault; users catch them by name)

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Final

import psycopg

from pgque._base_errors import PgqueError as PgqueError
from pgque._base_errors import PgqueInvalidArgument as PgqueInvalidArgument
from pgque._base_errors import PgquePayloadError as PgquePayloadError

if TYPE_CHECKING:
    from pgque.message import Message


class PgqueBatchNotFound(PgqueError):
    """The batch is not open: it was finished or taken over, or never existed (PQ003)."""


class PgqueBatchOpen(PgqueError):
    """The consumer or subconsumer holds a batch and must finish it first (PQ012)."""


class PgqueCanceled(PgqueError):
    """The server ended the statement before it was done (57014)."""

    advice = (
        "A statement_timeout was reached, or another session canceled the statement. "
        "pg_stat_activity shows which sessions hold locks."
    )


class PgqueChangeDenied(PgqueError):
    """A capture trigger with the argument `deny` refused a change to its table (PQ014)."""


class PgqueConnectionError(PgqueError):
    """There is no connection, or it broke: connect again.

    If the connection broke during a commit, the outcome of that commit is unknown.
    """

    advice = "Check that the server runs and that the DSN is right, then connect again."


class PgqueConstraintViolated(PgqueError):
    """A constraint refused a write, possibly only at the commit (class 23).

    The constraint belongs to one of the application's tables: pgque does not violate its own.
    """


class PgqueConsumerNotFound(PgqueError):
    """The consumer is not subscribed to the queue (PQ002)."""


class PgqueCooperativeConsumer(PgqueError):
    """The name belongs to a cooperative group, which has separate calls (PQ007)."""


class PgqueDeadLetterNotFound(PgqueError):
    """No dead letter has that id (PQ005)."""


class PgqueInsertDisallowed(PgqueError):
    """The queue does not accept events at present (PQ006)."""


class PgqueUnreadableEvent(PgquePayloadError):
    """A received event is not valid text in the database's encoding.

    `message` is the message to pass to `nack`; its payload is None.
    """

    def __init__(self, message: str, *, event: Message) -> None:
        super().__init__(message)
        self.message = event


class PgqueIsolationError(PgqueError):
    """Ticks and maintenance need a READ COMMITTED transaction (PQ013)."""


class PgqueMessageNotFound(PgqueError):
    """The message is not in the open batch (PQ004)."""


class PgqueNormalConsumer(PgqueError):
    """The name belongs to a normal consumer, not to a cooperative group (PQ008)."""


class PgqueOutOfResources(PgqueError):
    """The server is out of disk space, memory or room for locks (class 53)."""


class PgquePermissionDenied(PgqueError):
    """The database role lacks a right that the call needs (42501)."""

    advice = (
        "Grant the role of pgque that the call needs: pgque_writer to send, pgque_reader to "
        "consume, pgque_admin to manage queues and tick (grant pgque_writer to <user>). For a "
        "single queue use pgque.grant_queue(role, queue, 'produce' or 'consume'). If the error "
        "names row-level security, it is enabled on a table of pgque: `pgque doctor` shows the "
        "command that fixes it."
    )


class PgqueQueueInUse(PgqueError):
    """The queue cannot be dropped: consumers are still attached (PQ009)."""


class PgqueQueueNotFound(PgqueError):
    """No queue has that name (PQ001)."""


class PgqueReadOnly(PgqueError):
    """The server or the session is read-only (25006)."""

    advice = "Connect to the primary, for example with target_session_attrs=read-write in the DSN."


class PgqueRetryable(PgqueError):
    """Roll back and run this transaction again: the next attempt may well succeed.

    Transactions conflicted (40001, 40P01), or the session lost a prepared statement (26000), for
    example after DISCARD ALL. Outside of a transaction the client repeats a call whose prepared
    statement was lost.
    """

    advice = "Roll back and run the transaction again."


class PgqueBusy(PgqueRetryable):
    """Another transaction holds the consumer's batch, or another lock (55P03)."""


class PgqueSchemaMissing(PgqueError):
    """The schema pgque, or a part that this client needs, is missing in the database."""

    advice = "Run `pgque install` on this database: it creates the schema or brings it up to date."


class PgqueSchemaNewer(PgqueError):
    """The schema is newer than this client: upgrade the Python package pgque."""


class PgqueServerTooOld(PgqueError):
    """The server is older than PostgreSQL 14."""


class PgqueTickNotFound(PgqueError):
    """No such tick exists, or it is older than the retained history (PQ011)."""


class PgqueTickerStopped(PgqueError):
    """The queue's ticker is paused, or the queue has an external ticker (PQ010)."""


class PgqueTransactionAborted(PgqueError):
    """An earlier statement of this transaction failed (25P02)."""

    advice = "Roll back, or roll back to a savepoint, before the next call on this connection."


# Keys are whole SQLSTATEs or prefixes of them; the longest match wins.
_BY_SQLSTATE: Final[dict[str, type[PgqueError]]] = {
    "08": PgqueConnectionError,
    "0L": PgqueInvalidArgument,
    "0P": PgqueInvalidArgument,
    "22": PgqueInvalidArgument,
    "22021": PgquePayloadError,
    "22P05": PgquePayloadError,
    "23": PgqueConstraintViolated,
    "25006": PgqueReadOnly,
    "25P02": PgqueTransactionAborted,
    "25P03": PgqueConnectionError,
    "25P04": PgqueConnectionError,
    "26000": PgqueRetryable,
    "28": PgqueConnectionError,
    "3D000": PgqueConnectionError,
    "40001": PgqueRetryable,
    "40P01": PgqueRetryable,
    "42501": PgquePermissionDenied,
    "42846": PgqueInvalidArgument,
    "42P05": PgqueRetryable,
    "53": PgqueOutOfResources,
    "53300": PgqueConnectionError,
    "54": PgqueInvalidArgument,
    "55P03": PgqueBusy,
    "57014": PgqueCanceled,
    "57P0": PgqueConnectionError,
    "72000": PgqueRetryable,
    "PQ001": PgqueQueueNotFound,
    "PQ002": PgqueConsumerNotFound,
    "PQ003": PgqueBatchNotFound,
    "PQ004": PgqueMessageNotFound,
    "PQ005": PgqueDeadLetterNotFound,
    "PQ006": PgqueInsertDisallowed,
    "PQ007": PgqueCooperativeConsumer,
    "PQ008": PgqueNormalConsumer,
    "PQ009": PgqueQueueInUse,
    "PQ010": PgqueTickerStopped,
    "PQ011": PgqueTickNotFound,
    "PQ012": PgqueBatchOpen,
    "PQ013": PgqueIsolationError,
    "PQ014": PgqueChangeDenied,
    "PQ015": PgqueSchemaNewer,
}

# Missing schema, type, function or table. A user's trigger may raise these too, so they mean
# PgqueSchemaMissing only if the message names an object of pgque.
_MISSING_OBJECT: Final = frozenset({"3F000", "42704", "42883", "42P01"})

# An older schema lacks a column, or defines a function differently than this client expects. These
# mean PgqueSchemaMissing only in the client's own statement, not inside a function or trigger.
_UNFIT_OBJECT: Final = frozenset({"42703", "42725", "42809"})

# Errors that psycopg raises itself, without a SQLSTATE: a lost connection, or an unsendable value.
_BY_PSYCOPG_CLASS: Final[tuple[tuple[type[psycopg.Error], type[PgqueError]], ...]] = (
    (psycopg.OperationalError, PgqueConnectionError),
    (psycopg.InterfaceError, PgqueConnectionError),
    (psycopg.DataError, PgqueInvalidArgument),
    (psycopg.ProgrammingError, PgqueInvalidArgument),
)


def from_psycopg(error: psycopg.Error) -> PgqueError:
    """Return the pgque error for a psycopg error. The caller raises it from the latter."""
    kind = _class_of(error)
    diagnosis = error.diag
    text = diagnosis.message_primary or str(error).strip() or type(error).__name__
    if diagnosis.message_detail:
        text += f" ({diagnosis.message_detail})"
    advice = kind.advice or diagnosis.message_hint
    return kind(f"{text}\n{advice}" if advice else text, sqlstate=error.sqlstate)


def _class_of(error: psycopg.Error) -> type[PgqueError]:
    state = error.sqlstate
    if state is None:
        for kind, ours in _BY_PSYCOPG_CLASS:
            if isinstance(error, kind):
                return ours
        return PgqueError
    if state in _MISSING_OBJECT:
        is_ours = "pgque" in (error.diag.message_primary or "")
        return PgqueSchemaMissing if is_ours else PgqueError
    if state in _UNFIT_OBJECT:
        return PgqueError if error.diag.context else PgqueSchemaMissing
    if is_lost_statement(error):
        return PgqueRetryable
    for length in (5, 4, 2):
        if found := _BY_SQLSTATE.get(state[:length]):
            return found
    return PgqueError


def is_lost_statement(error: psycopg.Error) -> bool:
    """Tell whether the server's prepared statements differ from those the client assumes.

    The statement is gone (26000), its name is taken (42P05), or its result type changed (0A000).
    """
    if error.sqlstate == "0A000":
        return error.diag.source_function == "RevalidateCachedQuery"
    return error.sqlstate in ("26000", "42P05")


class _Mapping:
    """Turns errors of psycopg into errors of pgque. Stateless, so one instance serves all."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            return
        if isinstance(error, psycopg.Error):
            raise from_psycopg(error) from error
        if isinstance(error, UnicodeEncodeError):
            raise PgqueInvalidArgument(
                f"an argument cannot be written in the connection's encoding: {error}\n"
                "Connect with client_encoding=utf8."
            ) from error


mapped: Final = _Mapping()
"""``with mapped:`` around calls of psycopg maps their errors. It costs next to nothing."""
