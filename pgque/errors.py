"""What pgque raises, and how an error of PostgreSQL becomes one of these.

::

    Exception
    └── PgqueError                      everything below; `sqlstate` where the server spoke
        ├── PgqueBatchNotFound          the batch is not open: finished, taken over or never there
        ├── PgqueBatchOpen              a consumer or member holds a batch and must finish it first
        ├── PgqueCanceled               a timeout of the server, or somebody, ended the statement
        ├── PgqueChangeDenied           a capture trigger with `deny` refused a change
        ├── PgqueConnectionError        no connection, or it broke: connect again
        ├── PgqueConstraintViolated     a constraint of a table refused what was written
        ├── PgqueConsumerNotFound       the consumer is not subscribed to the queue
        ├── PgqueCooperativeConsumer    a plain call on a name of a cooperative group
        ├── PgqueDeadLetterNotFound     no dead letter with that id
        ├── PgqueInsertDisallowed       the queue takes no events at present
        ├── PgqueInvalidArgument        also a ValueError
        │   └── PgquePayloadError       a payload that cannot be sent, or decoded
        │       └── PgqueUnreadableEvent  an event that is no text in the database's encoding
        ├── PgqueIsolationError         needs a READ COMMITTED transaction
        ├── PgqueMessageNotFound        the message is not one of that batch
        ├── PgqueNormalConsumer         a cooperative call on a consumer that works alone
        ├── PgqueOutOfResources         the server has no disk, memory or locks left
        ├── PgquePermissionDenied       a role of pgque is missing
        ├── PgqueQueueInUse             consumers are still attached to the queue
        ├── PgqueQueueNotFound          no queue of that name
        ├── PgqueReadOnly               the server or the session only reads
        ├── PgqueRetryable              roll back and run the transaction again
        │   └── PgqueBusy               another transaction holds what this one needs
        ├── PgqueSchemaMissing          `pgque install` has not run in this database
        ├── PgqueSchemaNewer            the schema is newer than this client
        ├── PgqueServerTooOld           PostgreSQL 14 or later is needed
        ├── PgqueTickNotFound           no such tick in the history that is kept
        ├── PgqueTickerStopped          the queue is paused or ticked from outside
        └── PgqueTransactionAborted     an earlier statement failed: roll back first

The error of psycopg is always the `__cause__`. Errors are told apart by SQLSTATE, never by text.
"""

# ruff: noqa: N818 (the names say what went wrong, as users match on them)

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Final

import psycopg

if TYPE_CHECKING:
    from pgque.message import Message


class PgqueError(Exception):
    """Base of everything that pgque raises.

    `sqlstate` is the server's five-character code, None where the error arose in the client.
    """

    advice: ClassVar[str] = ""

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class PgqueBatchNotFound(PgqueError):
    """The batch is not open: it was finished or taken over, or never existed (PQ003)."""


class PgqueBatchOpen(PgqueError):
    """The consumer or subconsumer holds a batch, which has to be finished first (PQ012)."""


class PgqueCanceled(PgqueError):
    """The server ended the statement before it was done (57014)."""

    advice = (
        "A statement_timeout was reached, or somebody has canceled it: pg_stat_activity shows what "
        "others hold meanwhile."
    )


class PgqueChangeDenied(PgqueError):
    """A capture trigger with the argument `deny` refused a change to its table (PQ014)."""


class PgqueConnectionError(PgqueError):
    """There is no connection, or it broke: connect again.

    Whether a commit that was under way has happened is unknown.
    """

    advice = "Check that the server runs and that the DSN is right, then connect again."


class PgqueConstraintViolated(PgqueError):
    """A constraint refused what was written, maybe as late as at the commit (class 23).

    It is one of the application's tables: those of pgque have constraints that hold.
    """


class PgqueConsumerNotFound(PgqueError):
    """The consumer is not subscribed to the queue (PQ002)."""


class PgqueCooperativeConsumer(PgqueError):
    """The name belongs to a cooperative group, which has calls of its own (PQ007)."""


class PgqueDeadLetterNotFound(PgqueError):
    """There is no dead letter with that id (PQ005)."""


class PgqueInsertDisallowed(PgqueError):
    """The queue takes no events at present (PQ006)."""


class PgqueInvalidArgument(PgqueError, ValueError):
    """An argument that pgque or PostgreSQL refuses (22023 and the rest of class 22)."""


class PgquePayloadError(PgqueInvalidArgument):
    """A payload that cannot be sent, or one that was received and is not JSON."""


