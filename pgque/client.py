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
    """The calls of pgque on a psycopg connection, inside its current transaction.

    ``PgqueClient(conn)`` borrows the application's connection: the events that it sends commit or
    roll back together with the application's own work. `connect` returns a client that owns its
    connection. The client never commits and never rolls back.

    The client checks arguments first and raises for a wrong one before it sends anything. After an
    error of the server, PostgreSQL accepts only a rollback in that transaction. To continue the
    transaction after an error, put the call into ``with client.conn.transaction():``, which is a
    savepoint. Every call may raise `PgqueConnectionError`, `PgquePermissionDenied`,
    `PgqueSchemaMissing`, `PgqueReadOnly` on a standby, `PgqueRetryable` and
    `PgqueTransactionAborted`. Each method lists the other errors that it raises.
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

        ``payload`` is a str, which is sent unchanged; any value that JSON can represent (None
        becomes ``null``); a pydantic model or a dataclass; or an `Event`, which includes its type.
        ``key`` is stored in ``extra1``. ``headers`` are stored in ``extra2`` as a JSON object,
        together with the trace context of the current span, if any. Calls `pgque.send`, or
        `pgque.insert_event` if there is a key, headers or a trace context; needs pgque_writer.
        Raises `PgquePayloadError`, `PgqueQueueNotFound` and `PgqueInsertDisallowed`.
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

        Each payload is anything that `send` takes except an `Event`. Their total size is limited to
        `message.MAX_PAYLOAD_BYTES`. Without payloads the result is an empty list. Calls
        `pgque.send_batch`; needs pgque_writer. Raises `PgquePayloadError`, `PgqueQueueNotFound` and
        `PgqueInsertDisallowed`.
        """
        texts = encode_payloads(payloads)
        return self._sender.send_batch(queue, type, texts)

    # Consume

    def subscribe(self, queue: str, consumer: str) -> int:
        """Subscribe a consumer at the queue's newest tick; return 1, or 0 if it already is.

        The consumer receives every event sent from now on. Calls `pgque.subscribe`; needs
        pgque_reader. Raises `PgqueQueueNotFound` and `PgqueInvalidArgument` for an empty name.
        """
        return int(self._value("select pgque.subscribe(%s::text, %s::text)", (queue, consumer)))

    def unsubscribe(self, queue: str, consumer: str) -> int:
        """End a subscription and delete its retries; return 1, or 0 if there is none.

        Calls `pgque.unsubscribe`; needs pgque_reader. Raises `PgqueQueueNotFound` and
        `PgqueCooperativeConsumer`.
        """
        return int(self._value("select pgque.unsubscribe(%s::text, %s::text)", (queue, consumer)))

    def seek(self, queue: str, consumer: str, to: int | datetime) -> int:
        """Move a consumer to a tick, or to the last tick at or before an aware datetime.

        Returns the id of the consumer's new tick; events after that tick are delivered next. Calls
        `pgque.seek`; needs pgque_reader. Raises `PgqueTickNotFound` outside the retained history,
        `PgqueBatchOpen` while the consumer holds a batch, `PgqueQueueNotFound`,
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

        All have the same ``batch_id``, which `ack` takes. An empty list means that no message is
        ready. Call it in READ COMMITTED, and not in the transaction that sent the events you wait
        for. ``merged`` is meant for a loop: it merges several tick windows into one batch, and if
        another transaction is handling a batch of this consumer, it raises `PgqueBusy` at once
        instead of waiting.

        Calls `pgque.receive` (`pgque.receive_merged`); needs pgque_reader. Raises
        `PgqueQueueNotFound`, `PgqueConsumerNotFound`, `PgqueCooperativeConsumer`,
        `PgqueInvalidArgument` for less than 1 message, and `PgqueUnreadableEvent`, which names an
        event that is not valid text in the database's encoding.
        """
        with mapped:
            return read(ask(self.conn, queue, consumer, max_messages, merged=merged))

    def ack(self, batch_id: int) -> int:
        """Finish a batch: its messages are never delivered to this consumer again.

        Returns 1, or 0 if the batch is not open because it was finished or taken over. If it
        returns 0, roll back the work done for the batch. Calls `pgque.ack`; needs pgque_reader.
        """
        return int(self._value("select pgque.ack(%s::bigint)", (batch_id,)))

    def nack(
        self,
        batch_id: int,
        msg: Message,
        retry_after: timedelta | float = 60,
        reason: str | None = None,
    ) -> None:
        """Refuse one message of the open batch. The batch must still be acked.

        The message is delivered to this consumer again after ``retry_after`` (seconds or a
        timedelta). Once it has reached the queue's ``max_retries``, it becomes a dead letter with
        ``reason`` instead. The first 10,000 characters of ``reason`` are kept; characters that the
        database cannot store are escaped. Calls `pgque.nack`; needs pgque_reader. Raises
        `PgqueBatchNotFound`, `PgqueMessageNotFound`, `PgqueInvalidArgument`.
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
        """Refuse several messages of the open batch in one call, all or none; return their number.

        ``reasons`` has one reason per message, each as for `nack`; None means no reasons. Calls
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
        """Add a member to a cooperative group; return 1, or 0 if it already is one.

        The group is created if it does not exist. ``convert_normal`` turns a normal consumer into a
        group. Calls `pgque.subscribe_subconsumer`; needs pgque_reader. Raises `PgqueQueueNotFound`,
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
        """Remove a member from its group; return 1, or 0 if it is not a member.

        If the member holds a batch, ``batch_handling`` 0 raises `PgqueBatchOpen`, and 1 nacks the
        batch's messages first. Calls `pgque.unsubscribe_subconsumer`; needs pgque_reader. Raises
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
        """Return messages for one member of a group; create the group or member if missing.

        A member that holds a batch receives it again. With ``dead_interval`` (seconds or a
        timedelta) the member may take over the batch of a sibling that has not been seen for that
        long; the batch then gets a new ``batch_id``. Commit before you handle the messages:
        until then the siblings wait. ``merged`` merges several tick windows into one batch, see
        `receive`.

        Calls `pgque.receive_coop` (`pgque.receive_coop_merged`); needs pgque_reader. Raises
        `PgqueQueueNotFound`, `PgqueNormalConsumer`, `PgqueInvalidArgument`.
        """
        dead = None if dead_interval is None else to_interval(dead_interval, "dead_interval")
        group = (queue, consumer, subconsumer)
        with mapped:
            return read(ask_as_member(self.conn, *group, max_messages, dead, merged=merged))

    def touch_subconsumer(self, queue: str, consumer: str, subconsumer: str) -> int:
        """Give a sign of life, so that no sibling takes over the member's batch.

        Returns the number of rows updated. Calls `pgque.touch_subconsumer`; needs pgque_reader.
        Raises `PgqueQueueNotFound` and `PgqueConsumerNotFound`.
        """
        return int(
            self._value(
                "select pgque.touch_subconsumer(%s::text, %s::text, %s::text)",
                (queue, consumer, subconsumer),
            )
        )

    # The connection

    def close(self) -> None:
        """Close the connection if this client opened it; leave a borrowed one open.

        Closing rolls back an open transaction: commit first, with ``client.conn.commit()``.
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
                "the block ends with an uncommitted transaction, which is rolled back: "
                "call client.conn.commit() first, or connect with autocommit=True",
                RuntimeWarning,
                stacklevel=2,
            )
        self.close()

    def _has_written(self) -> bool:
        """Tell whether closing the connection now would lose writes."""
        if self._process != os.getpid():
            return False
        if self._conn.info.transaction_status != TransactionStatus.INTRANS:
            return False
        try:
            return bool(self._value("select pg_current_xact_id_if_assigned() is not null"))
        except PgqueError:  # the connection is broken, so its transaction is already lost
            return False


def connect(dsn: str, *, autocommit: bool = False) -> PgqueClient:
    """Connect to a database and return a client that owns the connection.

    ``dsn`` is a libpq connection string or URL. Without ``autocommit`` the first call begins a
    transaction, and ``client.conn.commit()`` commits it. Leaving ``with connect(dsn) as client:``
    closes the connection and does not commit. Behind a pooler no statements are prepared. Unless
    the DSN says otherwise, connecting times out after 5 s, and a dead network is detected within
    about 10 s.

    Raises `PgqueConnectionError` if no server answers, `PgqueServerTooOld` before PostgreSQL 14,
    `PgqueSchemaMissing`, `PgqueSchemaNewer`, `PgquePermissionDenied` for a user without any of
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
    """Open an autocommit connection of the given class, with the same checks as `connect`."""
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
    """Raise a specific error if this client cannot work with the server or its schema."""
    version = conn.info.server_version
    if version < OLDEST_SERVER * 10_000:
        raise PgqueServerTooOld(
            f"the server is PostgreSQL {version // 10_000}, "
            f"pgque needs {OLDEST_SERVER} or later: upgrade the server"
        )
    check_schema(conn)
