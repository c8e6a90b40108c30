"""The database that `pgque top` looks at: connections that are made again when they are gone."""

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
    """Samples, lists and changes. Every call may take long: make it in a thread.

    One connection takes the samples and another reads the lists; each change has one of its own.

    :param dsn: libpq connection string; the role needs pgque_reader, pgque_writer to replay and
        pgque_admin to purge.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._figures = _Line(dsn)
        self._lists = _Line(dsn)
        self._live: tuple[PgqueClient, Live] | None = None
        self.where = ""
        """The database and its server, once there was a connection."""

    def look(self) -> Sample:
        """Take a sample; without rates after each new connection.

        :raises PgqueError: where the database cannot be asked. The next call connects anew.
        """
        return self._figures.use(self._look)

    def _look(self, client: PgqueClient) -> Sample:
        if self._live is None or self._live[0] is not client:
            self._live = (client, Live(client.conn))
            self.where = _where(client.conn)
        return self._live[1].look()

    def browse(self, ask: Callable[[Browser], T]) -> T:
        """Return what a question to the browser gives.

        :raises PgqueError: where the database cannot be asked. The next call connects anew.
        """
        return self._lists.use(lambda client: ask(Browser(client.conn)))

    def change(self, change: Callable[[PgqueClient], T]) -> T:
        """Change something once, on a connection of its own.

        :raises PgqueError: whatever the change raises.
        """
        with connect(self._dsn, autocommit=True) as client:
            return change(client)

    def close(self) -> None:
        """Break the connections, also under a call that waits: it raises then."""
        self._figures.close()
        self._lists.close()


class _Line:
    """One connection, for one call at a time."""

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
            # A thread that waits for the server holds the connection: it wakes up when the way
            # there ends, which close() would not tell it.
            with (
                suppress(psycopg.Error, OSError),
                socket.socket(fileno=os.dup(client.conn.fileno())) as way,
            ):
                way.shutdown(socket.SHUT_RDWR)
        if self._lock.acquire(blocking=False):  # else its thread ends it
            try:
                self._end()
            finally:
                self._lock.release()


def _where(conn: psycopg.Connection[object]) -> str:
    host = conn.info.host
    return f"{conn.info.dbname} on {'this machine' if not host or host[0] in '/@' else host}"
