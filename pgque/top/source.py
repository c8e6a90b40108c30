"""The database behind `pgque top`, over connections that are reopened after a loss."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import psycopg

from pgque.client import PgqueClient, connect
from pgque.errors import PgqueConnectionError
from pgque.watching.browse import Browser
from pgque.watching.live import Live, Sample

T = TypeVar("T")


class Source:
    """Takes samples, reads lists and makes changes. Any call may block: make it in a thread.

    One connection takes samples and another reads lists. Each change opens its own.

    :param dsn: libpq connection string. The role needs pgque_reader, also pgque_writer to replay
        and pgque_admin to purge.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._figures = _Connection(dsn)
        self._lists = _Connection(dsn)
        self._live: tuple[PgqueClient, Live] | None = None
        self.where = ""
        """The names of the database and its server, once connected."""

    def look(self) -> Sample:
        """Take a sample. The first one on each connection has no rates.

        :raises PgqueError: if a query fails. The next call reconnects.
        """
        return self._figures.use(self._look)

    def _look(self, client: PgqueClient) -> Sample:
        if self._live is None or self._live[0] is not client:
            self._live = (client, Live(client.conn))
            self.where = _where(client.conn)
        return self._live[1].look()

    def browse(self, ask: Callable[[Browser], T]) -> T:
        """Return the result of ``ask``, called with a browser.

        :raises PgqueError: if a query fails. The next call reconnects.
        """
        return self._lists.use(lambda client: ask(Browser(client.conn)))

    def change(self, change: Callable[[PgqueClient], T]) -> T:
        """Make a change on a new connection.

        :raises PgqueError: whatever the change raises.
        """
        with connect(self._dsn, autocommit=True) as client:
            return change(client)

    def close(self) -> None:
        """Break the connections. A call that is waiting on one raises an error."""
        self._figures.close()
        self._lists.close()


class _Connection:
    """A connection for one call at a time."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._lock = threading.Lock()
        self._client: PgqueClient | None = None
        self._closed = False

    def use(self, ask: Callable[[PgqueClient], T]) -> T:
        with self._lock:
            if self._closed:
                raise PgqueConnectionError("the connection was closed")
            if self._client is None:
                self._client = connect(self._dsn, autocommit=True)
            try:
                return ask(self._client)
            except PgqueConnectionError:
                self._end()
                raise
            finally:
                if self._closed:
                    self._end()

    def _end(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def close(self) -> None:
        self._closed = True
        client = self._client
        if client is not None:
            # A thread may be waiting for the server on this connection. Shutting down the socket
            # wakes it up; close() would not.
            with (
                suppress(psycopg.Error, OSError),
                socket.socket(fileno=os.dup(client.conn.fileno())) as way,
            ):
                way.shutdown(socket.SHUT_RDWR)
        if self._lock.acquire(blocking=False):  # otherwise the thread in `use` closes it
            try:
                self._end()
            finally:
                self._lock.release()


def _where(conn: psycopg.Connection[object]) -> str:
    host = conn.info.host
    return f"{conn.info.dbname} on {'this machine' if not host or host[0] in '/@' else host}"