class PgqueUnreadableEvent(PgquePayloadError):
    """An event that was received is no text in the database's encoding.

    `message` is what `nack` takes for it; its payload is None.
    """

    def __init__(self, message: str, *, event: Message) -> None:
        super().__init__(message)
        self.message = event


class PgqueIsolationError(PgqueError):
    """Ticks and maintenance need a READ COMMITTED transaction (PQ013)."""


class PgqueMessageNotFound(PgqueError):
    """The message is not one of the batch that is open (PQ004)."""


class PgqueNormalConsumer(PgqueError):
    """The name belongs to a consumer that works alone (PQ008)."""


class PgqueOutOfResources(PgqueError):
    """The server has no disk, memory or room for locks left (class 53)."""


class PgquePermissionDenied(PgqueError):
    """The database role lacks a right that the call needs (42501)."""

    advice = (
        "Grant the role of pgque that the call needs: pgque_writer to send, pgque_reader to "
        "consume, pgque_admin to manage queues and tick (grant pgque_writer to <user>); or one "
        "queue alone with pgque.grant_queue(role, queue, 'produce' or 'consume'). If row-level "
        "security is named, it is on for a table of pgque: `pgque doctor` names the command."
    )


class PgqueQueueInUse(PgqueError):
    """The queue cannot be dropped: consumers are still attached (PQ009)."""


class PgqueQueueNotFound(PgqueError):
    """There is no queue of that name (PQ001)."""


class PgqueReadOnly(PgqueError):
    """The server or the session only reads (25006)."""

    advice = "Connect to the primary, for example with target_session_attrs=read-write in the DSN."


class PgqueRetryable(PgqueError):
    """Roll back and run this transaction again: the next attempt may well succeed.

    Transactions got in each other's way (40001, 40P01), or the session has lost a prepared
    statement (26000), as DISCARD ALL makes it. Outside of a transaction the client runs a call
    whose statement was lost again by itself.
    """

    advice = "Roll back and run the transaction again."


class PgqueBusy(PgqueRetryable):
    """Another transaction holds what this one needs, such as the consumer's batch (55P03)."""


class PgqueSchemaMissing(PgqueError):
    """The schema pgque, or a part of it that this client needs, is not in the database."""

    advice = "Run `pgque install` on this database: it creates the schema or brings it up to date."


class PgqueSchemaNewer(PgqueError):
    """The schema is newer than this client: upgrade the Python package pgque."""


class PgqueServerTooOld(PgqueError):
    """The server is older than PostgreSQL 14."""


class PgqueTickNotFound(PgqueError):
    """There is no such tick, or it lies before the history that is kept (PQ011)."""


class PgqueTickerStopped(PgqueError):
    """The queue's ticker is paused, or its ticks come from outside (PQ010)."""


class PgqueTransactionAborted(PgqueError):
    """An earlier statement of this transaction failed (25P02)."""

    advice = "Roll back, or roll back to a savepoint, before the next call on this connection."


# A whole SQLSTATE, or the first characters of a family of them: the longest key wins.
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

# What is missing may also be something that a user's own trigger names: no schema, function,
# table or type. These count only where the object named is one of pgque's.
_MISSING_OBJECT: Final = frozenset({"3F000", "42704", "42883", "42P01"})

# A column, or the only meaning of a call, that this client needs and an older schema has not. They
# count only in the client's own statement, not within a function or a trigger.
_UNFIT_OBJECT: Final = frozenset({"42703", "42725", "42809"})

# Where psycopg itself speaks: a connection that is gone, or a value that it cannot send.
_BY_PSYCOPG_CLASS: Final[tuple[tuple[type[psycopg.Error], type[PgqueError]], ...]] = (
    (psycopg.OperationalError, PgqueConnectionError),
    (psycopg.InterfaceError, PgqueConnectionError),
    (psycopg.DataError, PgqueInvalidArgument),
    (psycopg.ProgrammingError, PgqueInvalidArgument),
)


def from_psycopg(error: psycopg.Error) -> PgqueError:
    """Return the error of pgque that stands for one of psycopg; the caller raises it from that."""
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
    """Tell whether a prepared statement failed because the session has not what the client thinks.

    It is gone (26000) or another's (42P05), or its result has another type than it had (0A000).
    """
    if error.sqlstate == "0A000":
        return error.diag.source_function == "RevalidateCachedQuery"
    return error.sqlstate in ("26000", "42P05")


class _Mapping:
    """Raises what goes through it as an error of pgque. It has no state: one object serves all."""

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
"""``with mapped:`` around calls of psycopg maps their errors; it costs next to nothing."""
