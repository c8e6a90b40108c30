"""The client: one method per call of the SQL API, on a psycopg connection."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from pgque._management import Management
from pgque._sender import Sender
from pgque.errors import PgqueError, PgqueInvalidArgument, PgqueServerTooOld, mapped
from pgque.install import OLDEST_SERVER, check_schema
from pgque.message import (
    Event,
    Message,
    encode_payload,
    encode_payloads,
)
from pgque.wire.calls import (
    connection_defaults,
    server_encoding,
    settle_for_pooler,
    to_interval,
)
from pgque.wire.connections import OwnConnection
from pgque.wire.failures import printable
from pgque.wire.receiving import ask, ask_as_member, read

C = TypeVar("C", bound=psycopg.Connection[Any])


class PgqueClient(Management):
    """Calls of pgque on a psycopg connection, in whatever transaction that is in.

    ``PgqueClient(conn)`` borrows the application's connection, so that what it sends commits or
    rolls back with the application's own work. `connect` makes a client with a connection of its
    own. The client never commits and never rolls back.

    Arguments that are found to be wrong in the client raise before anything is sent. After an error
    of the server PostgreSQL lets nothing but a rollback happen in that transaction; where the
    transaction is to go on, put the call into ``with client.conn.transaction():``, which is a
    savepoint. Every call may raise `PgqueConnectionError`, `PgquePermissionDenied`,
    `PgqueSchemaMissing`, `PgqueReadOnly` on a standby, `PgqueRetryable` and
    `PgqueTransactionAborted`; a method names what else it raises.
    """

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        super().__init__(conn)
        self._owns_connection = False
        self._sender = Sender(conn)

    # Produce

    def send(
        self,
        queue: str,
        payload: Any = None,
        *,
        type: str = "default",  # noqa: A002
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> int:
        """Send one event in the connection's transaction; return its id.

        ``payload`` is a str, sent as it is, anything that JSON can hold (None is ``null``), a
        pydantic model or a dataclass, or an `Event`, which brings its own type. ``key`` goes to
        ``extra1`` and ``headers``, as a JSON object, to ``extra2``, with the trace context beside
        them where there is one. Calls `pgque.send`, or `pgque.insert_event` with any of these;
        needs pgque_writer. Raises `PgquePayloadError`, `PgqueQueueNotFound` and
        `PgqueInsertDisallowed`.
        """
        if isinstance(payload, Event):
            if type not in ("default", payload.type):
                raise PgqueInvalidArgument(
                    f"the event has type {payload.type!r}, send() was given {type!r}: leave one out"
                )
            type, payload = payload.type, payload.payload  # noqa: A001
        text = encode_payload(payload)
        return self._sender.send(queue, type, text, key, headers)

    def send_batch(self, queue: str, type: str, payloads: Iterable[Any]) -> list[int]:  # noqa: A002
        """Send many payloads of one type in one call; return their ids in the same order.

        Each payload is what `send` takes; all together may have `message.MAX_PAYLOAD_BYTES`. No
        payloads make an empty list. Calls `pgque.send_batch`; needs pgque_writer. Raises
        `PgquePayloadError`, `PgqueQueueNotFound` and `PgqueInsertDisallowed`.
        """
        texts = encode_payloads(payloads)
        return self._sender.send_batch(queue, type, texts)

    # Consume

    def subscribe(self, queue: str, consumer: str) -> int:
        """Subscribe a consumer at the queue's newest tick: 1, or 0 where it is subscribed.

        What is sent afterwards is delivered to it. Calls `pgque.subscribe`; needs pgque_reader.
        Raises `PgqueQueueNotFound` and `PgqueInvalidArgument` for an empty name.
        """
        return int(self._value("select pgque.subscribe(%s::text, %s::text)", (queue, consumer)))

    def unsubscribe(self, queue: str, consumer: str) -> int:
        """End a subscription and forget its retries: 1, or 0 where there is none.

        Calls `pgque.unsubscribe`; needs pgque_reader. Raises `PgqueQueueNotFound` and
        `PgqueCooperativeConsumer`.
        """
        return int(self._value("select pgque.unsubscribe(%s::text, %s::text)", (queue, consumer)))

    def seek(self, queue: str, consumer: str, to: int | datetime) -> int:
        """Move a consumer to a tick, or to the last tick at or before an aware datetime.

        Returns the id of the tick where it now stands: what came after it is delivered next. Calls
        `pgque.seek`; needs pgque_reader. Raises `PgqueTickNotFound` outside the history that is
        kept, `PgqueBatchOpen` while the consumer holds a batch, `PgqueQueueNotFound`,
        `PgqueConsumerNotFound`, `PgqueInvalidArgument` for a naive datetime.
        """
        if isinstance(to, datetime):
            if to.tzinfo is None:
                raise PgqueInvalidArgument(f"seek needs an aware datetime, {to} has no time zone")
            query = "select pgque.seek(%s::text, %s::text, %s::timestamptz)"
        else:
            query = "select pgque.seek(%s::text, %s::text, %s::bigint)"
        return int(self._value(query, (queue, consumer, to)))

    def receive(
        self, queue: str, consumer: str, max_messages: int = 100, *, merged: bool = False
    ) -> list[Message]:
        """Return the next messages, at most ``max_messages``, or those of the open batch again.

        All have the same ``batch_id``, which `ack` takes; an empty list means that nothing is
        ready. Call it in READ COMMITTED and in a transaction that has not sent what it waits for.
        ``merged`` is for a loop: it takes several tick windows as one batch, and raises `PgqueBusy`
        at once where another transaction handles a batch of this consumer, rather than wait.

        Calls `pgque.receive` (`pgque.receive_merged`); needs pgque_reader. Raises
        `PgqueQueueNotFound`, `PgqueConsumerNotFound`, `PgqueCooperativeConsumer`,
        `PgqueInvalidArgument` for less than 1 message, and `PgqueUnreadableEvent`, which names an
        event that is no text in the database's encoding.
        """
        with mapped:
            return read(ask(self.conn, queue, consumer, max_messages, merged=merged))

    def ack(self, batch_id: int) -> int:
        """Finish a batch: what it returned is never delivered to this consumer again.

        Returns 1; 0 where the batch is not open, because it was finished or taken over: then undo
        what was done for it. Calls `pgque.ack`; needs pgque_reader.
        """
        return int(self._value("select pgque.ack(%s::bigint)", (batch_id,)))

    def nack(
        self,
        batch_id: int,
        msg: Message,
        retry_after: timedelta | float = 60,
        reason: str | None = None,
    ) -> None:
        """Refuse one message of the open batch. The batch still has to be acked.

        The message comes back to this consumer after ``retry_after`` (seconds or a timedelta), or,
        at the queue's ``max_retries``, becomes a dead letter with ``reason``. Of that 10,000
        characters are kept, and those that the database cannot store are escaped. Calls
        `pgque.nack`; needs pgque_reader. Raises `PgqueBatchNotFound`, `PgqueMessageNotFound`,
        `PgqueInvalidArgument`.
        """
        self._value(
            "select pgque.nack(%s::bigint, row(%s::bigint, %s::bigint, null, null, null, null, "
            "null, null, null, null)::pgque.message, %s::interval, %s::text)",
            (
                batch_id,
                msg.msg_id,
                batch_id,
                to_interval(retry_after, "retry_after"),
                self._reason(reason),
            ),
        )

    def nack_many(
        self,
        batch_id: int,
        messages: Sequence[Message],
        retry_after: timedelta | float = 60,
        reasons: Sequence[str | None] | None = None,
    ) -> int:
        """Refuse several messages of the open batch in one call, all or none: how many.

        ``reasons`` are as many as ``messages``, each as `nack` takes it; None is no reasons. Calls
        `pgque.nack_many`; needs pgque_reader. Raises `PgqueBatchNotFound`, `PgqueMessageNotFound`,
        `PgqueInvalidArgument`.
        """
        if reasons is not None:
            reasons = list(map(self._reason, reasons))
        return int(
            self._value(
                "select pgque.nack_many(%s::bigint, %b::bigint[], %s::interval, %s::text[])",
                (
                    batch_id,
                    [message.msg_id for message in messages],
                    to_interval(retry_after, "retry_after"),
                    reasons,
                ),
            )
        )

    def _reason(self, reason: str | None) -> str | None:
        if reason is None:
            return None
        if not isinstance(reason, str):
            raise PgqueInvalidArgument(f"reason must be a str, not {type(reason).__name__}")
        return printable(reason, server_encoding(self._conn))

    # Cooperative consumers

    def subscribe_subconsumer(
        self, queue: str, consumer: str, subconsumer: str, *, convert_normal: bool = False
    ) -> int:
        """Add a member to a cooperative group, which is made where it is missing: 1 or 0.

        ``convert_normal`` makes a group of a consumer that worked alone. Calls
        `pgque.subscribe_subconsumer`; needs pgque_reader. Raises `PgqueQueueNotFound`,
        `PgqueNormalConsumer`, and `PgqueInvalidArgument` for a name that is empty or has a dot.
        """
        return int(
            self._value(
                "select pgque.subscribe_subconsumer(%s::text, %s::text, %s::text, %s::boolean)",
                (queue, consumer, subconsumer, bool(convert_normal)),
            )
        )

    def unsubscribe_subconsumer(
        self, queue: str, consumer: str, subconsumer: str, *, batch_handling: int = 0
    ) -> int:
        """Remove a member from its group: 1, or 0 where it is not one.

        ``batch_handling`` 0 refuses (`PgqueBatchOpen`) while it holds a batch; 1 first nacks its
        messages. Calls `pgque.unsubscribe_subconsumer`; needs pgque_reader. Raises
        `PgqueQueueNotFound`, `PgqueConsumerNotFound`, `PgqueInvalidArgument`.
        """
        return int(
            self._value(
                "select pgque.unsubscribe_subconsumer(%s::text, %s::text, %s::text, %s::int)",
                (queue, consumer, subconsumer, batch_handling),
            )
        )

    def receive_coop(
        self,
        queue: str,
        consumer: str,
        subconsumer: str,
        *,
        max_messages: int = 100,
        dead_interval: timedelta | float | None = None,
        merged: bool = False,
    ) -> list[Message]:
        """Return messages for one member of a group, which is made where it is missing.

        A member that holds a batch is given it again. With ``dead_interval`` (seconds or a
        timedelta) it may take over the batch of a sibling that was not seen for that long, under a
        new ``batch_id``. Commit before handling them, so that the siblings can go on. ``merged``
        takes several tick windows as one batch, as in `receive`.

        Calls `pgque.receive_coop` (`pgque.receive_coop_merged`); needs pgque_reader. Raises
        `PgqueQueueNotFound`, `PgqueNormalConsumer`, `PgqueInvalidArgument`.
        """
        dead = None if dead_interval is None else to_interval(dead_interval, "dead_interval")
        group = (queue, consumer, subconsumer)
        with mapped:
            return read(ask_as_member(self.conn, *group, max_messages, dead, merged=merged))

    def touch_subconsumer(self, queue: str, consumer: str, subconsumer: str) -> int:
        """Give a sign of life, so that nobody takes over the member's batch: rows touched.

        Calls `pgque.touch_subconsumer`; needs pgque_reader. Raises `PgqueQueueNotFound` and
        `PgqueConsumerNotFound`.
        """
        return int(
            self._value(
                "select pgque.touch_subconsumer(%s::text, %s::text, %s::text)",
                (queue, consumer, subconsumer),
            )
        )

    # The connection

    def close(self) -> None:
        """Close the connection if this client made it; do nothing to a borrowed one.

        An open transaction is thereby undone: commit first, with ``client.conn.commit()``.
        """
        if self._owns_connection:
            self._conn.close()

    def __enter__(self) -> PgqueClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None and self._owns_connection and self._has_written():
            warnings.warn(
                "the block ends with an uncommitted transaction, which is undone: "
                "call client.conn.commit() before, or connect with autocommit=True",
                RuntimeWarning,
                stacklevel=2,
            )
        self.close()

    def _has_written(self) -> bool:
        """Tell whether closing the connection now loses something."""
        if self._process != os.getpid():
            return False
        if self._conn.info.transaction_status != TransactionStatus.INTRANS:
            return False
        try:
            return bool(self._value("select pg_current_xact_id_if_assigned() is not null"))
        except PgqueError:  # the connection is broken: closing it loses nothing more
            return False


def connect(dsn: str, *, autocommit: bool = False) -> PgqueClient:
    """Connect to a database and return a client that owns the connection.

    ``dsn`` is a libpq connection string or URL. Without ``autocommit`` the first call begins a
    transaction, which ``client.conn.commit()`` commits; leaving ``with connect(dsn) as client:``
    closes the connection and does not commit. Behind a pooler no statements are prepared.
    Unless the DSN says otherwise, connecting may take 5 s, and a network that is silent is noticed
    within about ten.

    Raises `PgqueConnectionError` where no server answers, `PgqueServerTooOld` before PostgreSQL 14,
    `PgqueSchemaMissing`, `PgqueSchemaNewer`, `PgquePermissionDenied` for a role without any of
    pgque's roles, `PgqueInvalidArgument` for a malformed DSN.
    """
    client = PgqueClient(open_connection(OwnConnection, dsn))
    client._owns_connection = True
    try:
        with mapped:
            client.conn.autocommit = autocommit
    except BaseException:
        client.close()
        raise
    return client


def open_connection(kind: type[C], dsn: str) -> C:
    """Return an autocommit connection of a class, checked as `connect` does it."""
    with mapped:
        conn = kind.connect(dsn, autocommit=True, **connection_defaults(dsn))
    try:
        settle_for_pooler(conn)
        check_connection(conn)
    except BaseException:
        conn.close()
        raise
    return conn


def check_connection(conn: psycopg.Connection[Any]) -> None:
    """Raise the named error where this client cannot work with the server or its schema."""
    version = conn.info.server_version
    if version < OLDEST_SERVER * 10_000:
        raise PgqueServerTooOld(
            f"the server is PostgreSQL {version // 10_000}, "
            f"pgque needs {OLDEST_SERVER} or later: upgrade the server"
        )
    check_schema(conn)
