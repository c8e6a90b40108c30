"""LISTEN on a separate connection. Correctness depends on polling, never on notifications.

A notification only hints that polling now is worthwhile. Behind a pooler in transaction mode no
notification arrives, and a session cannot keep a lock. `Wakeup.pooled` tells callers to poll.
"""

from __future__ import annotations

import logging
import selectors
import socket
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType

import psycopg
from psycopg import sql

from pgque.errors import mapped
from pgque.wire.calls import connection_defaults, settle_for_pooler
from pgque.wire.connections import OwnConnection

logger = logging.getLogger("pgque.wakeup")

_said: set[str] = set()


def say_that_it_polls(dsn: str) -> None:
    """Warn that a DSN leads through a pooler, once per process."""
    if dsn not in _said:
        _said.add(dsn)
        logger.warning(
            "the connection goes through a pooler, where LISTEN does not work: pgque polls. "
            "Give tickers and consumers a direct connection for immediate wakeups"
        )


def queue_channel(queue: str) -> str:
    """Return the channel that announces each tick of a queue, with the tick id as payload."""
    return f"pgque_{queue}"


class Wakeup:
    """An autocommit connection that listens.

    :param dsn: libpq connection string.
    :param channels: the channels to listen to.
    :raises PgqueConnectionError: if no server answers.
    """

    def __init__(self, dsn: str, channels: Iterable[str]) -> None:
        with mapped:
            self.conn = OwnConnection.connect(dsn, autocommit=True, **connection_defaults(dsn))
        self._heard: set[str] = set()
        self._selector = selectors.DefaultSelector()
        self._bell, self._ear = socket.socketpair()
        try:
            with mapped:
                self.pooled = settle_for_pooler(self.conn)
                self.conn.add_notify_handler(self._hear)
                for channel in channels:
                    self.listen(channel)
            for end in (self._bell, self._ear):
                end.setblocking(False)
            self._selector.register(self.conn, selectors.EVENT_READ)
            self._selector.register(self._ear, selectors.EVENT_READ)
        except BaseException:
            self.close()
            raise

    def listen(self, channel: str) -> None:
        """Listen to one more channel; do nothing behind a pooler."""
        if not self.pooled:
            self.conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))

    def _hear(self, notification: psycopg.Notify) -> None:
        self._heard.add(notification.channel)

    def wait(self, timeout: float) -> set[str]:
        """Wait up to `timeout` seconds; return the notified channels, possibly none.

        :raises PgqueConnectionError: if the connection broke.
        """
        # Not conn.notifies(), which wakes up ten times a second.
        if not self._heard and self._selector.select(timeout):
            with mapped:
                self._read()
        heard, self._heard = self._heard, set()
        return heard

    def ring(self) -> None:
        """Make `wait` return at once. May be called from any thread."""
        with suppress(OSError):  # closed, or the buffer is full, so `wait` returns anyway
            self._bell.send(b"!")

    def _read(self) -> None:
        with suppress(BlockingIOError):
            self._ear.recv(4096)
        pgconn = self.conn.pgconn
        pgconn.consume_input()
        while notification := pgconn.notifies():
            self._heard.add(notification.relname.decode())

    def close(self) -> None:
        """Close the connection."""
        self._selector.close()
        self._bell.close()
        self._ear.close()
        self.conn.close()

    def __enter__(self) -> Wakeup:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
