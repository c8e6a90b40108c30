"""A pool of connections for applications that send or manage from many threads."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from pgque.client import PgqueClient, connect
from pgque.errors import PgqueConnectionError, from_psycopg, mapped
from pgque.logs import Fields
from pgque.wire.calls import connection_defaults, settle_for_pooler
from pgque.wire.connections import OwnConnection

logger = logging.getLogger("pgque.pool")

RECONNECT_FOR = 1.0
"""Seconds until a new attempt begins. Within one attempt, psycopg's pauses grow up to minutes."""


class ClientPool:
    """Clients on the connections of a psycopg pool.

    ``dsn``                     libpq connection string or URL
    ``min_size``, ``max_size``  minimum (1) and maximum (10) number of open connections
    ``timeout``                 seconds that `client` waits for a free connection (30)
    ``max_waiting``             maximum number of waiting callers, 0 for no limit (0)
    ``max_lifetime``            seconds after which a connection is replaced (3600)
    ``max_idle``                seconds after which a spare connection is closed (600)
    ``check``                   test each connection before lending it: costs a round trip, and
                                avoids errors after a restart of the server (False)
    ``name``                    appears in psycopg's log and thread names
    ``open``                    open at once; else call `open` later (True)

    Opening the pool first makes a test connection, so it raises the same errors as `connect`.
    Behind a pooler no statements are prepared. A forked child process gets its own connections with
    its first call.
    """

    def __init__(
        self,
        dsn: str,
        *,
        min_size: int = 1,
        max_size: int = 10,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 3600.0,
        max_idle: float = 600.0,
        check: bool = False,
        name: str | None = None,
        open: bool = True,  # noqa: A002
    ) -> None:
        self._dsn = dsn
        self._make = partial(
            ConnectionPool[psycopg.Connection[Any]],
            dsn,
            connection_class=OwnConnection,
            kwargs=connection_defaults(dsn),
            min_size=min_size,
            max_size=max_size,
            timeout=timeout,
            max_waiting=max_waiting,
            max_lifetime=max_lifetime,
            max_idle=max_idle,
            configure=_configure,
            reconnect_timeout=RECONNECT_FOR,
            reconnect_failed=_reconnect,
            check=ConnectionPool.check_connection if check else None,
            name=name,
            open=False,
        )
        self._is_open = False
        self._pools = {os.getpid(): self._make()}
        """By process id: a forked child does not touch its parent's pool."""
        if open:
            self.open()

    @property
    def pool(self) -> ConnectionPool[psycopg.Connection[Any]]:
        """The psycopg pool of this process, for calls that pgque does not wrap."""
        pool = self._pools.get(os.getpid())
        return self._pool_after_fork() if pool is None else pool

    def _pool_after_fork(self) -> ConnectionPool[psycopg.Connection[Any]]:
        for inherited in list(self._pools.values()):
            # Otherwise its destructor would wait for a lock that a thread of the parent may hold.
            inherited._closed = True
        # No lock here for the same reason; setdefault is atomic.
        pool = self._pools.setdefault(os.getpid(), self._make())
        if self._is_open:
            with mapped:
                pool.open()
        return pool

    def open(self) -> None:
        """Open the pool; do nothing if it is open. Raises the same errors as `connect`."""
        pool = self.pool
        if not pool.closed:
            return
        connect(self._dsn).close()
        with mapped:
            pool.open()
        self._is_open = True

    @contextmanager
    def client(self, timeout: float | None = None) -> Iterator[PgqueClient]:
        """Lend a client for a ``with`` block, which is one transaction.

        The transaction is committed at the end of the block, and rolled back if the block raises.
        ``timeout`` is the time to wait for a connection in seconds, by default the pool's. Do not
        keep the client beyond the block. Raises `PgqueConnectionError` if no connection becomes
        free. At the end of the block the commit may raise, for example `PgqueTransactionAborted` if
        the block ignored an error of the server.
        """
        pool, owner = self.pool, os.getpid()
        conn = self._borrow(pool, timeout)
        try:
            client = PgqueClient(conn)
            yield client
            with mapped:
                client.conn.commit()
        except BaseException:
            if os.getpid() == owner:
                self._undo(conn)
            raise
        finally:
            if os.getpid() == owner:
                pool.putconn(conn)

    def close(self, timeout: float = 5.0) -> None:
        """Close the pool; connections in use are closed when they are returned.

        ``timeout`` is the time to wait for the pool's threads in seconds.
        """
        self._is_open = False
        if pool := self._pools.get(os.getpid()):
            pool.close(timeout)

    def __enter__(self) -> ClientPool:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @staticmethod
    def _borrow(
        pool: ConnectionPool[psycopg.Connection[Any]], timeout: float | None
    ) -> psycopg.Connection[Any]:
        try:
            return pool.getconn(timeout)
        except (PoolTimeout, TooManyRequests) as error:
            raise PgqueConnectionError(
                f"no connection of the pool became free: {error}\n"
                "Check that the server runs, hold clients for a shorter time or raise max_size."
            ) from error
        except psycopg.Error as error:
            raise from_psycopg(error) from error

    @staticmethod
    def _undo(conn: psycopg.Connection[Any]) -> None:
        try:
            conn.rollback()
        except psycopg.Error as error:
            # Do not hide the block's exception. The pool does not reuse a broken connection.
            logger.warning("could not roll back: %s", error, extra=Fields(error=str(error)))


def _reconnect(pool: ConnectionPool[psycopg.Connection[Any]]) -> None:
    """Start the next attempt: asking a pool for a connection does that."""
    with suppress(PoolTimeout, PoolClosed, TooManyRequests):
        pool.putconn(pool.getconn(timeout=0.001))


def _configure(conn: psycopg.Connection[Any]) -> None:
    settle_for_pooler(conn)
    conn.commit()
