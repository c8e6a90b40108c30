"""A pool of connections for applications that send or manage from many threads."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from pgque.calls import connection_defaults, settle_for_pooler
from pgque.client import PgqueClient, connect
from pgque.errors import PgqueConnectionError, from_psycopg, mapped
from pgque.logs import Fields

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
    ``open``                    open at once; else call `open` later, as after a fork (True)

    Opening connects once by itself and so raises what `connect` raises, at once. Behind a pooler no
    statements are prepared.
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
        self._pool: ConnectionPool[psycopg.Connection[Any]] = ConnectionPool(
            dsn,
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
        if open:
            self.open()

    @property
    def pool(self) -> ConnectionPool[psycopg.Connection[Any]]:
        """The psycopg pool, for its statistics and for what pgque has no word for."""
        return self._pool

    def open(self) -> None:
        """Open the pool; do nothing where it is open. Raises what `connect` raises."""
        if not self._pool.closed:
            return
        connect(self._dsn).close()
        with mapped:
            self._pool.open()

    @contextmanager
    def client(self, timeout: float | None = None) -> Iterator[PgqueClient]:
        """Lend a client for the length of a ``with`` block, which is one transaction.

        It is committed at the end of the block and rolled back where the block raises. ``timeout``
        are the seconds to wait for a connection, by default the pool's. Do not keep the client
        beyond the block. Raises `PgqueConnectionError` where none becomes free, and at the end of
        the block what the commit raises.
        """
        conn = self._borrow(timeout)
        try:
            try:
                yield PgqueClient(conn)
            except BaseException:
                self._undo(conn)
                raise
            with mapped:
                conn.commit()
        finally:
            self._pool.putconn(conn)

    def close(self, timeout: float = 5.0) -> None:
        """Close the pool; connections that are lent out are closed as they come back.

        ``timeout`` are the seconds to wait for the pool's threads.
        """
        self._pool.close(timeout)

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

    def _borrow(self, timeout: float | None) -> psycopg.Connection[Any]:
        try:
            return self._pool.getconn(timeout)
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
