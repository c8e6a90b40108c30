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
"""Seconds until an attempt begins anew. Within one, psycopg doubles its pauses up to minutes."""


class ClientPool:
    """Clients on the connections of a psycopg pool.

    ``dsn``                     libpq connection string or URL
    ``min_size``, ``max_size``  connections kept open (1) and open at most (10)
    ``timeout``                 seconds that `client` waits for a free connection (30)
    ``max_waiting``             how many may wait, 0 for any number (0)
    ``max_lifetime``            seconds after which a connection is replaced (3600)
    ``max_idle``                seconds after which a spare connection is closed (600)
    ``check``                   test each connection before it is handed out, which costs a round
                                trip and spares callers the errors after a server's restart (False)
    ``name``                    appears in psycopg's log and thread names
    ``open``                    open at once; else call `open` later (True)

    Opening connects once by itself and so raises what `connect` raises, at once. Behind a pooler no
    statements are prepared. A process that was forked from the one that opened the pool has
    connections of its own, from the first call on.
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
        """By process: a forked child leaves its parent's alone."""
        if open:
            self.open()

    @property
    def pool(self) -> ConnectionPool[psycopg.Connection[Any]]:
        """The psycopg pool of this process, for what pgque has no word for."""
        pool = self._pools.get(os.getpid())
        return self._pool_after_fork() if pool is None else pool

    def _pool_after_fork(self) -> ConnectionPool[psycopg.Connection[Any]]:
        for inherited in list(self._pools.values()):
            # Else deleting it would wait for a lock that a thread of the parent may hold.
            inherited._closed = True
        # No lock of our own, for the same reason: setdefault is atomic.
        pool = self._pools.setdefault(os.getpid(), self._make())
        if self._is_open:
            with mapped:
                pool.open()
        return pool

    def open(self) -> None:
        """Open the pool; do nothing where it is open. Raises what `connect` raises."""
        pool = self.pool
        if not pool.closed:
            return
        connect(self._dsn).close()
        with mapped:
            pool.open()
        self._is_open = True

    @contextmanager
    def client(self, timeout: float | None = None) -> Iterator[PgqueClient]:
        """Lend a client for the length of a ``with`` block, which is one transaction.

        It is committed at the end of the block and rolled back where the block raises. ``timeout``
        are the seconds to wait for a connection, by default the pool's. Do not keep the client
        beyond the block. Raises `PgqueConnectionError` where none becomes free, and at the end of
        the block what the commit raises: `PgqueTransactionAborted` if the block has passed over an
        error of the server, because nothing of it can be committed then.
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
        """Close the pool; connections that are lent out are closed as they come back.

        ``timeout`` are the seconds to wait for the pool's threads.
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
                "Check that the server runs, hold clients for shorter or raise max_size."
            ) from error
        except psycopg.Error as error:
            raise from_psycopg(error) from error

    @staticmethod
    def _undo(conn: psycopg.Connection[Any]) -> None:
        try:
            conn.rollback()
        except psycopg.Error as error:
            # The block's own exception is the one to be seen; a broken connection is not reused.
            logger.warning("could not roll back: %s", error, extra=Fields(error=str(error)))


def _reconnect(pool: ConnectionPool[psycopg.Connection[Any]]) -> None:
    """Begin the next attempt, which is what a pool does when it is asked for a connection."""
    with suppress(PoolTimeout, PoolClosed, TooManyRequests):
        pool.putconn(pool.getconn(timeout=0.001))


def _configure(conn: psycopg.Connection[Any]) -> None:
    settle_for_pooler(conn)
    conn.commit()
