"""LISTEN on a connection of its own, with polling as the truth.

A notification is a hint: it says that a look is worth while. Behind a pooler in transaction mode
none arrives and a session cannot keep a lock; `Wakeup.pooled` says so, and callers poll.
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
    """Warn that there is a pooler on this way to the server, the first time in this process."""
    if dsn not in _said:
        _said.add(dsn)
        logger.warning(
            "a pooler stands before the server, and LISTEN cannot work through one: pgque polls. "
            "Give tickers and consumers a direct connection to be woken at once"
        )


def queue_channel(queue: str) -> str:
    """The channel on which every tick of a queue is announced, with the tick id as payload."""
    return f"pgque_{queue}"


class Wakeup:
    """An autocommit connection that listens.

    :param dsn: where to connect, a libpq connection string.
    :param channels: what to listen to.
    :raises PgqueConnectionError: where there is no server to connect to.
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
        """Listen to one more channel, unless there is a pooler."""
        if not self.pooled:
            self.conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))

    def _hear(self, notification: psycopg.Notify) -> None:
        self._heard.add(notification.channel)

    def wait(self, timeout: float) -> set[str]:
        """Wait up to `timeout` seconds: the channels that were notified, maybe none.

        :raises PgqueConnectionError: where the connection broke.
        """
        # Not conn.notifies(), which looks up ten times a second.
        if not self._heard and self._selector.select(timeout):
            with mapped:
                self._read()
        heard, self._heard = self._heard, set()
        return heard

    def ring(self) -> None:
        """Let `wait` return at once. May be called from any thread."""
        with suppress(OSError):  # closed, or rung so often that one more is no news
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
